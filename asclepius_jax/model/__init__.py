"""The LLaMA decoder, its sizes, and its mapping to Hugging Face folders."""
