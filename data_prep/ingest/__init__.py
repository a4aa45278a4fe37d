"""Corpora in: case reports, real notes, published data sets."""
