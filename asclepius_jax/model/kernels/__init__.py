"""Device-specific attention kernels."""
