"""Training with products in eight bits is the same on every mesh, and is not training in bfloat16."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asclepius_jax.checkpoint.adapters import adapted
from asclepius_jax.config import BatchConfig, ComputeConfig, LoraConfig, MeshConfig, OptimizerConfig, TrainConfig
from asclepius_jax.config.checks import check_values
from asclepius_jax.config.schema import PreferenceConfig
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.decoder import Inputs, build, init_params
from asclepius_jax.model.lora import init_adapters
from asclepius_jax.model.sizes import FULL, VARIANTS, WINDOW
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import init_state, make_eval_step, make_train_step, state_shardings, weights_of
from data_prep.contract.errors import UserError
from tests.helpers.training.tiny_step import MODEL, ROWS, STEPS, first_params, made_batch

CONFIG = TrainConfig(
    batch=BatchConfig(ROWS),
    compute=ComputeConfig("float32", "full"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, epsilon=1e-6),
)
ONE = (1, 1, 1, 1)
# Of float8, the scale of activations is that of a device's own rows, which only moves the smallest values: beyond that,
# a mesh changes the order of sums.
LOSS_RTOL = 2e-5


def settings(matmul: Any, microbatches: int = 1, **lora: Any) -> TrainConfig:
    compute = dataclasses.replace(CONFIG.compute, matmul=matmul)
    batch = BatchConfig(ROWS, microbatches)
    return dataclasses.replace(CONFIG, batch=batch, compute=compute, lora=LoraConfig(base_dtype="float32", **lora))


@functools.cache
def run(matmul: str, mesh_shape: tuple[int, ...], microbatches: int = 1, rank: int = 0) -> tuple[list[float], Any, Any]:
    """(losses of three steps, trained parameters, loss of the evaluation on the first batch before them)."""
    mesh = make_mesh(MeshConfig(*mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    config = settings(matmul, microbatches, rank=rank)
    model, optimizer = adapted(MODEL, config.lora), make_optimizer(config.optimizer, STEPS, config.lora)
    shardings = state_shardings(mesh, model, optimizer)
    adapters = None
    params = jax.device_put(jax.tree.map(jnp.array, first_params()), shardings["params"])
    if rank:
        adapters = jax.device_put(init_adapters(model.config, model.lora, 0), shardings["adapters"])
        adapters = jax.tree.map(lambda x: x + 0.01, adapters)
    state = init_state(params, optimizer, shardings, adapters)
    batches = [jax.device_put(made_batch(n), batch_sharding(mesh)) for n in range(STEPS)]
    sums = make_eval_step(config, model, shardings, mesh, Kernel())(weights_of(state), batches[0])
    step, losses = make_train_step(config, model, STEPS, shardings, mesh, Kernel()), []
    for batch in batches:
        state, numbers = step(state, batch)
        losses.append(float(numbers["loss"]))
    trained = jax.device_get(state["adapters" if rank else "params"])
    return losses, trained, float(sums["loss"] / sums["weight"])


@pytest.mark.parametrize("matmul", ["float8", "int8"])
@pytest.mark.parametrize(("mesh_shape", "microbatches"), [((1, 8, 1, 1), 2), ((2, 2, 2, 1), 1), ((2, 2, 1, 2), 1)])
def test_every_mesh_trains_the_same(matmul: str, mesh_shape: tuple[int, ...], microbatches: int):
    losses, params, _ = run(matmul, mesh_shape, microbatches)
    expected, expected_params, _ = run(matmul, ONE)
    assert losses == pytest.approx(expected, rel=LOSS_RTOL)
    # AdamW divides by the size of a gradient: where that is rounding, a parameter may move either way.
    for found, right in zip(jax.tree.leaves(params), jax.tree.leaves(expected_params), strict=True):
        assert float(np.mean(np.abs(found - right))) < 1e-4


@pytest.mark.parametrize("matmul", ["float8", "int8"])
def test_the_products_are_rounded_while_training_and_not_while_evaluating(matmul: str):
    losses, _, evaluated = run(matmul, ONE)
    exact, _, exactly_evaluated = run("bfloat16", ONE)
    assert evaluated == exactly_evaluated
    assert losses == pytest.approx(exact, rel=1e-3)
    assert losses[0] != pytest.approx(exact[0], rel=1e-6)


@pytest.mark.parametrize("matmul", ["float8", "int8"])
def test_adapters_train_beside_a_rounded_base(matmul: str):
    losses, adapters, _ = run(matmul, ONE, rank=3)
    on_mesh, adapters_on_mesh, _ = run(matmul, (1, 4, 2, 1), rank=3)
    exact, _, _ = run("bfloat16", ONE, rank=3)
    assert losses == pytest.approx(exact, rel=1e-3)
    assert losses[0] != pytest.approx(exact[0], rel=1e-6)
    assert on_mesh == pytest.approx(losses, rel=LOSS_RTOL)
    for found, right in zip(jax.tree.leaves(adapters_on_mesh), jax.tree.leaves(adapters), strict=True):
        assert float(np.mean(np.abs(found - right))) < 1e-4


@pytest.mark.parametrize("family", ["tiny", "apertus", "gemma3"])
def test_the_loss_of_other_families_is_close_to_the_exact_one(family: str):
    config = families()[family]
    model, params = build(config), init_params(config, 1)
    batch = {name: jnp.asarray(value) for name, value in made_batch(0).items()}
    inputs = Inputs(batch["tokens"], batch["positions"], batch["segment_ids"])

    def loss(params: Any, matmul: str) -> jax.Array:
        parallel = Parallel(matmul=matmul)
        merged = model.merge(params)
        return merged.losses(inputs, batch["targets"], batch["loss_mask"], "float32", "full", Kernel(), parallel)[0]

    exact, exact_grads = jax.jit(jax.value_and_grad(functools.partial(loss, matmul="bfloat16")))(params)
    for matmul, most in (("float8", 0.15), ("int8", 0.05)):
        found, grads = jax.jit(jax.value_and_grad(functools.partial(loss, matmul=matmul)))(params)
        assert float(found) == pytest.approx(float(exact), rel=2e-3)
        assert float(found) != float(exact)
        difference = jax.tree.map(jnp.subtract, grads, exact_grads)
        assert 0 < float(optax.tree.norm(difference)) < most * float(optax.tree.norm(exact_grads))


def families() -> dict[str, Any]:
    tiny = VARIANTS["tiny"]
    return {
        "tiny": tiny,
        # Without a gate, with a trained activation, and with norms of heads.
        "apertus": dataclasses.replace(tiny, gated=False, activation="xielu", qk_norm="head"),
        # Layers of two kinds, and a norm after each part.
        "gemma3": dataclasses.replace(
            tiny, layer_kinds=(WINDOW, FULL) * (tiny.num_layers // 2), window=8, post_norm=True, unit_offset=True
        ),
    }


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (settings("float8", rank=4), None),
        (dataclasses.replace(settings("float8"), preference=PreferenceConfig(beta=0.1)), "margins of pairs"),
        (dataclasses.replace(settings("int8"), lora=LoraConfig(rank=4, base_dtype="nf4")), "already rounded"),
        (dataclasses.replace(settings("int8"), lora=LoraConfig(rank=4, magnitudes=True)), "exact matrices"),
    ],
)
def test_what_eight_bits_cannot_do_is_refused(config: TrainConfig, part: str | None):
    if part is None:
        check_values(config)
        return
    with pytest.raises(UserError, match=part):
        check_values(config)
