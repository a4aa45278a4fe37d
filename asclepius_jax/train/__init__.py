"""The trainer: one for pretraining and instruction tuning, which differ in the loss mask alone."""
