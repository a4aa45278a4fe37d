"""Splash attention, the Pallas kernel for TPUs. It skips blocks above the diagonal and keeps the scores on chip.

Shape suffixes: B batch, T position, N query heads, K key/value heads, H head width.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    LocalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)

LANES = 128  # lanes of a TPU's vector unit; block sizes must be multiples of it


def fits(row_length: int) -> bool:
    return row_length % LANES == 0


def block_sizes(row_length: int, head_dim: int) -> BlockSizes:
    """The largest blocks that divide the row and fit the vector memory of every TPU generation since v4.

    The fused backward kernel writes one copy of dq per block of keys, so its key blocks are wider.
    """
    widest = 1024 if head_dim <= 128 else 512
    block = max(b for b in (128, 256, 384, 512, 640, 768, 896, 1024) if b <= widest and row_length % b == 0)
    wide = 2 * block if row_length % (2 * block) == 0 and head_dim <= 128 else block
    compute = max(b for b in (128, 256, 384, 512) if block % b == 0)
    return BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=compute,
        block_q_dkv=block,
        block_kv_dkv=wide,
        block_kv_dkv_compute=compute,
        use_fused_bwd_kernel=True,
    )


def attend(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segments_BT: jax.Array, saved_name: str, interpret: bool,
    *, window: int | None = None, cap: float | None = None,
) -> jax.Array:  # fmt: skip
    """Attention output (B, T, N, H). Each key/value head serves N // K query heads without being copied.

    A query sees itself and the tokens before it in its document, `window` in all; blocks beyond are not computed.
    Scores become cap * tanh(score / cap). The residuals of the backward pass are named `saved_name` for remat policies.
    """
    T, N, H = q_BTNH.shape[1:]
    mask = CausalMask((T, T)) if window is None else LocalMask((T, T), (window - 1, 0), 0)
    kernel = make_splash_mha(
        MultiHeadMask([mask] * N),
        block_sizes=block_sizes(T, H),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=saved_name,
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )

    def one_row(q_TNH: jax.Array, k_TKH: jax.Array, v_TKH: jax.Array, segments_T: jax.Array) -> jax.Array:
        q_NTH, k_KTH, v_KTH = (x.swapaxes(0, 1) for x in (q_TNH, k_TKH, v_TKH))
        return kernel(q_NTH, k_KTH, v_KTH, SegmentIds(segments_T, segments_T)).swapaxes(0, 1)

    return jax.vmap(one_row)(q_BTNH, k_BTKH, v_BTKH, segments_BT)
