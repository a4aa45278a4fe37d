"""The decoder, its sizes, and its mapping to Hugging Face folders."""
