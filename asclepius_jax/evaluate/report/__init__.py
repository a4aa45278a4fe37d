"""Report of an evaluation, as a web page."""
