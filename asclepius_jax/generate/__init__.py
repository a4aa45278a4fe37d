"""Text from a model: loading, decoding many requests at once, and `asclepius generate`."""
