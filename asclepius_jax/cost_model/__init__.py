"""Estimates of the memory and speed of a training step, and tables of devices."""
