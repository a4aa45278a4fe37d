"""The prompt of training and inference: its template, and the numbers of a note's sentences in it."""
