"""Decisions before the scores are seen: the size of a study, and the tests of its report."""
