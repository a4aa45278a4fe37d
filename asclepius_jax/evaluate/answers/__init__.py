"""Collect the models' answers."""
