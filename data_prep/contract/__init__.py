"""What both sides agree on: types on disk, finished folders, tokenizer, training prompt."""
