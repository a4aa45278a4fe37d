"""Rotary position embedding in Hugging Face's layout, which pairs channel i with i + H/2, not i + 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from asclepius_jax.model.sizes import FULL_NOPE, WINDOW, WINDOW_NOPE, DecoderConfig, RopeScaling

CosSin = tuple[jax.Array, jax.Array]


def frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per position for each rotated channel pair, computed in float32 as in transformers."""
    frequency = unscaled(config, config.rope_theta)
    scaling = config.rope_scaling
    return frequency if scaling is None else stretch(frequency, scaling, config.rope_theta)


def unscaled(config: DecoderConfig, theta: float) -> np.ndarray:
    R = int(config.head_dim * config.rotary_fraction)
    return 1.0 / np.float32(theta) ** (np.arange(0, R, 2, dtype=np.float32) / np.float32(R))


def stretch(frequency: np.ndarray, scaling: RopeScaling, theta: float) -> np.ndarray:
    match scaling.kind:
        case "linear":
            return (frequency / np.float32(scaling.factor)).astype(np.float32)
        case "longrope":
            return (frequency / np.array(scaling.divisors, np.float32)).astype(np.float32)
        case "yarn":
            kept = yarn_kept(len(frequency), scaling, theta)
        case _:
            turns = scaling.original_length * frequency / (2 * math.pi)  # turns within the original context
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return (frequency * (kept + (1.0 - kept) / scaling.factor)).astype(np.float32)


def yarn_kept(pairs: int, scaling: RopeScaling, theta: float) -> np.ndarray:
    """Share of each of YaRN's frequencies that is kept, a ramp over the channel pairs; the rest is divided."""

    def pair_of(turns: float) -> float:  # the pair that turns so often within the original context
        return pairs * math.log(scaling.original_length / (turns * 2 * math.pi)) / math.log(theta)

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    # The ramp may lie outside the pairs. Then last is below first, and as in transformers all pairs are on one side.
    return 1.0 - (np.arange(pairs, dtype=np.float32) - first) / ((last - first) or 0.001)


def angles(positions_BT: jax.Array, frequency: np.ndarray, magnitude: float = 1.0) -> CosSin:
    """Cosine and sine of every position's angles, (B, T, 1, R/2) in float32, computed once for all layers."""
    # float32: bfloat16 rounds position 257 to 256, and the rotation is then visibly wrong.
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    cos_sin = jnp.cos(angle), jnp.sin(angle)
    return cos_sin if magnitude == 1.0 else (cos_sin[0] * magnitude, cos_sin[1] * magnitude)


def angles_by_kind(positions_BT: jax.Array, config: DecoderConfig) -> dict[str, CosSin | None]:
    """The angles of every kind of layer that the model has; None where nothing is rotated."""
    magnitude = 1.0 if config.rope_scaling is None else config.rope_scaling.magnitude
    usual = angles(positions_BT, frequencies(config), magnitude)
    found: dict[str, CosSin | None] = {}
    for kind in dict.fromkeys(config.kinds):
        found[kind] = None if kind in (FULL_NOPE, WINDOW_NOPE) else usual
        if kind == WINDOW and config.window_rope_theta is not None:
            found[kind] = angles(positions_BT, unscaled(config, config.window_rope_theta))
    return found


def query_factor(positions_BT: jax.Array, config: DecoderConfig) -> jax.Array | float:
    """The factor of queries at every position, (B, T, 1, 1) in float32; 1 where they do not grow."""
    if config.query_growth == 0:
        return 1.0
    periods_BT11 = (positions_BT // config.query_period)[:, :, None, None].astype(jnp.float32)
    return 1.0 + config.query_growth * jnp.log1p(periods_BT11)


def rotate(x_BTNH: jax.Array, cos_sin: CosSin | None, scale: jax.Array | float = 1.0) -> jax.Array:
    """x with its first R channels rotated by the angles of its position, multiplied by `scale`, rounded once."""
    x32_BTNH = x_BTNH.astype(jnp.float32)
    if cos_sin is None:
        return (x32_BTNH * scale).astype(x_BTNH.dtype)
    cos, sin = cos_sin
    R = 2 * cos.shape[-1]
    a, b = jnp.split(x32_BTNH[..., :R], 2, axis=-1)
    unturned = [x32_BTNH[..., R:]] if x32_BTNH.shape[-1] > R else []
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin, *unturned], axis=-1)
    return (turned * scale).astype(x_BTNH.dtype)
