"""What the models answer."""
