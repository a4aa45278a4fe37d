"""The scan over layers, and what it keeps for the backward pass."""

import functools
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
    config: DecoderConfig, run: Any, x_BTD: jax.Array, stacked: Any, remat: str | None = None
) -> tuple[jax.Array, Any]:
    """Run every layer: `run(kind, x_BTD, layer) -> (x_BTD, result)`, with one scan per stretch of equal patterns.

    `stacked` has a leading axis of layers; so have the results. `remat` is one of REMAT_POLICIES, or None where nothing
    is differentiated.
    """
    results = []
    for stretch in config.stretches:
        part, one = stacked, run
        if stretch.num_layers < config.num_layers:
            part = jax.tree.map(lambda a: a[stretch.start : stretch.start + stretch.num_layers], stacked)  # noqa: B023
        if remat is not None:
            # Alone in the body of a loop, a layer that is recomputed is apart from its forward pass. XLA dissolves
            # loops of one repeat, and in a body of several layers it may recompute all of them first and keep them.
            alone = len(stretch.pattern) == 1 < stretch.repeats
            one = jax.checkpoint(run, policy=remat_policy(remat), prevent_cse=not alone, static_argnums=0)
        x_BTD, result = scan_stretch(stretch, one, x_BTD, part)
        results.append(result)
    return x_BTD, results[0] if len(results) == 1 else jax.tree.map(lambda *each: jnp.concatenate(each), *results)


def scan_stretch(stretch: Stretch, run: Any, x_BTD: jax.Array, stacked: Any) -> tuple[jax.Array, Any]:
    """Run the layers of a stretch, whose parameters and results have a leading axis of its layers."""
    _, pattern, repeats = stretch
    if len(pattern) == 1:
        return jax.lax.scan(functools.partial(run, pattern[0]), x_BTD, stacked)

    def period(x_BTD: jax.Array, layers: Any) -> tuple[jax.Array, Any]:
        made = []
        for place, kind in enumerate(pattern):
            x_BTD, result = run(kind, x_BTD, jax.tree.map(lambda a: a[place], layers))  # noqa: B023
            made.append(result)
        return x_BTD, jax.tree.map(lambda *each: jnp.stack(each), *made)

    grouped = jax.tree.map(lambda a: a.reshape(repeats, -1, *a.shape[1:]), stacked)
    x_BTD, result = jax.lax.scan(period, x_BTD, grouped)
    return x_BTD, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), result)
