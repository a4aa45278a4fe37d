"""The training step. Pretraining, instruction tuning and preference tuning differ only in the weights of tokens."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import PreferenceConfig, TrainConfig
from asclepius_jax.config.sources import training_sources
from asclepius_jax.distributed.sharding import (
    BATCH_AXES,
    MESH_AXES,
    adapter_shardings,
    batch_sharding,
    parallel_of,
    param_shardings,
    replicated,
)
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.decoder import Inputs, Model, Params, init_params
from asclepius_jax.model.lora import Adapters, Noise
from asclepius_jax.train.batches import Batch
from asclepius_jax.train.optimizer import learning_rate, make_optimizer
from asclepius_jax.train.preference.token_weights import Counts, Scalars, counts_of, token_weights

ROW_AXES = ("data", "fsdp", "context")  # the mesh axes over which tokens are split


def trained_of(model: Model) -> str:
    """The part of a state that the optimizer updates."""
    return "adapters" if model.lora.rank else "params"


def weights_of(state: State) -> State:
    """The weights that the model computes with: the parameters, and with LoRA the adapters."""
    return {name: state[name] for name in ("params", "adapters") if name in state}


def weight_shapes(model: Model) -> State:
    return {"params": model.shapes} | ({"adapters": model.adapter_shapes} if model.lora.rank else {})


def state_shardings(mesh: Mesh, model: Model, optimizer: optax.GradientTransformation) -> State:
    """Shardings of a state. Moments are sharded like their parameters, counters are replicated."""
    weights = {"params": param_shardings(mesh, model)}
    if model.lora.rank:
        weights["adapters"] = adapter_shardings(mesh, model)
    trained = trained_of(model)
    moments = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, weight_shapes(model)[trained]),
        weights[trained],
        transform_non_params=lambda _: replicated(mesh),
    )
    return {"step": replicated(mesh), **weights, "optimizer": moments}


def abstract_state(model: Model, optimizer: optax.GradientTransformation, shardings: State) -> State:
    """Shapes and shardings of a state, as the target of a restore."""
    weights = weight_shapes(model)
    shapes = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        **weights,
        "optimizer": jax.eval_shape(optimizer.init, weights[trained_of(model)]),
    }
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def abstract_batch(config: TrainConfig, mesh: Mesh) -> Batch:
    """Shapes and shardings of a global batch."""
    shape, sharding = (config.batch.global_batch, config.data.row_length), batch_sharding(mesh)
    integers = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
    floats = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    batch = dict.fromkeys(("tokens", "targets", "positions", "segment_ids"), integers) | {"loss_mask": floats}
    batch |= {"sources": integers} if len(config.data.path) > 1 else {}
    return batch | ({"pairs": integers, "weights": floats, "reference": floats} if config.preference.beta else {})


def random_params(model: Model, seed: int, shardings: Params) -> Params:
    return jax.jit(lambda seed: init_params(model.config, seed), out_shardings=shardings)(seed)


def init_state(
    params: Params, optimizer: optax.GradientTransformation, shardings: State, adapters: Params | None = None
) -> State:
    """The state before step 1. With adapters, `params` are frozen."""
    weights = {"params": params} | ({} if adapters is None else {"adapters": adapters})
    trained = params if adapters is None else adapters
    moments = jax.jit(optimizer.init, out_shardings=shardings["optimizer"])(trained)
    return {"step": jax.device_put(jnp.int32(0), shardings["step"]), **weights, "optimizer": moments}


def make_loss(config: TrainConfig, model: Model, kernel: Kernel, parallel: Parallel) -> Any:
    """Make the function (weights, batch, weights of its tokens, dropout key) -> (weighted sum, loss of every token).

    The losses are cross entropies in nats, in float32; only the sum has a gradient. Every argument is a device's own
    part. Without a key there is no dropout.
    """

    def loss(
        weights: State, batch: Batch, weights_BT: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        inputs = Inputs(batch["tokens"], batch["positions"], batch["segment_ids"])
        compute = config.compute
        noise = None if key is None else Noise(key, batch["places"])
        adapters = Adapters(model.lora, weights["adapters"] if model.lora.rank else {}, noise)
        return model.merge(weights["params"], adapters).losses(
            inputs, batch["targets"], weights_BT, compute.dtype, compute.remat, kernel, parallel
        )

    return loss


class Shared(NamedTuple):
    """Values that all microbatches of a step share."""

    weight: jax.Array  # of a token with loss
    key: jax.Array | None  # of dropout
    counts: Counts | None  # of a batch with pairs


def make_objective(loss: Any, preference: PreferenceConfig, num_sources: int) -> Any:
    """Make the function (weights, rows, Shared) -> (value to differentiate, (measures, sums by source)).

    With pairs, a first forward pass gives the losses from which the weights of tokens follow. The value then has the
    gradient of the preference loss, and the measures have that loss itself.
    """

    def objective(weights: State, rows: Batch, shared: Shared) -> tuple[jax.Array, tuple[Scalars, Any]]:
        weights_BT = rows["loss_mask"] * shared.weight
        measured: Scalars = {}
        if shared.counts is not None:
            _, losses_BT = loss(jax.lax.stop_gradient(weights), rows, weights_BT, shared.key)
            weights_BT, measured = token_weights(losses_BT, rows, preference, shared.counts)
        value, losses_BT = loss(weights, rows, weights_BT, shared.key)
        return value, (measured, sums_by_source(losses_BT, rows, num_sources) if "sources" in rows else ())

    return objective


def make_train_step(
    config: TrainConfig, model: Model, total_steps: int, shardings: State, mesh: Mesh, kernel: Kernel
) -> Any:
    """Make the jitted step (state, batch) -> (state, metrics). The input state is donated.

    The loss is the sum over the tokens that carry loss, divided by their number in the global batch, so that neither
    microbatches nor sharding change it. Loss and gradient are computed inside shard_map, where each device works on
    its own part of parameters and rows. The compiler distributes the optimizer. With adapters, only these have
    gradients and the parameters remain unchanged.
    """
    trained = trained_of(model)
    optimizer = make_optimizer(config.optimizer, total_steps, config.lora)
    rate = learning_rate(config.optimizer, total_steps, config.lora)
    sources = [source.name for source in training_sources(config.data)]
    loss = make_loss(config, model, kernel, parallel_of(mesh, config.compute.reduce_dtype, config.compute.matmul))
    objective = make_objective(loss, config.preference, len(sources))
    specs = jax.tree.map(lambda sharding: sharding.spec, weights_of(shardings))

    def loss_and_grads(weights: State, batch: Batch, step: jax.Array) -> tuple[Scalars, Params]:
        loss_tokens = jax.lax.psum(jnp.sum(batch["loss_mask"]), ROW_AXES)
        weight, key = 1 / jnp.maximum(loss_tokens, 1.0), None
        if model.lora.dropout:
            key = jax.random.fold_in(jax.random.key(config.lora.seed), step)
            batch = {**batch, "places": places(*batch["tokens"].shape)}

        shared = Shared(weight, key, counts_of(batch) if "pairs" in batch else None)
        (value, (measured, sums)), grads = accumulate(
            lambda values, rows: objective({**weights, trained: values}, rows, shared),
            weights[trained], batch, config.batch.microbatches,
        )  # fmt: skip
        # The gradient of a parameter is summed over every axis that does not split it. Over fsdp it already is.
        grads = jax.tree.map(lambda grad, spec: sum_over(grad, axes_beside(mesh, spec)), grads, specs[trained])
        measured, sums = jax.lax.psum(({"loss": value, **measured}, sums), ROW_AXES)
        metrics = {**measured, "loss_tokens": loss_tokens}
        if sums:
            metrics |= {f"loss/{name}": sums[0][place] / sums[1][place] for place, name in enumerate(sources)}
        return metrics, grads

    inputs = (specs, batch_sharding(mesh).spec, PartitionSpec())
    spread = shard_map(loss_and_grads, mesh, inputs, (PartitionSpec(), specs[trained]))

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        measured, grads = spread(weights_of(state), batch, state["step"])
        grad_norm = optax.tree.norm(grads)
        updates, moments = optimizer.update(grads, state["optimizer"], state[trained])
        # A finite gradient may still give an update that is not, through the moments or the learning rate.
        finite = jnp.isfinite(measured["loss"]) & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates))
        changed = keep_unless(finite, optax.apply_updates(state[trained], updates), state[trained])
        moments = keep_unless(finite, moments, state["optimizer"])
        metrics = {
            **measured,
            "grad_norm": grad_norm,
            "learning_rate": rate(state["step"]),
            "skipped": ~finite,
        }
        return {**state, "step": state["step"] + 1, trained: changed, "optimizer": moments}, metrics

    # Fix the output shardings. Otherwise XLA chooses others for some parameters and the second step compiles again.
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def keep_unless(finite: jax.Array, new: Any, old: Any) -> Any:
    """`new` if loss, gradient and update are finite, otherwise `old`: one bad row must not spoil all parameters.

    The learning-rate schedule counts skipped steps too.
    """

    def choose(new: Any, old: Any) -> Any:
        return new if isinstance(new, optax.ScaleByScheduleState) else jnp.where(finite, new, old)

    return jax.tree.map(choose, new, old, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))


def places(rows: int, length: int) -> jax.Array:
    """Index of each of this device's tokens in the global batch, (rows, length). For use inside shard_map."""
    row_B1 = jax.lax.axis_index(BATCH_AXES) * rows + jnp.arange(rows)[:, None]
    position_T = jax.lax.axis_index("context") * length + jnp.arange(length)
    return (row_B1 * length * jax.lax.axis_size("context") + position_T).astype(jnp.uint32)


