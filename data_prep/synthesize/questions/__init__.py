"""Which questions are asked: tasks by weight, and the examples that a question prompt shows."""
