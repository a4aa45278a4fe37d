"""Questions and answers by rule, a file for each task."""
