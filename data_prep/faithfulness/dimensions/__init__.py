"""Dimensions: what statements say of the same thing that excludes one another."""
