"""The contract between `data_prep` and `asclepius_jax`: record types, finished folders, tokenizer, training prompt."""
