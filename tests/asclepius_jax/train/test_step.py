"""One step is the same step on every mesh, in any number of parts; and it is compiled once."""

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import BatchConfig, ComputeConfig, MeshConfig, OptimizerConfig, TrainConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.train.optimizer import learning_rate, make_optimizer
from asclepius_jax.train.step import init_state, make_eval_step, make_train_step, state_shardings
from tests.helpers.training.tiny_step import (
    LENGTH,
    LOSS_RTOL,
    MODEL,
    PARAM_ATOL,
    ROWS,
    STEPS,
    first_params,
    made_batch,
)

# Weight decay, clipping and a rate that moves every parameter by about 0.003 over the three steps.
CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, weight_decay=0.1, epsilon=1e-6),
)


class Program(NamedTuple):
    mesh: Mesh
    optimizer: optax.GradientTransformation
    shardings: State
    step: Any

    def start(self) -> State:
        # A copy: the step donates its state, and a host array may be lent to a device without one.
        params = jax.device_put(jax.tree.map(jnp.array, first_params()), self.shardings["params"])
        return init_state(params, self.optimizer, self.shardings)


@functools.cache
def program(mesh_shape: tuple[int, int, int, int], microbatches: int) -> Program:
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    config = dataclasses.replace(CONFIG, batch=BatchConfig(ROWS, microbatches))
    optimizer = make_optimizer(config.optimizer, STEPS)
    shardings = state_shardings(mesh, MODEL, optimizer)
    return Program(mesh, optimizer, shardings, make_train_step(config, MODEL, STEPS, shardings, mesh, Kernel()))


def run(mesh_shape: tuple[int, int, int, int], microbatches: int) -> tuple[list[float], Any, int]:
    """(losses, final parameters, programs compiled) of three steps."""
    on = program(mesh_shape, microbatches)
    state, losses = on.start(), []
    for n in range(STEPS):
        state, numbers = on.step(state, jax.device_put(made_batch(n), batch_sharding(on.mesh)))
        losses.append(float(numbers["loss"]))
    return losses, jax.device_get(state["params"]), on.step._cache_size()


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], Any, int]:
    return run((1, 1, 1, 1), 1)


# Each mesh and each number of parts here, the rest of the grid in slow: a program takes six seconds to compile.
ONE = (1, 1, 1, 1)
QUICK = [(ONE, 4), ((8, 1, 1, 1), 1), ((1, 8, 1, 1), 2), ((2, 2, 2, 1), 4), ((2, 2, 1, 2), 2)]
MESHES = [ONE, (8, 1, 1, 1), (1, 8, 1, 1), (2, 2, 2, 1), (2, 2, 1, 2), (4, 1, 2, 1), (1, 4, 1, 2)]
REST = [(m, n) for m in MESHES for n in (1, 2, 4) if (m, n) not in QUICK and (m, n) != (ONE, 1)]


@pytest.mark.parametrize(
    ("mesh_shape", "microbatches"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_meshes_and_microbatches_change_nothing(reference, mesh_shape: tuple[int, int, int, int], microbatches: int):
    losses, params, programs = run(mesh_shape, microbatches)
    np.testing.assert_allclose(losses, reference[0], rtol=LOSS_RTOL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=PARAM_ATOL, rtol=0), params, reference[1])
    assert programs == 1


def test_three_steps_move_the_parameters_far_beyond_rounding(reference):
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), reference[1], first_params())
    assert min(jax.tree.leaves(moved)) > 50 * PARAM_ATOL
    assert reference[2] == 1


def test_a_mean_of_means_would_be_another_loss(reference):
    """Microbatches hold unequal numbers of loss tokens, so that averaging their means weighs tokens unequally."""
    sums_and_counts = [parts_of_loss(part) for part in range(4)]
    counts = [count for _, count in sums_and_counts]
    assert max(counts) > 1.1 * min(counts)
    ours = sum(total for total, _ in sums_and_counts) / sum(counts)
    naive = np.mean([total / count for total, count in sums_and_counts])
    assert reference[0][0] == pytest.approx(ours, rel=LOSS_RTOL)
    assert abs(naive - ours) / ours > 20 * LOSS_RTOL


@functools.cache
def eval_step() -> Any:
    on = program(ONE, 1)
    return make_eval_step(CONFIG, MODEL, on.shardings, on.mesh, Kernel())


def parts_of_loss(part: int) -> tuple[float, float]:
    found = eval_step()({"params": first_params()}, {name: x[part::4] for name, x in made_batch(0).items()})
    return float(found["loss"]), float(found["weight"])


