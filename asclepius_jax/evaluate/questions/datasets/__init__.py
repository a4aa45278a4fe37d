"""Readers of benchmark corpora, one per corpus, for the files that its owners distribute."""
