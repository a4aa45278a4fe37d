"""Adapters train the same on every mesh and in any number of parts, beside weights that do not change."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import adapted
from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import (
    LORA_TARGETS,
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.decoder import Model, build
from asclepius_jax.model.huggingface.names import flatten
from asclepius_jax.model.lora import Adapters, Lora, Noise, drop, init_adapters
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import (
    abstract_batch,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
    state_shardings,
    weights_of,
)
from tests.helpers.training.tiny_step import LENGTH, LOSS_RTOL, PARAM_ATOL, ROWS, STEPS, first_params, made_batch

TINY = build(VARIANTS["tiny"])
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.2, base_dtype="float32")
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, weight_decay=0.1, epsilon=1e-6),
    lora=LORA,
)
ONE = (1, 1, 1, 1)


class Program(NamedTuple):
    mesh: Mesh
    optimizer: optax.GradientTransformation
    shardings: State
    step: Any
    config: TrainConfig

    def start(self) -> State:
        put = lambda tree, name: jax.device_put(jax.tree.map(jnp.array, tree), self.shardings[name])  # noqa: E731
        model = adapted(TINY, self.config.lora)
        params = jax.tree.map(lambda x, shape: x.astype(shape.dtype), first_params(), model.shapes)
        adapters = put(first_adapters(self.config.lora.targets, self.config.lora.magnitudes), "adapters")
        return init_state(put(params, "params"), self.optimizer, self.shardings, adapters)


def first_adapters(targets: tuple[str, ...] = LORA_TARGETS, magnitudes: bool = False) -> Any:
    """B is not zero here, as it is at the start of a run: A would have no gradient in the first step."""
    random = np.random.default_rng(0)
    model = adapted(TINY, dataclasses.replace(LORA, targets=targets, magnitudes=magnitudes))
    return jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), model.adapter_shapes)


def program(mesh_shape: tuple[int, int, int, int], config: TrainConfig) -> Program:
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    optimizer, model = make_optimizer(config.optimizer, STEPS), adapted(TINY, config.lora)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, STEPS, shardings, mesh, Kernel())
    return Program(mesh, optimizer, shardings, step, config)


@functools.cache
def run(mesh_shape: tuple[int, int, int, int], config: TrainConfig) -> tuple[list[float], State, int]:
    """(losses, final state, programs compiled) of three steps."""
    on = program(mesh_shape, config)
    state, losses = on.start(), []
    for n in range(STEPS):
        state, numbers = on.step(state, jax.device_put(made_batch(n), batch_sharding(on.mesh)))
        losses.append(float(numbers["loss"]))
    return losses, jax.device_get(state), on.step._cache_size()


def with_parts(microbatches: int) -> TrainConfig:
    return dataclasses.replace(CONFIG, batch=BatchConfig(ROWS, microbatches))


def with_lora(**values: Any) -> TrainConfig:
    return dataclasses.replace(with_parts(1), lora=dataclasses.replace(LORA, **values))


# ---------------------------------------------------------------- the step


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"),
    [
        (ONE, 2),
        ((8, 1, 1, 1), 1),
        ((1, 8, 1, 1), 2),
        ((2, 2, 2, 1), 2),
        pytest.param((1, 1, 2, 1), 1, marks=pytest.mark.slow),  # (2, 2, 2, 1) has this axis too
        pytest.param((1, 1, 1, 2), 1, marks=pytest.mark.slow),
        pytest.param((1, 2, 1, 2), 4, marks=pytest.mark.slow),
    ],
)
def test_three_steps_are_the_same_on_every_mesh_dropout_included(mesh_shape: Any, microbatches: int):
    expected, reference, _ = run(ONE, with_parts(1))
    losses, state, programs = run(mesh_shape, with_parts(microbatches))
    np.testing.assert_allclose(losses, expected, rtol=LOSS_RTOL)
    ours, theirs = flatten(state["adapters"]), flatten(reference["adapters"])
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=PARAM_ATOL, rtol=0, err_msg=name)
        moved = np.abs(value - flatten(first_adapters())[name]).max()
        assert moved > 50 * PARAM_ATOL, name  # far beyond rounding
    assert programs == 1


@pytest.mark.parametrize("mesh_shape", [(1, 2, 1, 1), (1, 1, 2, 1), (2, 2, 2, 1), (1, 1, 1, 2)])
def test_magnitudes_train_the_same_on_every_mesh(mesh_shape: Any):
    """The inputs of o and down, over which the columns have their lengths, are split over tensor devices."""
    config = with_lora(magnitudes=True, rank_stabilized=True)
    expected, reference, _ = run(ONE, config)
    losses, state, programs = run(mesh_shape, config)
    np.testing.assert_allclose(losses, expected, rtol=LOSS_RTOL)
    ours, first = flatten(state["adapters"]), flatten(first_adapters(magnitudes=True))
    for name, value in flatten(reference["adapters"]).items():
        np.testing.assert_allclose(ours[name], value, atol=PARAM_ATOL, rtol=0, err_msg=name)
        assert np.abs(value - first[name]).max() > 50 * PARAM_ATOL, name
    assert programs == 1


def test_the_base_stays_as_it_was_bit_for_bit():
    _, state, _ = run((2, 2, 2, 1), with_parts(2))
    for name, value in flatten(first_params()).items():
        np.testing.assert_array_equal(flatten(state["params"])[name], value, err_msg=name)


def test_the_optimizer_holds_nothing_of_the_base():
    _, state, _ = run(ONE, with_parts(1))
    held = sum(leaf.size for leaf in jax.tree.leaves(state["optimizer"]) if leaf.ndim)
    assert held == 2 * sum(leaf.size for leaf in jax.tree.leaves(state["adapters"]))


def test_without_dropout_or_adapters_that_say_anything_the_model_is_the_base():
    on = program(ONE, with_lora(dropout=0.0))
    state = weights_of(on.start())
    state["adapters"] = init_adapters(TINY.config, Lora(3, 6.0, LORA_TARGETS), 0)
    with_them = make_eval_step(on.config, adapted(TINY, on.config.lora), on.shardings, on.mesh, Kernel())
    plain = state_shardings(on.mesh, TINY, on.optimizer)
    without = make_eval_step(CONFIG, TINY, plain, on.mesh, Kernel())
    batch = made_batch(0)
    assert float(with_them(state, batch)["loss"]) == float(without({"params": state["params"]}, batch)["loss"])
    state["adapters"] = first_adapters()
    assert float(with_them(state, batch)["loss"]) != float(without({"params": state["params"]}, batch)["loss"])


def test_evaluation_drops_nothing():
    losses = []
    for rate in (0.0, 0.5):
        on = program(ONE, with_lora(dropout=rate))
        step = make_eval_step(on.config, adapted(TINY, on.config.lora), on.shardings, on.mesh, Kernel())
        losses.append(float(step(on.start(), made_batch(0))["loss"]))
    assert losses[0] == losses[1]
    assert run(ONE, with_lora(dropout=0.5))[0][0] != run(ONE, with_lora(dropout=0.0))[0][0]


def test_the_update_is_scaled_by_alpha_over_rank():
    """Twice alpha is twice B."""
    losses = []
    for alpha, factor in ((12.0, 1.0), (6.0, 2.0)):
        on = program(ONE, with_lora(alpha=alpha, dropout=0.0))
        state = on.start()
        state["adapters"] = {
            name: {"A": parts["A"], "B": factor * parts["B"]} for name, parts in state["adapters"].items()
        }
        losses.append(float(on.step(state, made_batch(0))[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(("rank", "alpha"), [(12, 16.0), (6, 16.0), (100, 64.0), (4, 8.0)])
def test_in_bfloat16_the_update_has_the_scale_of_the_merged_matrix(rank: int, alpha: float):
    """alpha / rank itself would be rounded by up to 0.4 %; its products are rounded up as often as down."""
    random, lora = np.random.default_rng(0), Lora(rank, alpha, ("q",))
    a, b = (random.normal(size=shape).astype(ml_dtypes.bfloat16) for shape in ((64, rank), (rank, 4, 16)))
    x_BTD = random.normal(size=(4, 128, 64)).astype(ml_dtypes.bfloat16)
    weights = {"q": {"A": jnp.asarray(a, jnp.float32), "B": jnp.asarray(b, jnp.float32)}}
    project = lambda adapters: adapters.project(  # noqa: E731
        "q", "BTD,DNH->BTNH", jnp.asarray(x_BTD), jnp.zeros((64, 4, 16), jnp.bfloat16), Parallel()
    )
    update = np.asarray(project(Adapters(lora, weights)), np.float64)
    exact = alpha / rank * np.einsum("BTD,DR,RNH->BTNH", *(each.astype(np.float64) for each in (x_BTD, a, b)))
    assert (update * exact).sum() / (exact**2).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.3])
def test_in_bfloat16_dropout_keeps_the_mean_too(rate: float):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 128, 64)), jnp.bfloat16)
    places = jnp.arange(64 * 128, dtype=jnp.uint32).reshape(64, 128)
    dropped = np.asarray(drop(x, Noise(jax.random.key(0), places), rate, "q", 0), np.float64)
    kept = np.where(dropped != 0, np.asarray(x, np.float64), 0)
    assert (dropped * kept).sum() / (kept**2).sum() == pytest.approx(1 / (1 - rate), rel=2e-4)


@pytest.mark.slow
def test_a_base_in_bfloat16_trains_as_one_in_float32_does_where_the_step_computes_in_bfloat16():
    """The step rounds float32 matrices to bfloat16 before it uses them: rounding them once and for all is no other."""
    compute = ComputeConfig("bfloat16", "full")
    half, whole = (
        run((1, 2, 2, 1), dataclasses.replace(with_lora(base_dtype=dtype), compute=compute))
        for dtype in ("bfloat16", "float32")
    )
    assert half[0] == whole[0]
    for name, value in flatten(whole[1]["adapters"]).items():
        np.testing.assert_array_equal(flatten(half[1]["adapters"])[name], value, err_msg=name)
    kept = {name: leaf.dtype for name, leaf in flatten(half[1]["params"]).items()}
    assert {name for name, dtype in kept.items() if dtype == np.float32} == {
        "norm.scale", "blocks.attention_norm.scale", "blocks.mlp_norm.scale",
    }  # fmt: skip
    assert kept["blocks.mlp.up_DF"] == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "targets",
    [("q", "v"), pytest.param(("o",), marks=pytest.mark.slow), pytest.param(("down", "gate"), marks=pytest.mark.slow)],
)
def test_some_targets_alone_have_adapters(targets: tuple[str, ...]):
    _, state, _ = run((1, 2, 2, 1), with_lora(targets=targets))
    assert set(state["adapters"]) == set(targets)
    for name, value in flatten(first_adapters(targets)).items():
        assert np.abs(flatten(state["adapters"])[name] - value).max() > 50 * PARAM_ATOL, name


def products(jaxpr: Any) -> set[tuple[int, ...]]:
    """Sorted dimensions of every product and of every sum that is sliced, in a program and what it is made of."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "reduce_scatter"):
            found.add(tuple(sorted(equation.outvars[0].aval.shape)))
        for inner in jaxprs_in_params(equation.params):
            found |= products(inner)
    return found


