"""The two ends of the model that depend on the vocabulary: token embedding and next-token loss.

Shape suffixes: B batch, T position, D model width, V vocabulary (this tensor device's part), C tokens per chunk.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.model.activations import capped
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.kernels.matmul import product

CHUNK_TOKENS = 1024


def padded_with_zeros(table: jax.Array, used: int, axis: int) -> jax.Array:
    """The table with zeros after its first `used` entries along an axis. Training keeps them: they get no gradient."""
    entries = jnp.arange(table.shape[axis]) < used
    return jnp.where(jnp.expand_dims(entries, 1 - axis), table, 0.0) if used < table.shape[axis] else table


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def lookup(embed_VD: jax.Array, tokens_BT: jax.Array, parallel: Parallel, dtype: str) -> jax.Array:
    """Embeddings (B, T, D) in `dtype` of this tensor device's positions; `embed_VD` is its float32 slice.

    Each tensor device looks up only the vocabulary entries that it holds.
    """
    table_VD = parallel.weight(embed_VD, 1, jnp.dtype(dtype))
    if parallel.tensor == 1:
        return table_VD[tokens_BT]
    held_BT, local_BT = held_pieces(tokens_BT, table_VD.shape[0], parallel)
    return parallel.sum_positions(jnp.where(held_BT[:, :, None], table_VD[local_BT], 0))


def lookup_forward(embed_VD, tokens_BT, parallel, dtype):
    # The backward pass needs only the number of rows of the slice, not its values.
    return lookup(embed_VD, tokens_BT, parallel, dtype), (tokens_BT, jnp.empty((embed_VD.shape[0], 0)))


def lookup_backward(parallel, dtype, residuals, d_x_BTD):
    tokens_BT, like_V0 = residuals
    d_x_BTD = parallel.gather_positions(d_x_BTD).astype(jnp.float32)
    held_BT, local_BT = held_pieces(tokens_BT, like_V0.shape[0], parallel)
    # float32: a frequent token is added thousands of times, and a bfloat16 sum stops growing at 256 times the addend.
    d_table_VD = jnp.zeros((like_V0.shape[0], d_x_BTD.shape[-1]), jnp.float32)
    d_table_VD = d_table_VD.at[local_BT].add(jnp.where(held_BT[:, :, None], d_x_BTD, 0))
    return parallel.sum_weight(d_table_VD, 1), None


lookup.defvjp(lookup_forward, lookup_backward)


def held_pieces(tokens_BT: jax.Array, V: int, parallel: Parallel) -> tuple[jax.Array, jax.Array]:
    """Mask of the tokens whose table row is on this tensor device, and the index of that row here."""
    local_BT = tokens_BT - parallel.tensor_index() * V
    return (local_BT >= 0) & (local_BT < V), jnp.clip(local_BT, 0, V - 1)


class Logits(NamedTuple):
    """How logits follow from the output matrix."""

    axis: int = 0  # the dimension of the matrix that is D
    vocab_size: int | None = None  # entries after it are padding and have no probability
    cap: float | None = None  # logits become cap * tanh(logit / cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def weighted_losses(
    x_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    parallel: Parallel,
    logits: Logits,
) -> tuple[jax.Array, jax.Array]:
    """Weighted cross entropy in nats, summed over this device's tokens, and that of every token (B, T) without weight.

    Both are float32; only the sum has a gradient. The logits never exist as a whole. The forward pass computes loss and
    gradient together, chunk by chunk, so the matrix is gathered once and no product is computed twice. This works
    because the gradient of a weighted sum is known up to one factor, which the backward pass supplies.

    Args:
        x_BTD: hidden states after the last norm, for this tensor device's part of the positions.
        head_DV: this device's float32 slice of the output matrix, or of its transpose (V, D), which is the embedding
            table of a tied model.
        targets_BT, weights_BT: values for the positions of all tensor devices.
        logits: how logits follow from `head_DV`.
    """
    return loss_forward(x_BTD, head_DV, targets_BT, weights_BT, parallel, logits, with_grads=False)[0]


def loss_and_residuals(x, head, targets, weights, parallel, logits):
    # A model with adapters has a frozen head. Skip its gradient, which is as large as the matrix.
    return loss_forward(
        x.value, head.value, targets.value, weights.value, parallel, logits, with_grads=True, with_head=head.perturbed
    )


def loss_forward(x_BTD, head, targets_BT, weights_BT, parallel, logits, with_grads=True, with_head=False):
    dtype, axis = x_BTD.dtype, logits.axis
    weight = parallel.weight(head, axis, dtype)
    weight_DV = weight if axis == 0 else weight.T
    x_BTD = parallel.gather_positions(x_BTD)
    B, T, D = x_BTD.shape
    V = weight_DV.shape[1]
    num_chunks = -(-B * T // CHUNK_TOKENS)
    chunks = tuple(cut(x.reshape(B * T, *x.shape[2:]), num_chunks) for x in (x_BTD, targets_BT, weights_BT))
    first_V = parallel.tensor_index() * V  # the first vocabulary entry on this device

    def add_chunk(sums, chunk):
        total, d_weight_DV = sums
        x_CD, targets_C, weights_C = chunk
        logits_CV = jnp.einsum("CD,DV->CV", x_CD, weight_DV, preferred_element_type=jnp.float32)
        logits_CV = shaped(logits_CV, first_V, logits)
        max_C = parallel.tensor_max(jnp.max(logits_CV, axis=1))
        exp_CV = jnp.exp(logits_CV - max_C[:, None])
        sum_C = parallel.tensor_sum(jnp.sum(exp_CV, axis=1))
        is_target_CV = jnp.arange(V) + first_V == targets_C[:, None]
        target_logit_C = parallel.tensor_sum(jnp.sum(jnp.where(is_target_CV, logits_CV, 0.0), axis=1))
        loss_C = jnp.log(sum_C) + max_C - target_logit_C
        total += jnp.sum(loss_C * weights_C)
        if not with_grads:
            return (total, d_weight_DV), (loss_C, None)
        d_logits_CV = (exp_CV / sum_C[:, None] - is_target_CV) * weights_C[:, None]
        if logits.cap is not None:  # the slope of the cap; where an entry is padding, the gradient is 0 already
            d_logits_CV *= 1 - jnp.minimum((logits_CV / logits.cap) ** 2, 1)
        d_logits_CV = d_logits_CV.astype(dtype)
        d_x_CD = product("CV,DV->CD", d_logits_CV, weight_DV)
        if with_head:
            d_weight_DV += jnp.einsum("CD,CV->DV", x_CD, d_logits_CV, preferred_element_type=jnp.float32)
        return (total, d_weight_DV), (loss_C, d_x_CD)

    start = (jnp.float32(0), jnp.zeros((D, V), jnp.float32) if with_head else None)
    (total, d_weight_DV), (losses, d_x) = jax.lax.scan(add_chunk, start, chunks)
    result = total, losses.reshape(-1)[: B * T].reshape(B, T)
    if not with_grads:
        return result, None
    d_x_BTD = parallel.sum_positions(d_x.reshape(-1, D)[: B * T].reshape(B, T, D))
    if not with_head:
        return result, (d_x_BTD, None)
    d_weight = d_weight_DV if axis == 0 else d_weight_DV.T
    # The barrier ties the two together. Without it the sum over devices is delayed to the end of the step, and a whole
    # matrix stays in memory until then.
    return result, jax.lax.optimization_barrier((d_x_BTD, parallel.sum_weight(d_weight, axis)))


def shaped(logits_CV: jax.Array, first_V: jax.Array | int, logits: Logits) -> jax.Array:
    """Logits (..., V) of the vocabulary entries from `first_V` on, from the products with the matrix."""
    logits_CV = capped(logits_CV, logits.cap)
    if logits.vocab_size is None:
        return logits_CV
    entries_V = jnp.arange(logits_CV.shape[-1]) + first_V
    return jnp.where(entries_V < logits.vocab_size, logits_CV, jnp.finfo(jnp.float32).min)


def cut(x: jax.Array, num_chunks: int) -> jax.Array:
    """Reshape (tokens, ...) to (chunks, C, ...). The last chunk is padded with zeros, which have no weight."""
    missing = -len(x) % num_chunks
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(num_chunks, -1, *x.shape[1:])


def loss_backward(parallel, logits, grads, factors):
    d_x_BTD, d_head = grads
    factor = factors[0]  # that of the losses of single tokens is ignored: they have no gradient
    d_head = None if d_head is None else d_head * factor
    return (d_x_BTD * factor.astype(jnp.float32)).astype(d_x_BTD.dtype), d_head, None, None


weighted_losses.defvjp(loss_and_residuals, loss_backward, symbolic_zeros=True)


def loss_sum(
    x_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, parallel: Parallel,
    logits: Logits,
) -> jax.Array:  # fmt: skip
    """The sum of `weighted_losses`."""
    return weighted_losses(x_BTD, head_DV, targets_BT, weights_BT, parallel, logits)[0]
