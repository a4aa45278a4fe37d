"""Rotary position embedding in Hugging Face's layout, which pairs channel i with i + H/2, not i + 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from asclepius_jax.model.sizes import LlamaConfig, RopeScaling


def frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position for each channel pair, (H/2,), computed in float32 as in transformers."""
    H = config.head_dim
    frequency = 1.0 / np.float32(config.rope_theta) ** (np.arange(0, H, 2, dtype=np.float32) / np.float32(H))
    return frequency if config.rope_scaling is None else stretch(frequency, config.rope_scaling)


def stretch(frequency: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1's scaling: divide slow frequencies by `factor`, keep fast ones, ramp between (arXiv 2407.21783)."""
    turns = scaling.original_length * frequency / (2 * math.pi)  # turns within the original context
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(ramp, 0.0, 1.0)
    return (frequency * (kept + (1.0 - kept) / scaling.factor)).astype(np.float32)


def angles(positions_BT: jax.Array, frequency: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, (B, T, 1, H/2) in float32, computed once for all layers."""
    # float32: bfloat16 rounds position 257 to 256, and the rotation is then visibly wrong.
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BTNH: jax.Array, cos_sin: tuple[jax.Array, jax.Array], scale: float = 1.0) -> jax.Array:
    """x rotated by the angles of its position and multiplied by `scale`, with a single rounding."""
    cos, sin = cos_sin
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return (turned * scale).astype(x_BTNH.dtype)
