"""How clinical English is read: sentences, terms with their negation, times, abbreviations. Standard library only.

The offline teacher writes with it, and the gate for faithfulness checks with it.
"""
