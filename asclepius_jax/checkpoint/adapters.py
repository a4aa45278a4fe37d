"""Models with adapters: building them from a configuration, and loading the complete parameters of a checkpoint.

The complete parameters are either saved in the checkpoint or the base weights with its adapters merged into them.

A checkpoint of adapters records the checksums of what is stored of its base, under names that start with "base/". These
are the weights, in `lora.base_dtype`, or, for a base that is itself a checkpoint of adapters, its adapters, their scale
and their base:

    base/embed_VD                                         of a Hugging Face folder or of complete parameters
    base/blocks.mlp.up_DF.codes  base/...up_DF.scales     of such weights in int8 or nf4
    base/scale  base/adapters/q.A  base/base/embed_VD     of adapters on such weights

Merged weights have no checksum: their last bits depend on the mesh, and differ between a device and NumPy.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from asclepius_jax.checkpoint.checksums import checksums, host_checksum, written
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import (
    DamagedStep,
    Meta,
    find_step,
    leaf_names,
    read_meta,
    read_stored,
    refusal,
    restore_item,
    restore_params,
)
from asclepius_jax.config import InitConfig, LoraConfig
from asclepius_jax.distributed.sharding import adapter_shardings
from asclepius_jax.model.decoder import Model, Params, build, is_matrix
from asclepius_jax.model.huggingface.names import flatten, load_leaves, unflatten
from asclepius_jax.model.lora import TARGETS, Lora, adapter_shapes, merged_matrix
from asclepius_jax.model.quantized import CODES, Quantized, in_type_of, quantized_shape
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.local_copies import fetch
from data_prep.contract.folders.buckets.objects import is_bucket_url


def adapted(model: Model, config: LoraConfig) -> Model:
    """The model with the configured adapters, its own matrices in `config.base_dtype`. Unchanged with rank 0."""
    if not config.rank:
        return model
    if missing := [
        name for name in config.targets if TARGETS[name].parameter.partition(".")[2] not in leaves_of(model)
    ]:
        present = [name for name in config.targets if name not in missing]
        raise UserError(
            f"lora.targets has {', '.join(missing)}, which a {model.config.family} model has not: set --lora.targets "
            f"{' '.join(present)}"
        )

    def stored(path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
        # Norm scales and biases stay float32, the type in which a step uses them. bfloat16 would round them and save
        # almost nothing.
        if not is_matrix(path[-1].key):
            return leaf
        if config.base_dtype not in CODES:
            return jax.ShapeDtypeStruct(leaf.shape, config.base_dtype)
        if path[0].key != "blocks":
            return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)
        return quantized_shape(leaf.shape, config.base_dtype)

    shapes = jax.tree.map_with_path(stored, model.shapes)
    # A block of quantized values has the axes of its matrix.
    axes = jax.tree.map(
        lambda shape, names: Quantized(names, names) if isinstance(shape, Quantized) else names,
        shapes,
        model.axes,
        is_leaf=lambda leaf: isinstance(leaf, Quantized),
    )
    return model._replace(shapes=shapes, axes=axes, lora=lora_from(config))


def leaves_of(model: Model) -> set[str]:
    """Names of the parameters in a block, without the part that they belong to."""
    return {path[-1].key for path, _ in jax.tree.leaves_with_path(model.shapes["blocks"])}


def lora_from(config: LoraConfig) -> Lora:
    targets = tuple(config.targets)
    return Lora(config.rank, config.alpha, targets, config.dropout, config.rank_stabilized, config.magnitudes)


def lora_of(meta: Meta) -> LoraConfig:
    """The adapters of a step. Rank 0 means that the step contains parameters instead."""
    return LoraConfig(**meta.config.get("lora", {}))  # the configuration of an import is empty


def init_of(meta: Meta) -> InitConfig:
    """Where the base of a step's adapters is; of one in a bucket, the local copy, which is made if need be."""
    init = meta.config["init"]
    fetched = {name: str(fetch(init[name])) for name in ("hf", "checkpoint") if is_bucket_url(init[name])}
    return InitConfig(**{**init, **fetched})


def whole_params(step_folder: Place, model: Model, shardings: Params) -> Params:
    """The complete parameters of a step, with any adapters merged, in the types of `model.shapes`.

    Where adapters are merged or trained, at most one parameter is on the devices in float32 at a time. Raises UserError
    if the step is damaged, or if the base of its adapters is not the one that they were trained on.
    """
    if not model.lora.rank and not lora_of(read_meta(step_folder)).rank:
        return restore_params(step_folder, model.shapes, shardings)
    shapes, places = flatten(model.shapes), flatten(shardings)
    unquantized = {name: place.codes if isinstance(place, Quantized) else place for name, place in places.items()}
    params: Params = {}
    for name, leaf in step_leaves(step_folder, unquantized):
        convert = jax.jit(functools.partial(in_type_of, shape=shapes[name]), out_shardings=places[name])
        params[name] = jax.block_until_ready(convert(leaf))
        del leaf  # before the next one is read
    return unflatten({name: params[name] for name in shapes})


