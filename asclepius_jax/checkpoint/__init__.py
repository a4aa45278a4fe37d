"""What a run saves, and the reading of it."""