def shard_map(function: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    # check_vma=False, because JAX's check of replication supports neither Pallas kernels nor cuDNN calls.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def sum_over(grad: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(grad, axes) if axes else grad


def axes_beside(mesh: Mesh, spec: PartitionSpec) -> tuple[str, ...]:
    """The mesh axes of more than one device over which a parameter is not split."""
    return tuple(axis for axis in MESH_AXES if axis not in spec and mesh.shape[axis] > 1)


def sums_by_source(losses_BT: jax.Array, batch: Batch, count: int) -> tuple[jax.Array, jax.Array]:
    """Sum of the losses, and number of the tokens with loss, of each of `count` sources of a mixture."""
    mask = batch["loss_mask"] * (batch["weights"] > 0) if "weights" in batch else batch["loss_mask"]
    mask, sources = mask.ravel(), batch["sources"].ravel()
    losses = jax.lax.stop_gradient(losses_BT).ravel() * mask
    return jax.ops.segment_sum(losses, sources, count), jax.ops.segment_sum(mask, sources, count)


def accumulate(function: Any, params: Params, batch: Batch, parts: int) -> tuple[Any, Params]:
    """Sum of the results and gradients of `function`, whose first result has one, over the parts of a device's batch.

    The parts are computed one at a time. Their gradients are added up in place, layer by layer, so that there is never
    a second array of all of them.
    """
    if parts == 1:
        return jax.value_and_grad(function, has_aux=True)(params, batch)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
    grads = jax.tree.map(lambda x: jax.new_ref(jnp.zeros_like(x)), params)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        value, pull, others = jax.vjp(lambda params: function(params, part), params, has_aux=True)
        pull.with_refs(grads)(jnp.ones_like(value))
        return jax.tree.map(jnp.add, total, (value, others)), None

    first = jax.tree.map(lambda x: x[0], split)
    results = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, params, first))
    results, _ = jax.lax.scan(add, results, split)
    return results, jax.tree.map(jax.freeze, grads)


