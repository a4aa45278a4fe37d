"""Preference tuning: the weights of tokens, and the log-probabilities of the reference model."""
