"""Stage 4: pack notes or examples into full rows of tokens."""
