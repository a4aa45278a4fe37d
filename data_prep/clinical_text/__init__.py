"""Analysis of clinical English: sentences, terms with their negation, times, abbreviations.

Used by the offline teacher to write and by the faithfulness gate to check. Standard library only.
"""
