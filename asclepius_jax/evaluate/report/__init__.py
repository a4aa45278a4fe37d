"""The report of an evaluation, on a page."""
