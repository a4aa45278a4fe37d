"""cuDNN's fused attention for NVIDIA GPUs, as XLA custom calls.

JAX's own wrapper asks the local GPU whether a layout is supported, so it cannot compile a program for another
machine. Up to jax 0.10 it also computes the offsets of packed keys from the number of *query* heads, which is wrong
for grouped-query attention. This module therefore makes the calls itself.

Shape suffixes: B batch, T position, N query heads, K key/value heads, H head width, M maximum documents per row.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

# Far below any score, and a power of two, so that bfloat16 represents it exactly. Infinity could turn into NaN.
MASKED = -(2.0**41)


def runs(segments_BT: jax.Array, max_segments: int) -> tuple[jax.Array, jax.Array]:
    """Document starts and lengths over all rows laid end to end, which is cuDNN's packed layout.

    Returns starts (B*M + 1,), in tokens from the first token of the batch and filled up with the end of the batch,
    and lengths (B*M,), filled up with 0. Padding counts as a document. The caller guarantees that no row has more
    than M documents; any surplus would be merged into one document.
    """
    B, T = segments_BT.shape
    begins_BT = jnp.concatenate([jnp.ones((B, 1), bool), segments_BT[:, 1:] != segments_BT[:, :-1]], axis=1)
    starts = jnp.nonzero(begins_BT.ravel(), size=B * max_segments, fill_value=B * T)[0]
    starts = jnp.append(starts, B * T).astype(jnp.int32)
    return starts, jnp.diff(starts)


def bias(segments_BT: jax.Array, window: int | None = None) -> jax.Array:
    """Additive mask (B, 1, T, T) in bfloat16: 0 within a document, a large negative number across documents.

    With a window, keys that are `window` tokens or more before a query are masked too: before version 9.10.2, cuDNN
    takes no window beside a bias.
    """
    seen_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    if window is not None:
        positions_T = jnp.arange(segments_BT.shape[1])
        seen_BTT &= positions_T[:, None] - positions_T < window
    return jnp.where(seen_BTT, 0.0, MASKED).astype(jnp.bfloat16)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def attend_packed(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, starts: jax.Array, lengths: jax.Array,
    max_segments: int, window: int, saved_name: str,
) -> jax.Array:  # fmt: skip
    """Attention (B, T, N, H) in the packed layout, on Hopper and later. Residuals are named `saved_name` for remat.

    A query sees `window` tokens, itself included; 0 is all of its document before it.
    """
    return packed_forward(q_BTNH, k_BTKH, v_BTKH, starts, lengths, max_segments, window, saved_name)[0]


def packed_forward(q_BTNH, k_BTKH, v_BTKH, starts, lengths, max_segments, window, saved_name):
    B, T = q_BTNH.shape[:2]
    where = packed_operands(q_BTNH, k_BTKH, starts, lengths)
    out, stats = forward_call(q_BTNH, k_BTKH, v_BTKH, where, max_segments, "Softmax", window)
    out, stats = checkpoint_name(out, saved_name), checkpoint_name(by_token(stats, starts, B * T), saved_name)
    return out, (q_BTNH, k_BTKH, v_BTKH, starts, lengths, out, stats)


def packed_backward(max_segments, window, saved_name, residuals, d_out):
    del saved_name
    q, k, v, starts, lengths, out, stats = residuals
    stats, where = by_document(stats, starts, lengths, q.shape[1]), packed_operands(q, k, starts, lengths)
    grads = backward_call((q, k, v, stats, d_out, out, *where), max_segments, "SoftmaxBackward", window)
    return (*grads, no_gradient(starts), no_gradient(lengths))


attend_packed.defvjp(packed_forward, packed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_masked(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, bias_B1TT: jax.Array, saved_name: str
) -> jax.Array:
    """Attention (B, T, N, H) with the mask as a bias, on Ampere. Residuals are named `saved_name` for remat."""
    return masked_forward(q_BTNH, k_BTKH, v_BTKH, bias_B1TT, saved_name)[0]


def masked_forward(q_BTNH, k_BTKH, v_BTKH, bias_B1TT, saved_name):
    out, stats = forward_call(q_BTNH, k_BTKH, v_BTKH, (bias_B1TT,), 1, "ScaleBiasSoftmax")
    out, stats = checkpoint_name(out, saved_name), checkpoint_name(stats, saved_name)
    return out, (q_BTNH, k_BTKH, v_BTKH, bias_B1TT, out, stats)


def masked_backward(saved_name, residuals, d_out):
    del saved_name
    q, k, v, bias_B1TT, out, stats = residuals
    grads = backward_call((q, k, v, stats, d_out, bias_B1TT, out), 1, "ScaleBiasSoftmaxBackward")
    return (*grads, jnp.zeros_like(bias_B1TT))


attend_masked.defvjp(masked_forward, masked_backward)


def by_token(stats: jax.Array, starts: jax.Array, num_tokens: int) -> jax.Array:
    """The log-sum-exps of the batch's B*T tokens, (B*T, N). cuDNN has T of them for every document that there might be.

    Args:
        stats: (B*M, N, T), where the positions of a document count from its first token.
        starts: (B*M + 1,), from `runs`.
        num_tokens: B*T.
    """
    tokens = jnp.arange(num_tokens)
    document = jnp.searchsorted(starts[1:], tokens, side="right")
    return stats[document, :, tokens - starts[document]]


def by_document(stats_IN: jax.Array, starts: jax.Array, lengths: jax.Array, T: int) -> jax.Array:
    """The inverse of `by_token`. What no document has is infinite, which gives a probability of 0."""
    positions_T = jnp.arange(T)
    places = jnp.minimum(starts[:-1, None] + positions_T, len(stats_IN) - 1)
    inside = positions_T < lengths[:, None]
    return jnp.where(inside[..., None], stats_IN[places], jnp.inf).swapaxes(1, 2)


def packed_operands(q_BTNH: jax.Array, k_BTKH: jax.Array, starts: jax.Array, lengths: jax.Array) -> tuple[Any, ...]:
    """Lengths of queries and keys in tokens, then their starts in *elements*, as queries have N heads and keys K."""
    q_stride, k_stride = (x.shape[2] * x.shape[3] for x in (q_BTNH, k_BTKH))
    assert q_BTNH.size < 2**31, "cuDNN's offsets are 32-bit: use more microbatches"
    return lengths, lengths, starts * q_stride, starts * k_stride


def forward_call(
    q: jax.Array, k: jax.Array, v: jax.Array, extra: tuple[Any, ...], max_segments: int, kind: str, window: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Attention output (B, T, N, H) and its log-sum-exp (B*M, N, T) in float32."""
    B, T, N, H = q.shape
    shapes = (
        jax.ShapeDtypeStruct((B, N, T, H), q.dtype),
        jax.ShapeDtypeStruct((B * max_segments, N, T), jnp.float32),
        WORKSPACE,
    )
    call = jax.ffi.ffi_call(
        f"__cudnn$fmha{kind}",
        shapes,
        output_layouts=[HEADS_INSIDE, (0, 1, 2), (0,)],
        custom_call_api_version=2,
        legacy_backend_config=backend_config(q, k, max_segments, FORWARD_PRODUCTS, window),
    )
    out, stats, _ = call(q, k, v, *extra)
    return out.swapaxes(1, 2), stats


