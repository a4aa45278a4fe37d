"""Statistics with their confidence intervals."""
