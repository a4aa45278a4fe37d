"""Classes of errors to plant in a text, by patterns of their own: single facts in `mutations.py`, others by meaning."""
