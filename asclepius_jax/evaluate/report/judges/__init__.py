"""Parts of the report that measure the judges themselves."""