def step_leaves(step_folder: Place, places: dict[str, NamedSharding]) -> Iterator[tuple[str, jax.Array]]:
    """Yield (name, array) of the complete parameters of a step in float32, with any adapters merged.

    float32, so that the adapters are added without rounding the base first. The base is compared with its checksums
    after the last parameter.
    """
    meta = read_meta(step_folder)
    config, whole = lora_of(meta), build(meta.model)
    shapes = flatten(whole.shapes)
    if not config.rank:
        for name in sorted(places, key=lambda name: -shapes[name].size):
            wanted = jax.ShapeDtypeStruct(shapes[name].shape, jnp.float32, sharding=places[name])
            yield name, stored_leaf(step_folder, name, wanted, meta)
        return
    init, trained_on = init_of(meta), adapted(whole, config)
    lora, trained_shapes = trained_on.lora, flatten(trained_on.shapes)
    adapter_places = adapter_shardings(next(iter(places.values())).mesh, trained_on)
    adapters = restore_item(step_folder, "adapters", abstract_of(trained_on.adapter_shapes, adapter_places), meta)
    targets = {f"blocks.{TARGETS[key].parameter}": key for key in config.targets}
    sums: dict[str, str] = {}
    for name, leaf in base_leaves(init, whole, places):
        sums |= weight_checksums({name: leaf}, {name: trained_shapes[name]})
        if key := targets.get(name):
            merge = jax.jit(merged_matrix, static_argnums=(0, 3), out_shardings=places[name])
            leaf = merge(TARGETS[key], leaf, adapters[key], lora)
        yield name, leaf
        del leaf
    if differing := differing_base(meta, init, lambda: sums):
        raise UserError(
            f"{init.hf or init.checkpoint} is not the base that the adapters in {step_folder} were trained on "
            f"({differing}): restore the original weights"
        )


def stored_leaf(step_folder: Place, name: str, wanted: jax.ShapeDtypeStruct, meta: Meta) -> jax.Array:
    """One parameter of a step. Raises UserError if it is damaged."""
    try:
        return restore_item(step_folder, "params", {name: wanted}, meta, quiet=True)[name]
    except DamagedStep as error:
        raise UserError(refusal(step_folder, error)) from error


def base_leaves(init: InitConfig, model: Model, places: dict[str, NamedSharding]) -> Iterator[tuple[str, jax.Array]]:
    """Yield (name, array) of the base parameters of adapters in float32, the shapes of `model`."""
    if init.checkpoint:
        return step_leaves(find_step(Path(init.checkpoint))[1], places)
    return load_leaves(Path(init.hf), model, unflatten(places))


def in_types_of(params: Params, shapes: Params) -> Params:
    return jax.tree.map(in_type_of, params, shapes, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def base_checksums(init: InitConfig, weights: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Checksums of what is stored of a base, as in the docstring of this module.

    `weights` computes them for complete weights, which may take a while.
    """
    return chain_checksums(init) or {f"base/{name}": value for name, value in weights().items()}


def chain_checksums(init: InitConfig) -> dict[str, str]:
    """Checksums of a base that is itself a checkpoint of adapters. Empty for complete weights."""
    if not init.checkpoint:
        return {}
    step_folder = find_step(Path(init.checkpoint))[1]
    meta = read_meta(step_folder)
    config = lora_of(meta)
    if not config.rank:
        return {}
    found = {"scale": f"{config.alpha} / {f'sqrt({config.rank})' if config.rank_stabilized else config.rank}"}
    for array in leaf_names(adapter_shapes(meta.model, lora_from(config))):
        name = f"adapters/{array}"  # without a checksum if the run saved none
        found[name] = meta.checksums.get(name) or written(host_checksum(read_stored(step_folder, array, "adapters")))
    found |= {name: value for name, value in meta.checksums.items() if name.startswith("base/")}
    return {f"base/{name}": value for name, value in found.items()}


def weight_checksums(params: Params, shapes: Params) -> dict[str, str]:
    """Checksums of complete weights on their devices, in the types of `shapes`."""
    sums = jax.device_get(jax.jit(lambda params: checksums(leaf_names(in_types_of(params, shapes))))(params))
    return {name: written(value) for name, value in sums.items()}


def differing_base(meta: Meta, init: InitConfig, weights: Callable[[], dict[str, str]]) -> str:
    """The first part of a base that is not as the metadata of adapters records it, or "".

    `weights` as in `base_checksums`, of the base merged with all adapters.
    """
    recorded = {name: value for name, value in meta.checksums.items() if name.startswith("base/")}
    found = base_checksums(init, weights)
    note = ""
    if "base/scale" in found and "base/scale" not in recorded:
        found = {f"base/{name}": value for name, value in weights().items()}
        note = ", or its merged weights, which version 0.1.0 recorded, were computed on other devices"
    return next((f"{name} differs{note}" for name in sorted(found) if found[name] != recorded.get(name)), "")


def abstract_of(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def num_adapter_params(model: DecoderConfig, config: LoraConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(adapter_shapes(model, lora_from(config))))
