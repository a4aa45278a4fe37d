"""Parts of the report that journals require."""
