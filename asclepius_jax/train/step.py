"""One step of training. Pretraining and instruction tuning are the same step: they differ in loss_mask."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from asclepius_jax.checkpoints import State
from asclepius_jax.config import TrainConfig
from asclepius_jax.data import Batch
from asclepius_jax.model.llama import Model, Params, init_params
from asclepius_jax.sharding import param_shardings, replicated
from asclepius_jax.train.optimizer import learning_rate, make_optimizer


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


def random_params(model: Model, seed: int, shardings: Params) -> Params:
    return jax.jit(lambda seed: init_params(model.config, seed), out_shardings=shardings)(seed)


def init_state(params: Params, optimizer: optax.GradientTransformation, shardings: State) -> State:
    moments = jax.jit(optimizer.init, out_shardings=shardings["optimizer"])(params)
    return {"step": jax.device_put(jnp.int32(0), shardings["step"]), "params": params, "optimizer": moments}


def loss_sum(params: Params, model: Model, batch: Batch, dtype: str, remat: str) -> jax.Array:
    """Cross entropy in nats, summed over the tokens that loss_mask keeps; float32."""
    logits_BTV = model.merge(params)(batch["tokens"], batch["positions"], batch["segment_ids"], dtype, remat)
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets"])
    return jnp.sum(losses_BT * batch["loss_mask"])


def make_train_step(config: TrainConfig, model: Model, total_steps: int, shardings: State) -> Any:
    """jitted (state, batch) -> (state, metrics); the state that goes in is donated.

    The loss is the sum over loss-bearing tokens divided by their number in the whole global batch, so that neither
    microbatches nor sharding change it.
    """
    dtype, remat, parts = config.compute.dtype, config.compute.remat, config.batch.microbatches
    optimizer, rate = make_optimizer(config.optimizer, total_steps), learning_rate(config.optimizer, total_steps)

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        loss_tokens = jnp.sum(batch["loss_mask"])
        denominator = jnp.maximum(loss_tokens, 1.0)

        def part_of_mean(params: Params, microbatch: Batch) -> jax.Array:
            return loss_sum(params, model, microbatch, dtype, remat) / denominator

        loss, grads = accumulate(part_of_mean, state["params"], batch, parts)
        updates, moments = optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate(state["step"]),
            "loss_tokens": loss_tokens,
        }
        return {"step": state["step"] + 1, "params": params, "optimizer": moments}, metrics

    # Pinned: left to itself, XLA lays some parameters out anew, and the second step compiles again.
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def accumulate(function: Any, params: Params, batch: Batch, parts: int) -> tuple[jax.Array, Params]:
    """Value and gradient of `function` summed over the parts of a batch, one part in memory at a time.

    Part i takes rows i, i + parts, ...: each device then finds its share of every part in its own rows.
    """
    value_and_grad = jax.value_and_grad(function)
    if parts == 1:
        return value_and_grad(params, batch)
    split = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value_and_grad(params, part)), None

    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, split)[0]


def make_eval_step(config: TrainConfig, model: Model) -> Any:
    """jitted (params, batch) -> (loss sum, loss tokens)."""

    def eval_step(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        total = loss_sum(params, model, batch, config.compute.dtype, "none")
        return total, jnp.sum(batch["loss_mask"])

    return jax.jit(eval_step)
