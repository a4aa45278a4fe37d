"""Execution of a stage: worker processes and the progress line."""
