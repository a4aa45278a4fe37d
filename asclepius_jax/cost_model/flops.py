"""Floating point operations of a training step, counted from the shapes."""

from asclepius_jax.model.sizes import DecoderConfig


def flops_per_token(model: DecoderConfig, row_length: int, causal: bool, adapters: int = 0) -> float:
    """Floating point operations per token of the forward and backward pass, without recomputation.

    Counts 6 per matrix parameter (an embedding lookup is free) and 12 per channel of each attention score. Causal
    attention computes half of the scores; arXiv 2204.02311, appendix B, counts all of them. Windowed layers compute
    those of their window. With `adapters` trained
    parameters, the matrices are frozen and the 2 operations for their gradient are not needed.
    """
    matrices = model.num_layers * model.block_matrices + model.vocab_size * model.embed_dim
    attention = 12 * model.num_layers * model.num_heads * model.head_dim * model.mean_visible(row_length, causal)
    return (4 if adapters else 6) * matrices + 6 * adapters + attention
