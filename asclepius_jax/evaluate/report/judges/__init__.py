"""What the judges of an evaluation are worth, for the report."""
