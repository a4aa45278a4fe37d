"""Word lists of clinical English."""
