"""Extraction of checkable facts from a sentence."""
