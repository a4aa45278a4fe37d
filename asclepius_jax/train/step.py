"""One step of training. Pretraining and instruction tuning are the same step: they differ in loss_mask."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from asclepius_jax.checkpoints import State
from asclepius_jax.config import TrainConfig
from asclepius_jax.data import Batch
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.llama import Inputs, Model, Params, init_params
from asclepius_jax.model.parallel import Parallel
from asclepius_jax.sharding import MESH_AXES, batch_sharding, parallel_of, param_shardings, replicated
from asclepius_jax.train.optimizer import learning_rate, make_optimizer

ROW_AXES = ("data", "fsdp", "context")  # what tokens are spread over


def state_shardings(mesh: Mesh, model: Model, optimizer: optax.GradientTransformation) -> State:
    """Moments live where their parameters do; counters everywhere."""
    params = param_shardings(mesh, model)
    moments = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, model.shapes),
        params,
        transform_non_params=lambda _: replicated(mesh),
    )
    return {"step": replicated(mesh), "params": params, "optimizer": moments}


def abstract_state(model: Model, optimizer: optax.GradientTransformation, shardings: State) -> State:
    """Shapes and shardings of a state, for restoring into."""
    shapes = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": model.shapes,
        "optimizer": jax.eval_shape(optimizer.init, model.shapes),
    }
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def abstract_batch(config: TrainConfig, mesh: Mesh) -> Batch:
    """Shapes and shardings of a global batch."""
    shape, sharding = (config.batch.global_batch, config.data.row_length), batch_sharding(mesh)
    integers = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
    batch = dict.fromkeys(("tokens", "targets", "positions", "segment_ids"), integers)
    return {**batch, "loss_mask": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)}


def random_params(model: Model, seed: int, shardings: Params) -> Params:
    return jax.jit(lambda seed: init_params(model.config, seed), out_shardings=shardings)(seed)


def init_state(params: Params, optimizer: optax.GradientTransformation, shardings: State) -> State:
    moments = jax.jit(optimizer.init, out_shardings=shardings["optimizer"])(params)
    return {"step": jax.device_put(jnp.int32(0), shardings["step"]), "params": params, "optimizer": moments}


def make_loss(config: TrainConfig, model: Model, kernel: Kernel, parallel: Parallel) -> Any:
    """(params, batch, weight of a loss token) -> cross entropy in nats, weighted and summed; float32. Every argument
    is a device's own part."""

    def loss(params: Params, batch: Batch, weight: jax.Array) -> jax.Array:
        inputs = Inputs(batch["tokens"], batch["positions"], batch["segment_ids"])
        weights_BT = batch["loss_mask"] * weight
        compute = config.compute
        return model.merge(params).loss_sum(
            inputs, batch["targets"], weights_BT, compute.dtype, compute.remat, kernel, parallel
        )

    return loss


def make_train_step(
    config: TrainConfig, model: Model, total_steps: int, shardings: State, mesh: Mesh, kernel: Kernel
) -> Any:
    """jitted (state, batch) -> (state, metrics); the state that goes in is donated.

    The loss is the sum over loss-bearing tokens divided by their number in the whole global batch, so that neither
    microbatches nor sharding change it. Loss and gradient are made inside shard_map, each device on its own part of
    parameters and rows; the optimizer's sums over parameters are the compiler's.
    """
    optimizer, rate = make_optimizer(config.optimizer, total_steps), learning_rate(config.optimizer, total_steps)
    loss = make_loss(config, model, kernel, parallel_of(mesh, config.compute.reduce_dtype))
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings["params"])

    def loss_and_grads(params: Params, batch: Batch) -> tuple[jax.Array, Params, jax.Array]:
        loss_tokens = jax.lax.psum(jnp.sum(batch["loss_mask"]), ROW_AXES)
        weight = 1 / jnp.maximum(loss_tokens, 1.0)
        value, grads = accumulate(
            lambda params, part: loss(params, part, weight), params, batch, config.batch.microbatches
        )
        # A parameter's gradient is a sum over every axis that does not split it; over fsdp it is summed already.
        grads = jax.tree.map(lambda grad, spec: sum_over(grad, axes_beside(mesh, spec)), grads, specs)
        return jax.lax.psum(value, ROW_AXES), grads, loss_tokens

    spread = shard_map(
        loss_and_grads, mesh, (specs, batch_sharding(mesh).spec), (PartitionSpec(), specs, PartitionSpec())
    )

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        value, grads, loss_tokens = spread(state["params"], batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        updates, moments = optimizer.update(grads, state["optimizer"], state["params"])
        params = keep_unless(finite, optax.apply_updates(state["params"], updates), state["params"])
        moments = keep_unless(finite, moments, state["optimizer"])
        metrics = {
            "loss": value,
            "grad_norm": grad_norm,
            "learning_rate": rate(state["step"]),
            "loss_tokens": loss_tokens,
            "skipped": ~finite,
        }
        return {"step": state["step"] + 1, "params": params, "optimizer": moments}, metrics

    # Pinned: left to itself, XLA lays some parameters out anew, and the second step compiles again.
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def keep_unless(finite: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the step's numbers are finite, else `old`: one bad row must not end in every parameter.

    The learning rate's course follows the steps, skipped ones as well.
    """

    def choose(new: Any, old: Any) -> Any:
        return new if isinstance(new, optax.ScaleByScheduleState) else jnp.where(finite, new, old)

    return jax.tree.map(choose, new, old, is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState))


def shard_map(function: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    # Unchecked: JAX's check of what is equal on which devices knows neither Pallas kernels nor cuDNN's calls.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def sum_over(grad: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(grad, axes) if axes else grad


def axes_beside(mesh: Mesh, spec: PartitionSpec) -> tuple[str, ...]:
    """The mesh axes of more than one device that a parameter is not split over."""
    return tuple(axis for axis in MESH_AXES if axis not in spec and mesh.shape[axis] > 1)


def accumulate(function: Any, params: Params, batch: Batch, parts: int) -> tuple[jax.Array, Params]:
    """Value and gradient of `function` summed over the parts of a device's batch, one part in memory at a time."""
    value_and_grad = jax.value_and_grad(function)
    if parts == 1:
        return value_and_grad(params, batch)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value_and_grad(params, part)), None

    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, split)[0]


def make_eval_step(config: TrainConfig, model: Model, shardings: State, mesh: Mesh, kernel: Kernel) -> Any:
    """jitted (params, batch) -> (loss sum, loss tokens)."""
    loss = make_loss(config, model, kernel, parallel_of(mesh, config.compute.reduce_dtype))
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings["params"])

    def eval_step(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return jax.lax.psum((loss(params, batch, jnp.float32(1)), jnp.sum(batch["loss_mask"])), ROW_AXES)

    return jax.jit(shard_map(eval_step, mesh, (specs, batch_sharding(mesh).spec), (PartitionSpec(), PartitionSpec())))
