"""Commands that string the stages together."""
