"""Products in eight bits equal those of codes that NumPy rounds, in float64; and no faulty number is rounded away."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.kernels.eight_bits import blocks_to_round, eight_bit_product, multiplies, to_round
from asclepius_jax.model.lora import TARGETS

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
# einsum, sizes, and the axes of the matrix that the product sums over.
SPECS = {
    "in": ("BTD,DNH->BTNH", {"B": 2, "T": 24, "D": 32, "N": 3, "H": 8}, (0,)),
    "out": ("BTNH,DNH->BTD", {"B": 2, "T": 24, "D": 32, "N": 3, "H": 8}, (1, 2)),
    "up": ("BTD,DF->BTF", {"B": 2, "T": 24, "D": 32, "F": 40}, (0,)),
    "down": ("BTF,DF->BTD", {"B": 2, "T": 24, "D": 32, "F": 40}, (1,)),
}


def operands(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x with some large channels, as models have them; a matrix; and a gradient of the product."""
    random = np.random.default_rng(len(name))
    spec, sizes, _ = SPECS[name]
    x, matrix, out = (random.normal(size=[sizes[c] for c in letters]) for letters in letters_of(spec))
    x[..., :2] *= 30
    return x.astype(np.float32), (0.02 * matrix).astype(np.float32), (1e-6 * out).astype(np.float32)


def letters_of(spec: str) -> tuple[str, str, str]:
    inputs, out = spec.split("->")
    return (*inputs.split(","), out)  # type: ignore[return-value]


def ours(name: str, x: Any, matrix: Any, kind: str, native: bool = False, trained: bool = True) -> jax.Array:
    spec, _, axes = SPECS[name]
    weight = to_round(matrix[None], axes, Parallel(matmul=kind, native=native), trained)
    return eight_bit_product(spec, x, jax.tree.map(lambda a: a[0], weight))


def float8(x: np.ndarray, dtype: Any) -> np.ndarray:
    """The values that x has in float8 with one power of two as its scale, which puts the largest in the upper half."""
    half = {E4M3: 128.0, E5M2: 16384.0}[dtype]
    scale = 2.0 ** (math.floor(math.log2(np.abs(x).max())) - math.log2(half))
    return (x / np.float32(scale)).astype(dtype).astype(np.float64) * scale


def int8(x: np.ndarray, letters: str, summed: str) -> np.ndarray:
    axes = tuple(i for i, letter in enumerate(letters) if letter in summed)
    scale = np.abs(x).max(axis=axes, keepdims=True) / np.float32(127)
    return np.round(x / scale).astype(np.int8).astype(np.float64) * scale


def reference(name: str, kind: str) -> list[np.ndarray]:
    """Product, gradient of x and gradient of the matrix."""
    spec = SPECS[name][0]
    a, b, out = letters_of(spec)
    x, matrix, grad = operands(name)
    if kind == "float8":
        x, matrix, grad = float8(x, E4M3), float8(matrix, E4M3), float8(grad, E5M2)
        return [
            np.einsum(spec, x, matrix),
            np.einsum(f"{out},{b}->{a}", grad, matrix),
            np.einsum(f"{a},{out}->{b}", x, grad),
        ]
    summed = set(a) & set(b)
    scale = np.abs(matrix).max(axis=SPECS[name][2], keepdims=True) / np.float32(127)
    codes = np.round(matrix / scale)
    taken = grad * scale.reshape([matrix.shape[b.index(c)] if c in b and c not in summed else 1 for c in out])
    return [
        np.einsum(spec, int8(x, a, b), codes.astype(np.float64) * scale),
        np.einsum(f"{out},{b}->{a}", int8(taken.astype(np.float32), out, b), codes.astype(np.float64)),
        np.einsum(f"{a},{out}->{b}", x.astype(np.float64), grad),
    ]


@pytest.mark.parametrize("kind", ["float8", "int8"])
@pytest.mark.parametrize("name", SPECS)
def test_product_and_gradients_are_those_of_the_rounded_operands(name: str, kind: str):
    x, matrix, grad = operands(name)
    y, pull = jax.vjp(lambda x, w: ours(name, x, w, kind), x, matrix)
    for found, expected in zip((y, *pull(jnp.asarray(grad))), reference(name, kind), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "most"), [("float8", 0.07), ("int8", 0.02)])
