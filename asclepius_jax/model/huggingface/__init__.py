"""The same model in the names and files of Hugging Face folders."""
