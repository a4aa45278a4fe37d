"""The offline teacher: rules that rearrange and quote, so that nothing is invented. Standard library only."""
