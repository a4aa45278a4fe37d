"""Output folders: their place, their lock and the work in progress on them."""
