"""Monitoring of a training run, and its report."""
