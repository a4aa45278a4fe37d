"""Checks of a machine with the run that it is to train, before it trains."""
