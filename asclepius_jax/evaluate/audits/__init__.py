"""Beyond answers: realism, perplexity, privacy, forgetting."""