def test_an_update_that_is_not_finite_is_skipped():
    """Loss and gradient are finite, the second moments of one parameter are not."""
    on = program(ONE, 1)
    state = on.start()
    kept = jax.device_get(state["params"])
    spoiled = jax.tree.map_with_path(
        lambda path, leaf: leaf * jnp.nan if "nu" in str(path) and "embed" in str(path) else leaf, state["optimizer"]
    )
    state, numbers = on.step({**state, "optimizer": spoiled}, jax.device_put(made_batch(0), batch_sharding(on.mesh)))
    assert np.isfinite([float(numbers["loss"]), float(numbers["grad_norm"])]).all()
    assert bool(numbers["skipped"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state["params"]), kept)


def test_no_loss_token_is_no_loss_and_no_nan():
    on = program(ONE, 1)
    batch = {**made_batch(0), "loss_mask": np.zeros((ROWS, LENGTH), np.float32)}
    state, numbers = on.step(on.start(), jax.device_put(batch, batch_sharding(on.mesh)))
    assert float(numbers["loss"]) == float(numbers["grad_norm"]) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))


def test_the_first_losses_of_the_tiny_model_are_locked(reference):
    """A refactoring that moves them is not one."""
    np.testing.assert_allclose(reference[0][:2], [5.5474758, 5.5397863], rtol=1e-5)


# ---------------------------------------------------------------- optimizer


def test_matrices_decay_and_norm_scales_do_not():
    config = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0, weight_decay=0.5)
    optimizer = make_optimizer(config, 10)
    params = jax.tree.map(jnp.ones_like, first_params())
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(no_gradient, optimizer.init(params), params)
    for path, update in jax.tree.leaves_with_path(updates):
        expected = 0.0 if path[-1].key == "scale" else -1e-2 * 0.5
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=str(path))
    scales = [path for path, _ in jax.tree.leaves_with_path(updates) if path[-1].key == "scale"]
    assert len(scales) == 3


@pytest.mark.parametrize(("total", "fraction"), [(10, 0.0), (10, 0.03), (101, 0.03), (7, 0.5)])
def test_the_learning_rate_is_that_of_transformers(total: int, fraction: float):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = OptimizerConfig(learning_rate=2e-5, warmup_fraction=fraction)
    # Not of an instance: making one needs accelerate, which this does not.
    warmup = transformers.TrainingArguments.get_warmup_steps(SimpleNamespace(warmup_steps=fraction), total)
    theirs = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=2e-5)
    schedule = transformers.get_cosine_schedule_with_warmup(theirs, warmup, total)
    rate = learning_rate(config, total)
    for n in range(total):
        assert float(rate(jnp.int32(n))) == pytest.approx(schedule.get_last_lr()[0], rel=1e-5, abs=1e-12), n
        theirs.step()
        schedule.step()


def test_the_last_update_has_the_final_fraction_of_the_peak():
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, final_fraction=0.1, warmup_fraction=0.1), 101)
    warmup, middle = 11, (11 + 100) / 2
    assert float(rate(jnp.int32(warmup))) == pytest.approx(1.0)
    assert float(rate(jnp.float32(middle))) == pytest.approx(0.55)
    for total in (10, 101):
        for warmup_fraction in (0.0, 0.03, 0.5):
            config = OptimizerConfig(learning_rate=1.0, final_fraction=0.1, warmup_fraction=warmup_fraction)
            assert float(learning_rate(config, total)(jnp.int32(total - 1))) == pytest.approx(0.1), config


@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.5, 0.99])
def test_warmup_leaves_the_last_update_to_train(fraction: float):
    for total in range(1, 12):
        for final in (0.0, 0.1):
            rate = learning_rate(OptimizerConfig(1.0, final_fraction=final, warmup_fraction=fraction), total)
            rates = [float(rate(jnp.int32(n))) for n in range(total)]
            assert rates[-1] > 0, (total, final)
            assert max(rates) == (1.0 if total == 1 else pytest.approx(1.0)), (total, final)


def test_a_first_moment_in_bfloat16_is_half_as_large_and_trains_the_same():
    config = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, first_moment_dtype="bfloat16")
    params = jax.tree.map(jnp.array, first_params())
    whole, half = (make_optimizer(c, 10) for c in (dataclasses.replace(config, first_moment_dtype="float32"), config))
    moments = [leaf for leaf in jax.tree.leaves(half.init(params)) if leaf.dtype == jnp.bfloat16]
    assert len(moments) == len(jax.tree.leaves(params))
    grads = jax.tree.map(lambda p: 0.01 * jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params)
    ours, theirs = (optimizer.update(grads, optimizer.init(params), params)[0] for optimizer in (half, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-7, atol=1e-9), ours, theirs)
