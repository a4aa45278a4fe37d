"""Saving and restoring of checkpoints."""
