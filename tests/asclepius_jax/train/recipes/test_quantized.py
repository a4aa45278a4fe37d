"""Quantized matrices: the nearest codes, the same in NumPy and JAX, and a decoder that computes with them."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.checkpoint.adapters import adapted, in_types_of
from asclepius_jax.config import LoraConfig
from asclepius_jax.model.decoder import build, init_params
from asclepius_jax.model.quantized import (
    LEVELS,
    MIDPOINTS,
    Quantized,
    block_size,
    bytes_per_value,
    dequantized,
    quantized,
    quantized_on_host,
    quantized_shape,
)
from asclepius_jax.model.sizes import VARIANTS

KINDS = ("int8", "nf4")


def expected(x: np.ndarray, kind: str, block: int) -> np.ndarray:
    """The dequantized values, one block at a time in float64."""
    result = np.empty_like(x, np.float64)
    for index in np.ndindex(x.shape[:-1]):
        for start in range(0, x.shape[-1], block):
            values = x[index][start : start + block].astype(np.float64)
            scale = np.abs(values).max() / (127 if kind == "int8" else 1)
            scale = float(np.float32(scale).astype(ml_dtypes.bfloat16))
            if kind == "int8":
                found = np.clip(np.round(values / scale), -127, 127) * scale
            else:
                found = LEVELS[np.abs(values[:, None] / scale - LEVELS).argmin(axis=1)] * scale
            result[index][start : start + block] = found
    return result


@pytest.fixture(params=KINDS)
def kind(request: Any) -> str:
    return request.param


@pytest.mark.parametrize("shape", [(3, 5, 192), (2, 6, 4, 8), (7, 80), (4, 66)])
def test_values_are_those_of_the_nearest_codes(kind: str, shape: tuple[int, ...]):
    x = np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
    found = np.asarray(dequantized(quantized(jnp.asarray(x), kind), jnp.float32))
    np.testing.assert_allclose(found, expected(x, kind, block_size(shape[-1], kind)), rtol=1e-6)
    blocks = np.abs(x).reshape(*shape[:-1], -1, block_size(shape[-1], kind)).max(axis=-1)
    widest = np.diff(LEVELS).max() / 2 if kind == "nf4" else 0.5 / 127
    error = np.abs(found - x).reshape(*blocks.shape, -1).max(axis=-1)
    assert (error <= 1.01 * widest * blocks).all()


def hard_values() -> np.ndarray:
    """Blocks of zeros, of denormal and huge values, of ties, and of one value that outweighs the others."""
    random = np.random.default_rng(1)
    x = random.normal(0, 0.02, (16, 128)).astype(np.float32)
    x[0] = 0
    x[1] = 1e-39
    x[2, :64], x[2, 64:] = 3.4e38, -3.4e38
    x[3, 5] = 1e30
    x[4] *= 1e-18
    x[5] = 2.0**-60
    x[6, 1:] = 1e-41
    scale = 0.02  # halves of steps, and midpoints of levels, of a block whose scale bfloat16 represents
    scale = float(np.float32(scale).astype(ml_dtypes.bfloat16))
    x[7] = np.resize((np.arange(-127, 128) + 0.5) * scale, 128)
    x[7, :2] = 127 * scale
    x[8] = np.resize(MIDPOINTS * np.float32(scale), 128)
    x[8, ::32] = scale
    return x


def test_numpy_and_jax_give_the_same_bits(kind: str):
    """Checksums of the codes are compared between hosts, and between devices and an export."""
    x = np.concatenate([hard_values(), np.random.default_rng(2).normal(0, 1, (2000, 128)).astype(np.float32)])
    host = quantized_on_host(x, kind)
    for device in (quantized(jnp.asarray(x), kind), jax.jit(lambda x: quantized(x, kind))(x)):
        np.testing.assert_array_equal(device.codes, host.codes)
        np.testing.assert_array_equal(np.asarray(device.scales).view(np.uint16), host.scales.view(np.uint16))


def test_hard_values_stay_finite_and_near(kind: str):
    x = hard_values()
    for dtype in (jnp.float32, jnp.bfloat16):
        found = np.asarray(dequantized(quantized(jnp.asarray(x), kind), dtype), np.float32)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[:2], 0)
        np.testing.assert_allclose(found[2], x[2], rtol=1e-2)
        np.testing.assert_allclose(found[3, 5], 1e30, rtol=1e-2)
        np.testing.assert_allclose(np.abs(found[4]).max(), np.abs(x[4]).max(), rtol=1e-2)


def test_shapes_say_what_is_made(kind: str):
    for shape in ((2, 3, 128), (2, 3, 4, 8), (5, 80)):
        made, said = quantized(jnp.zeros(shape), kind), quantized_shape(shape, kind)
        for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(said), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert made.shape == said.shape == shape
    whole = quantized_shape((64, 128), kind)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(whole))
    assert held == 64 * 128 * bytes_per_value(kind) == 64 * 128 * (1.0625 if kind == "int8" else 0.5625)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_computes_with_the_dequantized_matrices(kind: str, dtype: str):
    model = adapted(build(VARIANTS["tiny"]), LoraConfig(rank=2, base_dtype=kind))  # type: ignore[arg-type]
    params = in_types_of(init_params(model.config, 0), model.shapes)
    is_quantized = lambda leaf: isinstance(leaf, Quantized)  # noqa: E731
    plain = jax.tree.map(
        lambda leaf: dequantized(leaf, jnp.float32) if is_quantized(leaf) else leaf, params, is_leaf=is_quantized
    )
    assert sum(map(is_quantized, jax.tree.leaves(params, is_leaf=is_quantized))) == 7
    tokens = np.random.default_rng(0).integers(3, 256, (2, 24))
    rows = (tokens, np.broadcast_to(np.arange(24), tokens.shape), np.ones_like(tokens))
    ours, theirs = (jax.jit(lambda p: model.merge(p)(*rows, dtype))(each) for each in (params, plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    random = jax.jit(lambda p: model.merge(p)(*rows, dtype))(init_params(model.config, 0))
    assert np.abs(np.asarray(random) - np.asarray(ours)).max() > 1e-4


def test_levels_are_those_of_the_paper():
    """Quantiles of the normal distribution, normalized to 1: eight below zero, zero, and seven above."""
    from statistics import NormalDist

    offset = 0.5 * ((1 - 1 / (2 * 15)) + (1 - 1 / (2 * 16)))
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort([*above, 0.0, *below]) / max(above)
    np.testing.assert_allclose(np.sort(LEVELS), levels, atol=1e-6)
