"""One reader for each corpus that is evaluated on, from the files of its owners."""
