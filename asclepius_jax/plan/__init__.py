"""Compile the training step for another machine, and predict what it needs there."""
