"""Errors of meaning, beside the errors of single facts in `mutations.py`."""
