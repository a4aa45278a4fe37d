"""Models with adapters on devices: what a configuration makes of a model, and the parameters that a step stands for, be
they its own or its base's with its adapters in them."""

from pathlib import Path
from typing import Any

import jax

from asclepius_jax.checkpoint.read import Meta, find_step, read_meta, restore_item, restore_params
from asclepius_jax.config import InitConfig, LoraConfig
from asclepius_jax.distributed.sharding import adapter_shardings
from asclepius_jax.model.huggingface.names import load_params
from asclepius_jax.model.llama import Model, Params, build
from asclepius_jax.model.lora import Lora, adapter_shapes, add_adapters
from asclepius_jax.model.sizes import LlamaConfig


def adapted(model: Model, config: LoraConfig) -> Model:
    """The model with the adapters that the configuration names, its own matrices in the type that they are kept in."""
    if not config.rank:
        return model
    # Norm scales stay float32: a step uses them so, and bfloat16 would change them without saving anything.
    shapes = jax.tree.map_with_path(
        lambda path, leaf: leaf if path[-1].key == "scale" else jax.ShapeDtypeStruct(leaf.shape, config.base_dtype),
        model.shapes,
    )
    return model._replace(shapes=shapes, lora=lora_from(config))


def lora_from(config: LoraConfig) -> Lora:
    return Lora(config.rank, config.alpha, tuple(config.targets), config.dropout)


def lora_of(meta: Meta) -> LoraConfig:
    """What adapters a step holds; those of rank 0 where it holds parameters."""
    return LoraConfig(**meta.config.get("lora", {}))  # an import's configuration is empty


def base_params(init: InitConfig, model: Model, shardings: Params) -> Params:
    """The frozen parameters that adapters stand on, in the types of `model.shapes`."""
    if init.checkpoint:
        return whole_params(find_step(Path(init.checkpoint))[1], model, shardings)
    return load_params(Path(init.hf), model, shardings)


def whole_params(step_folder: Path, model: Model, shardings: Params) -> Params:
    """The parameters that a step stands for, in the types of `model.shapes`."""
    meta = read_meta(step_folder)
    config = lora_of(meta)
    if not config.rank:
        return restore_params(step_folder, model.shapes, shardings)
    theirs = adapted(build(meta.model), config)._replace(shapes=build(meta.model).shapes)  # float32, to add to
    base = base_params(InitConfig(**meta.config["init"]), theirs, shardings)
    places = adapter_shardings(jax.tree.leaves(shardings)[0].mesh, theirs)
    adapters = restore_item(step_folder, "adapters", abstract_of(theirs.adapter_shapes, places), meta)

    def merged(base: Params, adapters: Params) -> Params:
        whole = {**base, "blocks": add_adapters(base["blocks"], adapters, theirs.lora)}
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), whole, model.shapes)

    return jax.jit(merged, out_shardings=shardings)(base, adapters)


def abstract_of(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def num_adapter_params(model: LlamaConfig, config: LoraConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(adapter_shapes(model, lora_from(config))))
