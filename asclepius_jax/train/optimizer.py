"""AdamW with warmup and cosine decay, on plain pytrees."""

import math

import jax
import jax.numpy as jnp
import optax

from asclepius_jax.config import OptimizerConfig
from asclepius_jax.model.decoder import Params, is_matrix


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of update n, counted from 0: linear warmup, then half a cosine down to the final fraction.

    As in transformers' `get_cosine_schedule_with_warmup`, update 0 has rate 0 if there is any warmup, and a cosine to 0
    would reach it one update after the last. A final fraction above 0 is the rate of the last update itself. Warmup
    always leaves the last update to the peak or the decay.
    """
    warmup = min(math.ceil(config.warmup_fraction * total_steps), total_steps - 1)
    end = total_steps - 1 if config.final_fraction else total_steps

    def rate(count: jax.Array) -> jax.Array:
        done = jnp.clip((count - warmup) / max(end - warmup, 1), 0.0, 1.0)
        cosine = config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return config.learning_rate * jnp.where(count < warmup, count / max(warmup, 1), cosine)

    return rate


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Gradient clipping followed by AdamW, in the order and with the constants of PyTorch's AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decayed,
            mu_dtype=config.first_moment_dtype,
        ),
    )


def decayed(params: Params) -> Params:
    """Mask for weight decay: True for matrices, False for norm scales and biases.

    Decided by name, because a stacked norm scale has two axes, like a matrix.
    """
    return jax.tree.map_with_path(lambda path, _: is_matrix(path[-1].key), params)
