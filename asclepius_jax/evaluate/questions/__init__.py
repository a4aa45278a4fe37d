"""Questions for the models, and the formats in which they are asked."""
