"""What a journal asks of an evaluation, for the report."""
