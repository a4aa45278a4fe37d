"""Checks of the atoms of a text against its source."""
