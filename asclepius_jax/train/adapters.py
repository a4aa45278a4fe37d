"""Initial adapters of a run, and a report of the optimizer memory that they save."""

import math
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from asclepius_jax.model.decoder import Model, Params, build
from asclepius_jax.model.lora import init_adapters
from asclepius_jax.train.step import abstract_state, state_shardings


def random_adapters(model: Model, seed: int, shardings: Params, params: Params | None = None) -> Params:
    """The adapters before the first update. Only magnitudes depend on the frozen `params`."""

    def draw(seed: int, blocks: Params | None) -> Params:
        return init_adapters(model.config, model.lora, seed, blocks)

    blocks = params["blocks"] if params is not None and model.lora.magnitudes else None
    return jax.jit(draw, out_shardings=shardings)(seed, blocks)


def footprint(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> str:
    """One line with the number of trained parameters and the optimizer memory, compared with full training."""
    with_adapters, full = (optimizer_bytes(m, optimizer, mesh) for m in (model, build(model.config)))
    trained, frozen = sum(leaf.size for leaf in jax.tree.leaves(model.adapter_shapes)), model.config.num_params
    return (
        f"adapters of rank {model.lora.rank}: training {trained:,} parameters, {frozen:,} are frozen "
        f"({trained / (trained + frozen):.3%} trained); optimizer state {written(with_adapters)}, full training would "
        f"need {written(full)}"
    )


def optimizer_bytes(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[int, int]:
    """Size of the optimizer state: (bytes on all devices, bytes per device). Replicas count once per device."""
    state = abstract_state(model, optimizer, state_shardings(mesh, model, optimizer))["optimizer"]
    each = sum(shard_bytes(leaf) for leaf in jax.tree.leaves(state))
    return each * mesh.size, each


def shard_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def written(sizes: tuple[int, int]) -> str:
    return f"{readable(sizes[0])} in total and {readable(sizes[1])} per device"


def readable(size: int) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
