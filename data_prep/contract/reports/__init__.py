"""Pages and charts of reports."""
