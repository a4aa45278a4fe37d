"""Merging of models, block by block, into one Hugging Face folder."""
