"""Data preparation: case reports to notes to instructions to packed rows. Never imports JAX."""
