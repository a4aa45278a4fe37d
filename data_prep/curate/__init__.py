"""Finished folders: split, checked, compared, published."""
