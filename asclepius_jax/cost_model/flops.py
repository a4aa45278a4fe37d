"""Floating point operations of a training step, counted from the shapes."""

from asclepius_jax.model.sizes import LlamaConfig


def flops_per_token(model: LlamaConfig, row_length: int, causal: bool, adapters: int = 0) -> float:
    """Floating point operations of forward and backward for one token slot of a row, without recomputation.

    Six for each parameter of a matrix (looking up an embedding is none) and twelve for each score's channel; causal
    attention does half of the scores (arXiv 2204.02311, appendix B, counts them all). Beside `adapters` parameters
    that train, matrices are frozen, and the two for their gradient are not done.
    """
    embedding = model.vocab_size * model.embed_dim
    norms = (2 * model.num_layers + 1) * model.embed_dim
    matrices = model.num_params - norms - (0 if model.tie_embeddings else embedding)
    attention = 12 * model.num_layers * model.num_heads * model.head_dim * row_length
    return (4 if adapters else 6) * matrices + 6 * adapters + attention * (0.5 if causal else 1.0)
