"""Compile the training step for a machine that is not here."""
