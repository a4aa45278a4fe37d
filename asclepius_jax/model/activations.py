"""Elementwise functions of the families, each named as in the configuration."""

import functools

import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def xielu(x: jax.Array, alpha_p: jax.Array, alpha_n: jax.Array, beta: jax.Array, eps: jax.Array) -> jax.Array:
    """xIELU (arXiv 2411.13010) in float32, in x's type: a parabola above 0, an exponential below, slopes learned.

    `alpha_p` and `alpha_n` are trained, in the scale of a softplus; `beta` and `eps` are constants of the checkpoint.
    """
    x32 = x.astype(jnp.float32)
    beta, eps = jax.lax.stop_gradient((beta, eps))
    above, below = jax.nn.softplus(alpha_p), beta + jax.nn.softplus(alpha_n)
    curve = jnp.where(x32 > 0, above * x32 * x32, (jnp.expm1(jnp.minimum(x32, eps)) - x32) * below)
    return (curve + beta * x32).astype(x.dtype)


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """x times a number, in x's type and rounded once: bfloat16 would round the number itself."""
    return x if factor == 1.0 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def capped(x: jax.Array, cap: float | None) -> jax.Array:
    """x kept within -cap and cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
