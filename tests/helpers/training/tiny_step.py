"""Batches and parameters for steps of the tiny model, and how far two of its results may lie apart."""

import functools
from typing import Any

import jax
import numpy as np

from asclepius_jax.model.decoder import build, init_params
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.train.batches import unpack
from data_prep.contract.records import PackedRow

MODEL = build(VARIANTS["tiny"])
ROWS, LENGTH, STEPS = 32, 32, 3
# float32 sums differ in their last bits with the order of their terms, and AdamW divides by the root of a gradient's
# square: a gradient near epsilon turns 1e-8 of rounding into 1e-2 of a step of 1e-3.
LOSS_RTOL, PARAM_ATOL = 2e-6, 2e-5


def made_row(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Two or three documents, of whose tokens between a twentieth and all are trained on."""
    lengths = random.integers(4, 11, random.integers(2, 4))
    tokens = random.integers(3, 256, lengths.sum())
    return unpack(PackedRow(tokens, lengths, random.random(len(tokens)) < random.uniform(0.05, 1.0)), LENGTH)


@functools.cache
def made_batch(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    rows = [made_row(random) for _ in range(ROWS)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def first_params() -> Any:
    return jax.device_get(jax.jit(lambda: init_params(MODEL.config, 0))())
