"""Facts read out of a sentence."""
