"""An OpenAI-compatible endpoint: what is asked, what is known already, how fast and for how much."""
