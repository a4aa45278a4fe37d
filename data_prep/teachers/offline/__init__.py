"""The offline teacher: rules that re-arrange and quote, so that nothing is invented. Standard library only."""
