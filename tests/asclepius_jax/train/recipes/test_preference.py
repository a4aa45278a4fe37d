"""Preference tuning: signed weights give DPO's gradient, on every mesh, packed or not, through kills."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    MeshConfig,
    OptimizerConfig,
    PreferenceConfig,
    TrainConfig,
)
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build, init_params
from asclepius_jax.train.batches import unpack, without_preference
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import init_state, make_eval_step, make_train_step, state_shardings
from data_prep.contract.records import PackedRow
from tests.helpers.made_inputs import MODEL

LENGTH, ROWS, STEPS = 64, 8, 3
SETTINGS = PreferenceConfig(beta=0.3, anchor_weight=0.25)
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(1e-3, "constant", 0.0, epsilon=1e-6),
    preference=SETTINGS,
)
TINY = build(MODEL)


@functools.cache
def first_params() -> Any:
    return jax.device_get(jax.jit(lambda: init_params(MODEL, 3))())


def made_row(seed: int, weights: list[float], pairs: list[int]) -> PackedRow:
    """Documents of 8 to 15 tokens, with loss on the last few, and made log-probabilities of a reference."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, 16, len(weights))
    masks = [np.arange(length) >= random.integers(3, length - 2) for length in lengths]
    return PackedRow(
        tokens=random.integers(3, MODEL.vocab_size, lengths.sum()),
        segment_lengths=lengths,
        loss_mask=np.concatenate(masks),
        weights=np.array(weights, np.float32),
        pairs=np.array(pairs, np.uint32),
        reference=random.normal(-30, 3, len(weights)).astype(np.float32),
    )


@functools.cache
def made_rows() -> tuple[PackedRow, ...]:
    """Eight rows: pairs, one of double weight, samples with and without weight, and samples to be made less likely."""
    kinds: list[tuple[list[float], list[int]]] = [
        ([1, -1, 1, -1], [1, 1, 2, 2]), ([1, -1, 1], [1, 1, 0]), ([1, -1, -0.5], [1, 1, 0]), ([2, -2], [1, 1]),
        ([1, -1, 1, -1], [1, 1, 2, 2]), ([0.5, 1, -1, -1], [0, 1, 1, 0]), ([1, -1], [1, 1]), ([1, -1, 3], [1, 1, 0]),
    ]  # fmt: skip
    return tuple(made_row(seed, weights, pairs) for seed, (weights, pairs) in enumerate(kinds))


def as_batch(rows: list[PackedRow], size: int = ROWS) -> dict[str, np.ndarray]:
    empty = {name: np.zeros_like(array) for name, array in unpack(rows[0], LENGTH).items()}
    unpacked = [unpack(row, LENGTH) for row in rows] + [empty] * (size - len(rows))
    return {name: np.stack([row[name] for row in unpacked]) for name in unpacked[0]}


def direct_loss(params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    """The loss as the papers write it, one document at a time, from plain log-probabilities."""
    decoder = TINY.merge(params)
    losses, chosen, chosen_tokens, unpaired, unpaired_tokens = [], 0.0, 0, 0.0, 0
    for row in rows:
        ends = np.cumsum(row.segment_lengths)
        found: dict[int, list[tuple[float, jax.Array]]] = {}
        for start, end, weight, number, stored in zip(
            ends - row.segment_lengths, ends, row.weights, row.pairs, row.reference, strict=True
        ):
            tokens, mask = row.tokens[start:end], row.loss_mask[start:end][1:]
            ones = jnp.ones((1, len(tokens)), jnp.int32)
            logits = decoder(jnp.array(tokens)[None], jnp.arange(len(tokens))[None], ones, "float32")[0]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), jnp.array(tokens[1:])[:, None], 1)[:, 0]
            if number:
                found.setdefault(int(number), []).append((float(weight), jnp.sum(log_p * mask) - stored))
                chosen -= jnp.sum(log_p * mask) if weight > 0 else 0
                chosen_tokens += int(mask.sum()) if weight > 0 else 0
            else:
                of_tokens = -log_p if weight > 0 else -jnp.log1p(-jnp.exp(log_p))
                unpaired += abs(float(weight)) * jnp.sum(of_tokens * mask)
                unpaired_tokens += int(mask.sum())
        for (weight, better), (_, worse) in found.values():
            losses.append(-weight * jax.nn.log_sigmoid(SETTINGS.beta * (better - worse)))
    anchor = SETTINGS.anchor_weight * chosen / chosen_tokens
    return sum(losses) / len(losses) + anchor + unpaired / max(unpaired_tokens, 1)


