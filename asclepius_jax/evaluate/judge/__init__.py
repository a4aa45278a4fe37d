"""Judges of answers, and the calibration of judges."""
