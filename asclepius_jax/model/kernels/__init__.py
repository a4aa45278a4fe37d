"""Attention kernels of devices."""
