"""Attention within documents: causal, grouped-query, plain XLA.

Shape suffixes: B batch, T query position, S key position, N query heads, K key/value heads,
G = N // K query heads a key/value head, H head width.
"""

import jax
import jax.numpy as jnp


def packed_mask(segments_BT: jax.Array) -> jax.Array:
    """(B, T, S): a token sees itself and the tokens before it in its own document. Segment 0 is padding, which sees
    padding alone, so that no row of the softmax is empty."""
    T = segments_BT.shape[1]
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((T, T), bool))


def cached_mask(positions_BT: jax.Array, num_slots: int) -> jax.Array:
    """(B, T, S): slot s of a cache holds position s; a token sees the slots up to its own."""
    return jnp.arange(num_slots) <= positions_BT[:, :, None]


def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Query head n reads key/value head n // G. Scores and softmax in float32. Returns (B, T, N, H)."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, jnp.finfo(jnp.float32).min)
    probs_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(B, T, N, H)