@pytest.fixture(scope="module")
def expected() -> tuple[list[float], Any]:
    """(losses, final parameters) of three steps by automatic differentiation of the direct loss."""
    optimizer, params = make_optimizer(CONFIG.optimizer, STEPS), jax.tree.map(jnp.array, first_params())
    state, losses = optimizer.init(params), []
    step = jax.jit(jax.value_and_grad(lambda params: direct_loss(params, made_rows())))
    for _ in range(STEPS):
        loss, grads = step(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses, jax.device_get(params)


def run(
    rows: list[PackedRow], mesh_shape: tuple[int, ...] = (1, 1, 1, 1), microbatches: int = 1, size: int = ROWS
) -> tuple[list[dict[str, float]], Any]:
    """(metrics, final parameters) of three steps of the trainer's step on the same batch."""
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    config = dataclasses.replace(CONFIG, batch=BatchConfig(size, microbatches))
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, TINY, optimizer)
    step = make_train_step(config, TINY, STEPS, shardings, mesh, Kernel())
    params = jax.device_put(jax.tree.map(jnp.array, first_params()), shardings["params"])
    state, metrics = init_state(params, optimizer, shardings), []
    batch = jax.device_put(as_batch(rows, size), batch_sharding(mesh))
    for _ in range(STEPS):
        state, numbers = step(state, batch)
        metrics.append({name: float(value) for name, value in numbers.items()})
    return metrics, jax.device_get(state["params"])


def assert_as(found: tuple[list[dict[str, float]], Any], expected: tuple[list[float], Any]) -> None:
    np.testing.assert_allclose([row["loss"] for row in found[0]], expected[0], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=0), found[1], expected[1])


# ---------------------------------------------------------------- the gradient


QUICK = [((1, 1, 1, 1), 1), ((1, 1, 1, 1), 4), ((2, 2, 2, 1), 2), ((2, 2, 1, 2), 1)]
REST = [((8, 1, 1, 1), 1), ((1, 8, 1, 1), 1), ((1, 1, 2, 1), 2), ((1, 1, 1, 2), 8), ((1, 1, 2, 1), 1)]


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_three_steps_are_those_of_the_loss_of_the_papers(expected: Any, mesh_shape: Any, microbatches: int):
    assert_as(run(list(made_rows()), mesh_shape, microbatches), expected)


def test_three_steps_move_the_parameters_far_beyond_rounding(expected: Any):
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected[1], first_params())
    assert min(jax.tree.leaves(moved)) > 1e-3


def one_by_one(rows: tuple[PackedRow, ...]) -> list[PackedRow]:
    """Every pair, and every sample without one, in a row of its own."""
    apart = []
    for row in rows:
        ends = np.cumsum(row.segment_lengths)
        numbers = [f"pair {n}" if n else f"single {place}" for place, n in enumerate(row.pairs)]
        for name in dict.fromkeys(numbers):
            places = [place for place, each in enumerate(numbers) if each == name]
            tokens = np.concatenate([np.arange(ends[p] - row.segment_lengths[p], ends[p]) for p in places])
            apart.append(
                PackedRow(
                    row.tokens[tokens], row.segment_lengths[places], row.loss_mask[tokens], row.weights[places],
                    np.minimum(row.pairs[places], 1), row.reference[places],
                )
            )  # fmt: skip
    return apart


def test_packed_is_as_unpacked(expected: Any):
    rows = one_by_one(made_rows())
    assert len(rows) == 15
    assert_as(run(rows, size=16), expected)


