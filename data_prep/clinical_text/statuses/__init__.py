"""How clinical sentences qualify what they name: absent, uncertain, not done, of a relative."""
