"""Input of corpora: case reports, real notes, published data sets."""
