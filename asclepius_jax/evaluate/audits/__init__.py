"""Audits of models and notes: realism, perplexity, privacy and forgetting."""
