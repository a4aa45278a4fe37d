"""Requests to an OpenAI-compatible endpoint, with a ledger of replies, rate limits and a budget."""
