"""Attention within documents: causal, grouped-query; one function, four kernels that are equal in tests.

Shape suffixes: B batch, T query position, S key position, N query heads, K key/value heads,
G = N // K query heads a key/value head, H head width. Queries arrive multiplied by H ** -0.5 (`rope.rotate`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from asclepius_jax.model.kernels import cudnn, splash
from asclepius_jax.model.matmul import product

# What the backward pass must find saved of a kernel, or it runs the kernel's forward again.
SAVED_NAME = "attention_out"
KERNELS = ("xla", "splash", "cudnn_packed", "cudnn_mask")


@dataclass(frozen=True)
class Kernel:
    """Which kernel, of KERNELS, and what it needs to know of the rows."""

    name: str = "xla"
    max_segments: int = 0  # cudnn_packed: documents of a row, its padding counted as one
    interpret: bool = False  # splash: emulate the TPU, for tests

    def __post_init__(self) -> None:
        assert self.name in KERNELS, self.name
        assert self.name != "cudnn_packed" or self.max_segments > 1, "cudnn_packed needs a bound on documents a row"


def prepare(kernel: Kernel, segments_BT: jax.Array) -> Any:
    """What the kernel wants to know of the documents; made once, read by every layer."""
    match kernel.name:
        case "splash":
            return segments_BT
        case "cudnn_packed":
            return cudnn.runs(segments_BT, kernel.max_segments)
        case "cudnn_mask":
            return cudnn.bias(segments_BT)
        case _:
            return packed_mask(segments_BT)


def attend(kernel: Kernel, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, documents: Any) -> jax.Array:
    """(B, T, N, H); a token sees itself and what precedes it in its document. `documents` is from `prepare`."""
    match kernel.name:
        case "splash":
            return splash.attend(q_BTNH, k_BSKH, v_BSKH, documents, SAVED_NAME, kernel.interpret)
        case "cudnn_packed":
            return cudnn.attend_packed(q_BTNH, k_BSKH, v_BSKH, *documents, kernel.max_segments, SAVED_NAME)
        case "cudnn_mask":
            return cudnn.attend_masked(q_BTNH, k_BSKH, v_BSKH, documents, SAVED_NAME)
        case _:
            return plain(q_BTNH, k_BSKH, v_BSKH, documents)


def packed_mask(segments_BT: jax.Array) -> jax.Array:
    """(B, T, S): a token sees itself and the tokens before it in its own document. Segment 0 is padding, which sees
    padding alone, so that no row of the softmax is empty."""
    T = segments_BT.shape[1]
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((T, T), bool))


def cached_mask(positions_BT: jax.Array, num_slots: int) -> jax.Array:
    """(B, T, S): slot s of a cache holds position s; a token sees the slots up to its own."""
    return jnp.arange(num_slots) <= positions_BT[:, :, None]


def plain(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """The kernel of no device in particular, with T x S scores. Query head n reads key/value head n // G.

    Scores and softmax in float32. Returns (B, T, N, H).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, jnp.finfo(jnp.float32).min)
    probs_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BTNH = product("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(B, T, N, H)
    return jax.ad_checkpoint.checkpoint_name(out_BTNH, SAVED_NAME)