def backward_call(operands: tuple[Any, ...], max_segments: int, kind: str, window: int = 0) -> tuple[jax.Array, ...]:
    """Gradients (dq, dk, dv), in the shapes of q, k and v, which are the first three operands."""
    q, k, v = operands[:3]
    grads = [jax.ShapeDtypeStruct((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), x.dtype) for x in (q, k, v)]
    call = jax.ffi.ffi_call(
        f"__cudnn$fmha{kind}",
        (*grads, WORKSPACE),
        output_layouts=[HEADS_INSIDE] * 3 + [(0,)],
        custom_call_api_version=2,
        legacy_backend_config=backend_config(q, k, max_segments, BACKWARD_PRODUCTS, window),
    )
    return tuple(grad.swapaxes(1, 2) for grad in call(*operands)[:3])


WORKSPACE = jax.ShapeDtypeStruct((0,), jnp.uint8)
HEADS_INSIDE = (0, 2, 1, 3)  # logically (B, N, T, H), in memory (B, T, N, H), so transposing back copies nothing

# Contracted and batch dimensions of each product, as XLA spells them: (name, lhs, rhs, lhs batch, rhs batch).
FORWARD_PRODUCTS = (
    ("bmm1", 3, 3, (0, 2), (0, 2)),  # BTNH, BSNH -> BNTS
    ("bmm2", 3, 1, (0, 1), (0, 2)),  # BNTS, BSNH -> BTNH
)
BACKWARD_PRODUCTS = (
    ("bmm1_grad_gemm1", 2, 1, (0, 1), (0, 2)),  # BNTS, BTNH -> BSNH
    ("bmm1_grad_gemm2", 3, 1, (0, 1), (0, 2)),  # BNTS, BSNH -> BTNH
    ("bmm2_grad_gemm1", 2, 1, (0, 1), (0, 2)),  # BNTS, BTNH -> BSNH
    ("bmm2_grad_gemm2", 3, 3, (0, 2), (0, 2)),  # BTNH, BSNH -> BNTS
)


def backend_config(
    q_BTNH: jax.Array, k_BTKH: jax.Array, max_segments: int, products: tuple[Any, ...], window: int
) -> str:
    """JSON description of a cuDNN call for XLA. Its scale is 1, as the queries are already scaled."""
    B, T, N, _ = q_BTNH.shape
    dimensions = {
        f"{name}_dot_dimension_numbers": {
            "lhs_contracting_dimensions": [str(lhs)],
            "rhs_contracting_dimensions": [str(rhs)],
            "lhs_batch_dimensions": [str(d) for d in lhs_batch],
            "rhs_batch_dimensions": [str(d) for d in rhs_batch],
        }
        for name, lhs, rhs, lhs_batch, rhs_batch in products
    }
    scores = {
        "element_type": {"bfloat16": "BF16", "float16": "F16"}[q_BTNH.dtype.name],
        "dimensions": [str(n) for n in (B, N, T, k_BTKH.shape[1])],
        "layout": {"minor_to_major": ["3", "2", "1", "0"]},
        "is_dynamic_dimension": [False] * 4,
    }
    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": 1.0,
        "intermediate_tensor_shape": scores,
        "is_flash_attention": True,
        "mask_type": "PADDING_CAUSAL" if max_segments > 1 else "CAUSAL",
        "dropout_rate": 0.0,
        "seed": 0,
        "sliding_window_length": window,
        "max_seg_per_batch": max_segments,
        "is_paged_attention": False,
        **dimensions,
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention})


def no_gradient(integers: jax.Array) -> np.ndarray:
    return np.zeros(integers.shape, jax.dtypes.float0)
