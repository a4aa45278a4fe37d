"""Requests to a judge: prompts, the order of options and answers, and the reading of replies."""