def make_eval_step(config: TrainConfig, model: Model, shardings: State, mesh: Mesh, kernel: Kernel) -> Any:
    """Make the jitted step (weights or whole state, batch) -> sums of measures, and `weight`, their common divisor.

    `loss` and `weight` are the sum of the loss and the number of loss tokens; for pairs, the sum of their losses and
    the number of pairs, and with them the sum of `accuracy`, which is 1 for a pair with a positive margin. Products are
    in compute.dtype also where training has eight bits, because the exported model will be used so.
    """
    loss = make_loss(config, model, kernel, parallel_of(mesh))
    specs = jax.tree.map(lambda sharding: sharding.spec, weights_of(shardings))

    def sums(weights: State, batch: Batch) -> Scalars:
        total, losses_BT = loss(weights, batch, batch["loss_mask"])
        found = {"loss": total, "weight": jnp.sum(batch["loss_mask"])}
        if "pairs" in batch:
            counts = counts_of(batch)
            _, measured = token_weights(losses_BT, batch, config.preference, counts)
            found = {
                name: jnp.maximum(counts.pairs, 1) * measured[f"preference_{name}"] for name in ("loss", "accuracy")
            }
            found["weight"] = counts.pairs / jax.lax.axis_size(ROW_AXES)
        return jax.lax.psum(found, ROW_AXES)

    spread = shard_map(sums, mesh, (specs, batch_sharding(mesh).spec), PartitionSpec())
    return jax.jit(lambda state, batch: spread(weights_of(state), batch))
