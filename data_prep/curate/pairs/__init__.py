"""Pairs of a better and a worse answer, for training on preferences."""
