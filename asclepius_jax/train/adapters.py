"""The start of a run that trains adapters: their first values, and what they save."""

import math
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from asclepius_jax.model.llama import Model, Params, build
from asclepius_jax.model.lora import init_adapters
from asclepius_jax.train.step import abstract_state, state_shardings


def random_adapters(model: Model, seed: int, shardings: Params) -> Params:
    return jax.jit(lambda seed: init_adapters(model.config, model.lora, seed), out_shardings=shardings)(seed)


def footprint(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> str:
    """One line: what trains, and the optimizer state of that beside what training everything would need."""
    ours, everything = (optimizer_bytes(one, optimizer, mesh) for one in (model, build(model.config)))
    count, of = sum(leaf.size for leaf in jax.tree.leaves(model.adapter_shapes)), model.config.num_params
    return (
        f"adapters of rank {model.lora.rank}: {count:,} parameters train beside {of:,} frozen ones "
        f"({count / (count + of):.3%} of all); optimizer state {written(ours)}, where training everything would need "
        f"{written(everything)}"
    )


def optimizer_bytes(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[int, int]:
    """(bytes over all devices, bytes of one device); what replicas hold counts for each of them."""
    state = abstract_state(model, optimizer, state_shardings(mesh, model, optimizer))["optimizer"]
    each = sum(shard_bytes(leaf) for leaf in jax.tree.leaves(state))
    return each * mesh.size, each


def shard_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def written(sizes: tuple[int, int]) -> str:
    return f"{readable(sizes[0])} in all and {readable(sizes[1])} a device"


def readable(size: int) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
