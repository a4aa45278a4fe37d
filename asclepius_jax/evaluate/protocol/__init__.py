"""What is decided before the scores are seen: the size of a study, and what its report will test."""
