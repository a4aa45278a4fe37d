"""The model in the parameter names and files of Hugging Face."""
