"""Score answers against reference answers, without a judge."""
