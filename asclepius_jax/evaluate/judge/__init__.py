"""Judges, and what they are worth."""
