"""Stage 4: notes or examples to full rows of tokens."""