def test_the_measures_are_those_of_the_pairs():
    metrics, _ = run(list(made_rows()))
    pairs = tuple(row for row in one_by_one(made_rows()) if row.pairs[0])
    margins = []
    for row in pairs:
        plain = dataclasses.replace(SETTINGS, anchor_weight=0.0)
        # -log sigmoid(m) = softplus(-m)
        alone = dataclasses.replace(row, weights=np.sign(row.weights))
        with_settings = float(direct_loss_of(plain, first_params(), (alone,)))
        margins.append(-math.log(math.expm1(with_settings)))
    first = metrics[0]
    assert first["preference_margin"] == pytest.approx(np.mean(margins), abs=1e-4)
    assert first["preference_accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
    weights = np.array([abs(row.weights[0]) for row in pairs])
    losses = weights * np.log1p(np.exp(-np.array(margins)))
    assert first["preference_loss"] == pytest.approx(losses.mean(), rel=1e-4)


def direct_loss_of(settings: PreferenceConfig, params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    anchored = direct_loss(params, rows)
    return anchored - (SETTINGS.anchor_weight - settings.anchor_weight) * chosen_loss(params, rows)


def chosen_loss(params: Any, rows: tuple[PackedRow, ...]) -> jax.Array:
    (row,) = rows
    tokens, mask = row.tokens[: row.segment_lengths[0]], row.loss_mask[: row.segment_lengths[0]][1:]
    ones = jnp.ones((1, len(tokens)), jnp.int32)
    logits = TINY.merge(params)(jnp.array(tokens)[None], jnp.arange(len(tokens))[None], ones, "float32")[0]
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), jnp.array(tokens[1:])[:, None], 1)[:, 0]
    return -jnp.sum(log_p * mask) / mask.sum()


def test_held_out_pairs_are_measured_alike():
    mesh = make_mesh(MeshConfig(2, 2, 1, 2), jax.devices()[:8])
    shardings = state_shardings(mesh, TINY, make_optimizer(CONFIG.optimizer, STEPS))
    step = make_eval_step(CONFIG, TINY, shardings, mesh, Kernel())
    params = jax.device_put(jax.tree.map(jnp.array, first_params()), shardings["params"])
    sums = jax.device_get(step({"params": params}, jax.device_put(as_batch(list(made_rows())), batch_sharding(mesh))))
    first = run(list(made_rows()))[0][0]
    assert sums["weight"] == 10
    assert sums["loss"] / 10 == pytest.approx(first["preference_loss"], rel=1e-5)
    assert sums["accuracy"] / 10 == pytest.approx(first["preference_accuracy"])


def test_a_sample_that_is_certain_still_has_a_finite_gradient():
    """Unlikelihood divides by 1 - p, which is 0 in float32 for a token that the model is sure of."""
    rows = [
        dataclasses.replace(
            made_row(1, [-1.0], [0]), loss_mask=np.ones(int(made_row(1, [-1.0], [0]).segment_lengths[0]), bool)
        )
    ]
    sure = jax.tree.map(lambda x: 40 * x, first_params())
    mesh = make_mesh(MeshConfig(1, 1), jax.devices()[:1])
    optimizer = make_optimizer(CONFIG.optimizer, STEPS)
    shardings = state_shardings(mesh, TINY, optimizer)
    step = make_train_step(dataclasses.replace(CONFIG, batch=BatchConfig(1, 1)), TINY, STEPS, shardings, mesh, Kernel())
    greedy = rows[0]
    for _ in range(3):  # make the rows say what the model would
        batch = as_batch([greedy], 1)
        logits = TINY.merge(sure)(batch["tokens"], batch["positions"], batch["segment_ids"], "float32")[0]
        tokens = np.array(greedy.tokens)
        tokens[1:] = np.argmax(logits[: len(tokens) - 1], axis=1)
        greedy = dataclasses.replace(greedy, tokens=tokens)
    _, numbers = step(init_state(jax.tree.map(jnp.array, sure), optimizer, shardings), as_batch([greedy], 1))
    assert math.isfinite(float(numbers["loss"]))
    assert math.isfinite(float(numbers["grad_norm"]))
    assert not bool(numbers["skipped"])


def test_a_row_without_preference_has_the_arrays_of_one():
    row = made_row(0, [1.0], [0])
    plain = unpack(dataclasses.replace(row, weights=None, pairs=None, reference=None), LENGTH)
    assert without_preference(plain).keys() == unpack(row, LENGTH).keys()
