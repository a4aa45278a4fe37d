"""Causal grouped-query attention within documents: one function, four kernels whose results tests compare.

Shape suffixes: B batch, T query position, S key position, N query heads, K key/value heads,
G = N // K query heads per key/value head, H head width. Queries arrive multiplied by the scale of the scores
(`rope.rotate`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.model.activations import capped
from asclepius_jax.model.kernels import cudnn, splash
from asclepius_jax.model.kernels.matmul import product

# Name of the kernel's residuals. Unless they are saved, the backward pass runs the kernel's forward pass again.
SAVED_NAME = "attention_out"
KERNELS = ("xla", "splash", "cudnn_packed", "cudnn_mask")


@dataclass(frozen=True)
class Kernel:
    """The choice of an attention kernel, one of KERNELS, and its settings."""

    name: str = "xla"
    max_segments: int = 0  # cudnn_packed: maximum documents per row, counting its padding as one
    interpret: bool = False  # splash: emulate the TPU, for tests

    def __post_init__(self) -> None:
        assert self.name in KERNELS, self.name
        assert self.name != "cudnn_packed" or self.max_segments > 1, "cudnn_packed needs a limit on documents per row"


def prepare(kernel: Kernel, segments_BT: jax.Array, window: int | None = None) -> Any:
    """Prepare the mask in the form that the kernel needs, once for all layers with the window."""
    match kernel.name:
        case "splash":
            return segments_BT
        case "cudnn_packed":
            return cudnn.runs(segments_BT, kernel.max_segments)
        case "cudnn_mask":
            return cudnn.bias(segments_BT, narrower(window, segments_BT.shape[1]))
        case _:
            return packed_mask(segments_BT, narrower(window, segments_BT.shape[1]))


class Scores(NamedTuple):
    """The window and the cap of a layer's attention scores."""

    window: int | None = None  # tokens that a query sees, itself included; None: all of its document before it
    cap: float | None = None  # scores become cap * tanh(score / cap)


PLAIN_SCORES = Scores()


def attend(
    kernel: Kernel,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    documents: Any,
    scores: Scores = PLAIN_SCORES,
) -> jax.Array:
    """Attention output (B, T, N, H), where a token sees itself and the tokens before it in its own document.

    `documents` is the result of `prepare` with the window of `scores`.
    """
    window = narrower(scores.window, q_BTNH.shape[1])
    match kernel.name:
        case "splash":
            return splash.attend(
                q_BTNH, k_BSKH, v_BSKH, documents, SAVED_NAME, kernel.interpret, window=window, cap=scores.cap
            )
        case "cudnn_packed":
            assert scores.cap is None, "choose_kernel gives cuDNN no model with capped scores"
            return cudnn.attend_packed(q_BTNH, k_BSKH, v_BSKH, *documents, kernel.max_segments, window or 0, SAVED_NAME)
        case "cudnn_mask":
            assert scores.cap is None, "choose_kernel gives cuDNN no model with capped scores"
            return cudnn.attend_masked(q_BTNH, k_BSKH, v_BSKH, documents, SAVED_NAME)
        case _:
            return plain(q_BTNH, k_BSKH, v_BSKH, documents, scores.cap)


def narrower(window: int | None, T: int) -> int | None:
    """The window, or None if no token of a row of T tokens is outside of it."""
    return None if window is None or window >= T else window


def packed_mask(segments_BT: jax.Array, window: int | None = None) -> jax.Array:
    """Mask (B, T, S) in which a token sees itself and the tokens before it in its own document, `window` in all.

    Segment 0 is padding. It sees only padding, so that no row of the softmax is empty.
    """
    T = segments_BT.shape[1]
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    seen_BTS = same_BTS & jnp.tril(jnp.ones((T, T), bool))
    return seen_BTS if window is None else seen_BTS & ~jnp.tril(jnp.ones((T, T), bool), -window)


def cached_mask(positions_BT: jax.Array, num_slots: int, window: int | None = None) -> jax.Array:
    """Mask (B, T, S) for a cache whose slot s holds position s. A token sees the slots up to its own."""
    before_BTS = positions_BT[:, :, None] - jnp.arange(num_slots)
    return (before_BTS >= 0) & (before_BTS < (window or num_slots))


def plain(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array, cap: float | None = None
) -> jax.Array:
    """Attention (B, T, N, H) for any device, with all T x S scores in memory. Query head n uses key/value head n // G.

    Scores and softmax are computed in float32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    # Scores and output are in the order in which products yield them. XLA for CPUs would transpose any other.
    scores_BKTGS = jnp.einsum("BTKGH,BSKH->BKTGS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    scores_BKTGS = capped(scores_BKTGS, cap)
    scores_BKTGS = jnp.where(mask_BTS[:, None, :, None], scores_BKTGS, jnp.finfo(jnp.float32).min)
    probs_BKTGS = jax.nn.softmax(scores_BKTGS, axis=-1).astype(v_BSKH.dtype)
    out_BKTGH = product("BKTGS,BSKH->BKTGH", probs_BKTGS, v_BSKH)
    out_BTNH = out_BKTGH.swapaxes(1, 2).reshape(B, T, N, H)
    return jax.ad_checkpoint.checkpoint_name(out_BTNH, SAVED_NAME)