@pytest.mark.parametrize("name", SPECS)
def test_rounding_changes_the_results_by_a_few_percent(name: str, kind: str, most: float):
    x, matrix, grad = operands(name)
    exact, exact_pull = jax.vjp(lambda x, w: jnp.einsum(SPECS[name][0], x, w), x, matrix)
    y, pull = jax.vjp(lambda x, w: ours(name, x, w, kind), x, matrix)
    changes = [
        float(jnp.linalg.norm(found - right) / jnp.linalg.norm(right))
        for found, right in zip((y, *pull(jnp.asarray(grad))), (exact, *exact_pull(jnp.asarray(grad))), strict=True)
    ]
    assert max(changes) < most
    assert changes[0] > 1e-3  # it is rounded


@pytest.mark.parametrize("kind", ["float8", "int8"])
@pytest.mark.parametrize("name", SPECS)
def test_a_device_that_has_no_eight_bits_computes_the_same(name: str, kind: str):
    x, matrix, grad = operands(name)
    results = []
    for native in (True, False):
        y, pull = jax.vjp(lambda x, w, native=native: ours(name, x, w, kind, native), x, matrix)
        results.append((y, *pull(jnp.asarray(grad))))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * float(jnp.abs(other).max()))


def test_scaling_float8_rounds_nothing():
    x, matrix, _ = operands("in")
    y = ours("in", x, matrix, "float8")
    np.testing.assert_array_equal(ours("in", x * 2.0**-40, matrix * 2.0**13, "float8"), y * 2.0**-27)


@pytest.mark.parametrize("kind", ["float8", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["x", "matrix", "gradient"])
def test_a_number_that_is_not_finite_reaches_the_result(kind: str, bad: float, place: str):
    values = dict(zip(("x", "matrix", "gradient"), operands("up"), strict=True))
    values[place].flat[5] = bad
    y, pull = jax.vjp(lambda x, w: ours("up", x, w, kind), values["x"], values["matrix"])
    x_grad, matrix_grad = pull(jnp.asarray(values["gradient"]))
    if place != "gradient":
        assert not np.isfinite(y).all()
    else:
        assert not np.isfinite(x_grad).all()
        assert not np.isfinite(matrix_grad).all()


@pytest.mark.parametrize("kind", ["float8", "int8"])
def test_zeros_stay_zeros(kind: str):
    x, matrix, grad = (np.zeros_like(each) for each in operands("up"))
    y, pull = jax.vjp(lambda x, w: ours("up", x, w, kind), x, matrix)
    for each in (y, *pull(jnp.asarray(grad))):
        np.testing.assert_array_equal(each, 0)


def test_a_frozen_matrix_has_no_gradient():
    x, matrix, grad = operands("up")
    _, pull = jax.vjp(lambda x, w: ours("up", x, w, "float8", trained=False), x, matrix)
    x_grad, matrix_grad = pull(jnp.asarray(grad))
    np.testing.assert_array_equal(matrix_grad, 0)
    np.testing.assert_array_equal(x_grad, jax.vjp(lambda x, w: ours("up", x, w, "float8"), x, matrix)[1](grad)[0])


def test_every_matrix_of_a_block_is_rounded_and_nothing_else():
    of_layers = {"attention": {"scale": 1}, "mlp": {"up_bias_F": 2}}
    for target in TARGETS.values():
        branch, leaf = target.parameter.split(".")
        of_layers[branch][leaf] = jnp.ones((2, *range(3, 3 + len(target.matrix))))
    rounded = blocks_to_round(of_layers, TARGETS.values(), Parallel(matmul="int8"), True)
    assert rounded["attention"]["scale"] == 1
    assert rounded["mlp"]["up_bias_F"] == 2
    assert rounded["attention"]["o_DNH"].scale.shape == (2, 3, 1, 1)
    assert rounded["attention"]["q_DNH"].scale.shape == (2, 1, 4, 5)
    assert isinstance(of_layers["attention"]["q_DNH"], jax.Array)  # the caller's own are untouched


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "fast"),
    [
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0", set()),
        ("gpu", "NVIDIA L4", "8.9", {"float8"}),
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", {"float8"}),
        ("gpu", "NVIDIA B200", "10.0", {"float8"}),
        ("tpu", "TPU v4", None, set()),
        ("tpu", "TPU v5 lite", None, {"int8"}),
        ("tpu", "TPU v5", None, {"int8"}),
        ("tpu", "TPU v6 lite", None, {"int8"}),
        ("tpu", "TPU7x", None, {"float8"}),
        ("cpu", "cpu", None, set()),
    ],
)
def test_the_devices_that_multiply_a_type_faster(platform: str, kind: str, capability: str | None, fast: set[str]):
    class Device:
        pass

    device: Any = Device()
    device.platform, device.device_kind, device.compute_capability = platform, kind, capability
    assert {each for each in ("bfloat16", "float8", "int8") if multiplies(each, device)} == fast
