"""The LLaMA decoder, its sizes, and its names in Hugging Face's folders."""
