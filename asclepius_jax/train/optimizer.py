"""AdamW and the schedules of its learning rate, on plain pytrees."""

import math

import jax
import optax

from asclepius_jax.config import LoraConfig, OptimizerConfig
from asclepius_jax.config.schema import peak_learning_rate
from asclepius_jax.model.decoder import Params, is_matrix

NO_LORA = LoraConfig()


def learning_rate(config: OptimizerConfig, total_steps: int, lora: LoraConfig = NO_LORA) -> optax.Schedule:
    """Learning rate of update n, counted from 0: linear warmup, then `config.schedule`.

    As in transformers' schedules, update 0 has rate 0 if there is any warmup, and a decay to 0 would reach it one
    update after the last. A final fraction above 0 is the rate of the last update itself. Warmup always leaves the last
    update to the peak or the decay.
    """
    peak = peak_learning_rate(config, lora)
    warmup = min(math.ceil(config.warmup_fraction * total_steps), total_steps - 1)
    end = total_steps - 1 if config.final_fraction else total_steps
    start = decay_start(config, total_steps, warmup)
    length = max(end - start, 1)
    parts: list[tuple[int, optax.Schedule]] = [(0, optax.linear_schedule(0.0, peak, warmup))] if warmup else []
    if start > warmup:
        parts.append((warmup, optax.constant_schedule(peak)))
    if config.schedule == "cosine":
        parts.append((start, optax.cosine_decay_schedule(peak, length, config.final_fraction)))
    elif config.schedule != "constant":
        parts.append((start, optax.linear_schedule(peak, peak * config.final_fraction, length)))
    return optax.join_schedules([schedule for _, schedule in parts], [begin for begin, _ in parts[1:]])


def decay_start(config: OptimizerConfig, total_steps: int, warmup: int) -> int:
    """The update with which the decay begins; of a constant schedule, one after the last."""
    if config.schedule == "constant":
        return total_steps
    return max(warmup, total_steps - decay_length(config, total_steps)) if config.schedule == "wsd" else warmup


def decay_length(config: OptimizerConfig, total_steps: int) -> int:
    """Updates of the final decay of schedule wsd."""
    return config.decay_steps or math.ceil(total_steps / 10)


def make_optimizer(
    config: OptimizerConfig, total_steps: int, lora: LoraConfig = NO_LORA
) -> optax.GradientTransformation:
    """Gradient clipping followed by AdamW, in the order and with the constants of PyTorch's AdamW."""
    adamw = optax.adamw(
        learning_rate(config, total_steps, lora),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=decayed,
        mu_dtype=config.first_moment_dtype,
    )
    ratio = lora.b_learning_rate_ratio if lora.rank else 1.0
    faster = [optax.masked(optax.scale(ratio), output_matrices)] if ratio != 1 else []
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw, *faster)


def output_matrices(adapters: Params) -> Params:
    """Mask for LoRA+: True for the matrices B."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "B", adapters)


def decayed(params: Params) -> Params:
    """Mask for weight decay: True for matrices, False for norm scales, biases and the magnitudes of adapters.

    Decided by name, because a stacked norm scale has two axes, like a matrix.
    """
    return jax.tree.map_with_path(lambda path, _: is_matrix(path[-1].key), params)
