"""The scan over layers, and what it keeps for the backward pass."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from asclepius_jax.model.attention import SAVED_NAME
from asclepius_jax.model.sizes import DecoderConfig, Stretch

# Activations kept for the backward pass in addition to the input of every block. Everything else, including gathered
# weights, is recomputed. `offload` keeps the block inputs themselves in host memory.
REMAT_SAVES: dict[str, tuple[str, ...]] = {
    "none": ("normed", "q", "k", "v", SAVED_NAME, "attended", "mlp_normed", "gate", "up", "hidden"),
    "projections": (SAVED_NAME, "q", "k", "v", "gate", "up"),
    "attention": (SAVED_NAME,),
    "full": (),
    "offload": (),
}
REMAT_POLICIES = tuple(REMAT_SAVES)


def remat_policy(name: str) -> Any:
    if name == "offload":
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["block_input"],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return jax.checkpoint_policies.save_only_these_names(*REMAT_SAVES[name])


def scan_layers(
    config: DecoderConfig, run: Any, x_BTD: jax.Array, frozen: Any, stacked: Any, remat: str | None = None
) -> tuple[jax.Array, Any]:
    """Run every layer: `run(kind, x_BTD, (frozen, stacked)) -> (x_BTD, result)`, with one scan per stretch.

    x_BTD may be a tuple with more that passes from layer to layer.
    `frozen` and `stacked` have a leading axis of layers; so have the results. Nothing may be differentiated by
    `frozen`: layers of several kinds index it in place, where a scan over a part of the layers would copy that part.
    `remat` is one of REMAT_POLICIES, or None where nothing is differentiated.
    """
    alike = len(set(config.kinds)) == 1

    def one(kind: str, x_BTD: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
        held, part = layer
        if not alike:
            held = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, layer[0], keepdims=False), frozen)
        return run(kind, x_BTD, (held, part))

    layers = (frozen if alike else jnp.arange(config.num_layers), stacked)
    results = []
    for stretch in config.stretches:
        part = layers
        if stretch.num_layers < config.num_layers:
            part = some_layers(layers, stretch.start, stretch.num_layers)
        x_BTD, result = scan_stretch(stretch, one, x_BTD, part, remat)
        results.append(result)
    return x_BTD, results[0] if len(results) == 1 else jax.tree.map(lambda *each: jnp.concatenate(each), *results)


def some_layers(layers: Any, start: int, size: int) -> Any:
    # Not a[start : start + size], whose gradient JAX 0.10 fails to add to a reference in place.
    return jax.tree.map(lambda a: jax.lax.slice_in_dim(a, start, start + size), layers)


def scan_stretch(stretch: Stretch, run: Any, x_BTD: jax.Array, layers: Any, remat: str | None) -> tuple[jax.Array, Any]:
    """Run the layers of a stretch, whose parameters and results have a leading axis of its layers.

    Within a pattern, a loop runs the layers of one kind that follow one another, so that each kind is compiled once.
    """
    runs = [(kind, len(list(same))) for kind, same in itertools.groupby(stretch.pattern)]
    if len(runs) == 1:
        return scan_alike(runs[0][0], run, x_BTD, layers, remat, stretch.num_layers)

    def period(x_BTD: jax.Array, layers: Any) -> tuple[jax.Array, Any]:
        made, start = [], 0
        for kind, size in runs:
            part = some_layers(layers, start, size)
            x_BTD, result = scan_alike(kind, run, x_BTD, part, remat, size)
            made.append(result)
            start += size
        return x_BTD, jax.tree.map(lambda *each: jnp.concatenate(each), *made)

    grouped = jax.tree.map(lambda a: a.reshape(stretch.repeats, -1, *a.shape[1:]), layers)
    x_BTD, result = jax.lax.scan(period, x_BTD, grouped)
    return x_BTD, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), result)


def scan_alike(
    kind: str, run: Any, x_BTD: jax.Array, layers: Any, remat: str | None, size: int
) -> tuple[jax.Array, Any]:
    """Run `size` layers of one kind."""
    if remat is not None:
        # Alone in the body of a loop, a layer that is recomputed is apart from its forward pass. XLA dissolves loops of
        # one repeat, and in a body of several layers it may recompute all of them first and keep them.
        run = jax.checkpoint(run, policy=remat_policy(remat), prevent_cse=size == 1, static_argnums=0)
    return jax.lax.scan(functools.partial(run, kind), x_BTD, layers)


def scan_ahead(run: Any, gather: Any, x_BTD: jax.Array, layers: Any, remat: str, size: int) -> jax.Array:
    """Run every layer, whose first weights are gathered during the one before, so that its products need not wait.

    `gather(layer)` returns these weights, and `run(x_BTD, layer, gathered, during) -> (x_BTD, during(between_BTD))`
    runs a layer with them, where between_BTD is any value that a gather should come after. The backward pass gathers
    them again, as nothing that was gathered is kept.
    """
    fixed = jax.lax.stop_gradient(layers)

    def layer_of(number: jax.Array | int) -> Any:
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, number, keepdims=False), fixed)

    def with_following(x_BTD: jax.Array, layer: Any, gathered: Any, following: jax.Array) -> tuple[jax.Array, Any]:
        # XLA schedules what this layer does not use before everything else, where it would be waited for. Barriers are
        # gone by then, but it does not see that the term added to the index is always 0.
        return run(x_BTD, layer, gathered, lambda between: gather(layer_of(following + always_zero(between))))

    with_following = jax.checkpoint(with_following, policy=remat_policy(remat), prevent_cse=size == 1)
    step = jax.custom_vjp(with_following)

    def forward(x_BTD: jax.Array, layer: Any, gathered: Any, following: jax.Array) -> tuple[Any, Any]:
        made, pull = jax.vjp(with_following, x_BTD, layer, gathered, following)
        pull.args_res[2] = None  # what is kept of the third argument, which the backward pass gathers again
        return made, (pull, layer)

    def backward(saved: Any, grads: Any) -> tuple[Any, Any, None, None]:
        pull, layer = saved
        pull.args_res[2] = gather(layer)
        return *pull(grads)[:2], None, None

    step.defvjp(forward, backward)

    def body(carry: tuple[jax.Array, Any], numbered: tuple[jax.Array, Any]) -> tuple[Any, None]:
        number, layer = numbered
        return step(carry[0], layer, carry[1], jnp.minimum(number + 1, size - 1)), None

    return jax.lax.scan(body, (x_BTD, gather(layer_of(0))), (jnp.arange(size), layers))[0][0]


def always_zero(x: jax.Array) -> jax.Array:
    """0, which depends on x as far as a compiler can see."""
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x.ravel()[0]).astype(jnp.float32), jnp.uint32)
    return jnp.minimum(bits, 0).astype(jnp.int32)
