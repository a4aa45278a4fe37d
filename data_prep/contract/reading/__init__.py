"""Files that people bring, read as rows of clean text: which files, their encoding, their rows, their characters."""
