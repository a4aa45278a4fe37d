"""Checks of a configuration that need neither devices nor data."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from asclepius_jax.config.schema import LORA_TARGETS, TrainConfig
from asclepius_jax.config.sources import held_out_sources, training_sources
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.objects import is_bucket_url

# The numbers of a configuration by the values that they may have. Names are those of the command line.
POSITIVE = (
    "batch.global_batch", "data.epochs", "checkpoint.every_steps", "checkpoint.keep", "evaluation.every_steps",
    "evaluation.max_rows", "log.every_steps", "optimizer.learning_rate", "optimizer.clip_norm", "optimizer.epsilon",
    "lora.alpha", "lora.b_learning_rate_ratio",
)  # fmt: skip
NOT_NEGATIVE = (
    "optimizer.weight_decay", "checkpoint.keep_every", "checkpoint.keep_best", "health.timeout_seconds",
    "health.max_skipped", "health.spike_sigmas", "health.compare_every", "profile", "optimizer.decay_steps",
    "preference.beta", "preference.anchor_weight",
)  # fmt: skip
BELOW_ONE = ("optimizer.warmup_fraction", "optimizer.beta1", "optimizer.beta2", "lora.dropout")
# A step computes with these in float32. A learning rate of 1e-50 would be 0 there, and train nothing.
FLOAT32 = (
    "optimizer.learning_rate", "optimizer.clip_norm", "optimizer.epsilon", "optimizer.weight_decay", "lora.alpha",
    "lora.b_learning_rate_ratio", "preference.beta", "preference.anchor_weight",
)  # fmt: skip
LEAST_FLOAT32, MOST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
MOST_BELOW_ONE = 1 - 2.0**-24  # float32 rounds anything above to 1
# Sizes beyond those of any run, which would be allocated or counted before anything notices.
MOST = {
    "batch.global_batch": 2**20, "data.row_length": 2**22, "data.epochs": 10_000, "data.seed": 2**32 - 1,
    "lora.rank": 2**14, "lora.seed": 2**32 - 1, "init.seed": 2**32 - 1,
}  # fmt: skip


def check_numbers(config: TrainConfig) -> None:
    """Raise UserError for the first number that no run can have."""

    def refuse(names: Iterable[str], fits: Callable[[float], bool], told: str) -> None:
        for name in names:
            value = value_of(config, name)
            if value is not None and not fits(value):  # None leaves a value open; NaN fits nowhere
                raise UserError(f"{name} is {value}: it {told}")

    refuse(POSITIVE, lambda value: 0 < value < math.inf, "must be above 0")
    refuse(NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "cannot be negative")
    refuse(BELOW_ONE, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
    refuse(BELOW_ONE, lambda value: value <= MOST_BELOW_ONE, "is 1 in float32: use a smaller one")
    refuse(["optimizer.final_fraction"], lambda value: 0 <= value <= 1, "must be from 0 to 1")
    told = f"is no number in float32: use one from {LEAST_FLOAT32:.3g} to {MOST_FLOAT32:.3g}"
    refuse(FLOAT32, lambda value: not value or LEAST_FLOAT32 <= value <= MOST_FLOAT32, told)
    for name, most in MOST.items():
        if not 0 <= (value := value_of(config, name)) <= most:
            raise UserError(f"{name} is {value}: it must be from 0 to {most:,}")


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of a setting by its name on the command line, such as optimizer.epsilon."""
    section, _, field = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, field)


def check_values(config: TrainConfig) -> None:
    """Raise UserError for invalid numbers. Values that depend on devices or data are checked where these are known."""
    check_lora(config)
    check_matmul(config)
    check_numbers(config)
    if config.optimizer.decay_steps and config.optimizer.schedule != "wsd":
        raise UserError(
            f"optimizer.decay_steps is {config.optimizer.decay_steps}, but optimizer.schedule "
            f"{config.optimizer.schedule} has no final decay: set --optimizer.schedule wsd"
        )
    if config.batch.microbatches < 0:
        raise UserError(
            f"batch.microbatches is {config.batch.microbatches}: it must be 1 or more, or 0 for as few as fit"
        )
    if config.batch.microbatches and config.batch.global_batch % config.batch.microbatches:
        raise UserError(
            f"batch.microbatches {config.batch.microbatches} does not divide batch.global_batch "
            f"{config.batch.global_batch}: use one of {divisors(config.batch.global_batch)}"
        )


def check(config: TrainConfig) -> None:
    """Raise UserError for invalid numbers or folders, missing settings, and settings that contradict one another."""
    check_values(config)
    if config.checkpoint.keep_best and not config.data.eval_path:
        raise UserError(
            f"checkpoint.keep_best is {config.checkpoint.keep_best}, but there is no held-out data to compare "
            "checkpoints: set a packed folder with --data.eval-path"
        )
    if not config.data.path:
        raise UserError("data.path is empty: set --data.path to a folder written by `asclepius pack`")
    places = [
        ("run_dir", config.run_dir),
        *(("data.path", source.path) for source in training_sources(config.data)),
        *(("data.eval_path", source.path) for source in held_out_sources(config.data)),
        *((f"init.{name}", getattr(config.init, name)) for name in ("hf", "checkpoint", "branch")),
    ]
    for name, place in places:
        if "://" in place and not is_bucket_url(place):
            raise UserError(f"{name} {place}: only gs:// and s3:// are known; mount it and set the folder")
    # Adapters that branch off another run still need their base.
    names = ("hf", "checkpoint", "random") if config.lora.rank else ("hf", "checkpoint", "branch", "random")
    starts = [name for name in names if getattr(config.init, name)]
    if len(starts) > 1:
        raise UserError(f"{' and '.join(f'init.{name}' for name in starts)} are both set: choose one")
    if config.lora.rank and not (config.init.hf or config.init.checkpoint):
        raise UserError(
            f"lora.rank is {config.lora.rank}, but there are no weights to adapt: set them with --init.hf or "
            "--init.checkpoint"
        )


def check_lora(config: TrainConfig) -> None:
    lora = config.lora
    if lora.rank < 0:
        raise UserError(f"lora.rank is {lora.rank}: it must be 1 or more, or 0 to train everything")
    unknown = [name for name in lora.targets if name not in LORA_TARGETS]
    if unknown or not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise UserError(
            f"lora.targets is {' '.join(lora.targets) or 'empty'}: use some of {' '.join(LORA_TARGETS)}, no repeats"
        )


def check_matmul(config: TrainConfig) -> None:
    """Raise UserError for products in eight bits beside what needs more precise ones."""
    matmul, lora = config.compute.matmul, config.lora
    if matmul == "bfloat16":
        return
    if config.preference.beta:
        raise UserError(
            f"compute.matmul {matmul} does not work with preference.beta, because its rounding is larger than margins "
            "of pairs: leave out one of them"
        )
    if lora.rank and lora.base_dtype in ("int8", "nf4"):
        raise UserError(
            f"compute.matmul {matmul} rounds a base that lora.base_dtype {lora.base_dtype} has already rounded: leave "
            "out one of them"
        )
    if lora.rank and lora.magnitudes:
        raise UserError(f"compute.matmul {matmul} does not work with lora.magnitudes, which needs exact matrices")


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
