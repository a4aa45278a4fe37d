"""What remat makes again and what it saves, in the step that trains; the gradient is the same for every policy."""

import functools
from collections import Counter
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh, parallel_of
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.layer_scan import REMAT_POLICIES
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.train import step as step_module
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import (
    abstract_batch,
    abstract_state,
    init_state,
    make_train_step,
    random_params,
    state_shardings,
)

# Heads of 64 in a row of 128 tokens are the smallest that splash takes.
MODEL = build(DecoderConfig(96, 128, 64, 2, 2, 1, head_dim=64, max_length=128))
ROWS, LENGTH, BETA = 2, 128, 0.9


def config(remat: str, matmul: str = "bfloat16", microbatches: int = 1) -> TrainConfig:
    compute: Any = ComputeConfig(dtype="float32", remat=remat, matmul=matmul)
    # The first moment after one step is the gradient times 1 - beta1, if nothing is clipped.
    optimizer = OptimizerConfig(beta1=BETA, clip_norm=1e9)
    return TrainConfig(
        data=DataConfig(row_length=LENGTH),
        batch=BatchConfig(ROWS * microbatches, microbatches),
        compute=compute,
        optimizer=optimizer,
    )


def step_of(config: TrainConfig, kernel: Kernel, fsdp: int) -> tuple[Any, Any, Any, Any]:
    """(step, optimizer, shardings, mesh)"""
    mesh = make_mesh(MeshConfig(1, fsdp), jax.devices()[:fsdp])
    optimizer = make_optimizer(config.optimizer, 1)
    shardings = state_shardings(mesh, MODEL, optimizer)
    return make_train_step(config, MODEL, 1, shardings, mesh, kernel), optimizer, shardings, mesh


def batch() -> dict[str, np.ndarray]:
    """A row of two documents and padding, and a row of one."""
    random = np.random.default_rng(0)
    tokens, targets = random.integers(3, 96, (2, ROWS, LENGTH), dtype=np.int32)
    lengths = [[50, 60], [LENGTH]]
    segments, positions = np.zeros((2, ROWS, LENGTH), np.int32)
    for row, documents in enumerate(lengths):
        start = 0
        for number, length in enumerate(documents, 1):
            segments[row, start : start + length] = number
            positions[row, start : start + length] = np.arange(length)
            start += length
    mask = (segments > 0).astype(np.float32)
    return {
        "tokens": tokens, "targets": targets, "positions": positions, "segment_ids": segments, "loss_mask": mask,
    }  # fmt: skip


@functools.cache
def gradients(remat: str, matmul: str = "bfloat16", microbatches: int = 1, ahead: bool = True) -> tuple[float, Any]:
    """Loss and gradients of one step over two devices, as the optimizer's first moment holds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "parallel_of", lambda *given: replace(parallel_of(*given), ahead=ahead))
        taken = config(remat, matmul, microbatches)
        step, optimizer, shardings, mesh = step_of(taken, Kernel("xla"), 2)
    state = init_state(random_params(MODEL, 0, shardings["params"]), optimizer, shardings)
    rows = {name: np.concatenate([x] * microbatches) for name, x in batch().items()}
    state, numbers = step(state, jax.device_put(rows, batch_sharding(mesh)))
    moments = optax.tree.get(state["optimizer"], "mu")
    return float(numbers["loss"]), jax.tree.map(lambda m: np.asarray(m) / (1 - BETA), moments)


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_the_step_has_the_gradients_of_no_remat(remat: str):
    (loss, ours), (expected_loss, expected) = gradients(remat), gradients("none")
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for (path, one), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max()
        assert scale > 1e-5, path
        assert np.abs(one - other).max() <= 1e-5 * scale, path


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize(("remat", "matmul"), [(name, "bfloat16") for name in REMAT_POLICIES] + [("none", "float8"),
                                               ("full", "float8"), ("attention", "int8")])  # fmt: skip
def test_weights_gathered_ahead_give_the_same_gradients(remat: str, matmul: str, microbatches: int):
    loss, ours = gradients(remat, matmul, microbatches)
    expected_loss, expected = gradients(remat, matmul, microbatches, ahead=False)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for (path, one), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max(), path


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_no_gathered_weight_is_kept_for_the_backward_pass(remat: str):
    """Of the arrays that the loops over layers stack, none is as large as the whole matrices of all layers."""
    step, optimizer, shardings, mesh = step_of(config(remat), Kernel("xla"), 2)
    traced = step.trace(abstract_state(MODEL, optimizer, shardings), abstract_batch(config(remat), mesh)).jaxpr.jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars), instantiate=True)
    stacked = [shape for shape in shapes_from_loops(needed) if shape[0] == 2]
    whole = {(2, 128, 2, 64), (2, 128, 1, 64), (2, 128, 64)}  # of one device's slices, each as half as large
    assert {(2, 64, 2, 64), (2, 64, 1, 64), (2, 64, 64)} <= set(stacked)
    assert not whole & set(stacked)


def shapes_from_loops(jaxpr: Any) -> list[tuple[int, ...]]:
    """Shapes of the results of all scans."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found += [result.aval.shape for result in equation.outvars if result.aval.shape]
        for inner in jaxprs_in_params(equation.params):
            found += shapes_from_loops(inner)
    return found


def primitives(jaxpr: Any) -> Counter[str]:
    """How often each primitive stands in a program, what it is made of included; a scan's body counts once."""
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        found[equation.primitive.name] += 1
        if equation.primitive.name == "pallas_call":
            continue
        for inner in jaxprs_in_params(equation.params):
            found += primitives(inner)
    return found


def attention_calls(remat: str) -> int:
    step, optimizer, shardings, mesh = step_of(config(remat), Kernel("splash", interpret=True), 1)
    state = abstract_state(MODEL, optimizer, shardings)
    traced = step.trace(state, abstract_batch(config(remat), mesh)).jaxpr.jaxpr
    # As traced, a block that is made again holds its whole forward pass, used or not; compilers drop what is not.
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars), instantiate=True)
    return primitives(needed)["pallas_call"]


@pytest.mark.parametrize(
    ("remat", "calls"), [("none", 2), ("projections", 2), ("attention", 2), ("full", 3), ("offload", 3)]
)
def test_attention_is_run_again_only_where_its_output_is_not_saved(remat: str, calls: int):
    """A forward kernel and a backward one that makes dq, dk and dv together; one forward kernel more if made again."""
    assert attention_calls(remat) == calls