def shapes_made(config: TrainConfig, model: Model) -> set[tuple[int, ...]]:
    """Of what two devices compute in a step; what nothing depends on is left out, as compilers leave it out."""
    mesh = make_mesh(MeshConfig(1, 2), jax.devices()[:2])
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, STEPS, shardings, mesh, Kernel())
    state = abstract_state(model, optimizer, shardings)
    traced = step.trace(state, abstract_batch(config, mesh)).jaxpr.jaxpr
    return products(partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars), instantiate=True)[0])


@pytest.mark.parametrize(("remat", "magnitudes"), [("none", False), ("full", False), ("full", True)])
def test_no_gradient_of_the_base_is_made(remat: str, magnitudes: bool):
    """And no product of A and B, for which the lengths of columns need none."""
    config = dataclasses.replace(
        with_lora(dropout=0.0, magnitudes=magnitudes),
        data=DataConfig(row_length=LENGTH),
        compute=ComputeConfig("float32", remat),
    )
    D, N, K, H, F, V = 32, 4, 2, 8, 64, 256
    whole = {tuple(sorted(shape)) for shape in ((D, N, H), (D, K, H), (D, F), (D, V))}
    sliced = {tuple(sorted(shape)) for shape in ((D // 2, N, H), (D // 2, K, H), (D // 2, F), (D // 2, V))}
    assert not shapes_made(config, adapted(TINY, config.lora)) & (whole | sliced)
    assert whole | sliced <= shapes_made(config, TINY), "training everything makes all of them"


# ---------------------------------------------------------------- dropout


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    places = jnp.arange(64 * 128, dtype=jnp.uint32).reshape(64, 128)
    ones = jnp.ones((64, 128, 256))
    dropped = np.asarray(drop(ones, Noise(jax.random.key(0), places), 0.25, "q", 0))
    zero = dropped == 0
    assert zero.mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / ones.size))
    np.testing.assert_allclose(dropped[~zero], 1 / 0.75, rtol=1e-6)
    # Neither a channel, nor a token, nor a pair of neighbours along either, falls out of the ordinary.
    for axes, count in (((0, 1), 64 * 128), ((2,), 256)):
        shares = zero.mean(axis=axes)
        assert np.abs(shares - 0.25).max() < 6 * math.sqrt(0.25 * 0.75 / count)
        assert shares.std() == pytest.approx(math.sqrt(0.25 * 0.75 / count), rel=0.2)
    for a, b in ((zero[:, :, 1:], zero[:, :, :-1]), (zero[:, 1:], zero[:, :-1]), (zero[1:], zero[:-1])):
        assert (a & b).mean() == pytest.approx(0.25**2, abs=5e-4)


def test_seed_step_layer_and_target_each_drop_others():
    places = jnp.arange(256, dtype=jnp.uint32).reshape(2, 128)
    ones, key = jnp.ones((2, 128, 64)), jax.random.key(0)
    kept = [
        np.asarray(drop(ones, Noise(k, places), 0.5, name, 0)) > 0
        for k, name in ((key, "q"), (jax.random.key(1), "q"), (jax.random.fold_in(key, 1), "q"), (key, "k"))
    ]
    for i in range(4):
        for j in range(i):
            assert (kept[i] == kept[j]).mean() == pytest.approx(0.5, abs=0.03)
    # Half of the channels, as the second of two tensor devices has them.
    half = np.asarray(drop(ones[:, :, 32:], Noise(key, places), 0.5, "q", 1)) > 0
    np.testing.assert_array_equal(half, kept[0][:, :, 32:])


def test_every_step_of_a_run_drops_others():
    on = program(ONE, with_lora(dropout=0.5))
    losses = []
    for step in (0, 0, 1):
        state = on.start() | {"step": jax.device_put(jnp.int32(step), on.shardings["step"])}
        losses.append(float(on.step(state, made_batch(0))[1]["loss"]))
    assert losses[0] == losses[1] != losses[2]


def test_every_layer_of_a_model_drops_others():
    noise = Noise(jax.random.key(0), jnp.zeros((1, 1), jnp.uint32))
    adapters = Adapters(Lora(3, 6.0, ("q",), 0.5), {"q": first_adapters()["q"]}, noise)
    keys = adapters.by_layer()[1]
    assert not (jax.random.key_data(keys[0]) == jax.random.key_data(keys[1])).all()
    seen = adapters.of_layer(jax.tree.map(lambda x: x[1], adapters.by_layer())).noise
    assert (jax.random.key_data(seen.key) == jax.random.key_data(keys[1])).all()
