"""A fact of a text against its source."""
