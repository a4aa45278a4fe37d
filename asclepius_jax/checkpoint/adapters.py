"""Models with adapters: building them from a configuration, and loading the complete parameters of a checkpoint.

The complete parameters are either saved in the checkpoint or the base weights with its adapters merged into them.
"""

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
    """The model with the configured adapters, its own matrices in `config.base_dtype`. Unchanged with rank 0."""
    if not config.rank:
        return model
    # Norm scales stay float32, the type in which a step uses them. bfloat16 would round them and save almost nothing.
    shapes = jax.tree.map_with_path(
        lambda path, leaf: leaf if path[-1].key == "scale" else jax.ShapeDtypeStruct(leaf.shape, config.base_dtype),
        model.shapes,
    )
    return model._replace(shapes=shapes, lora=lora_from(config))


def lora_from(config: LoraConfig) -> Lora:
    return Lora(config.rank, config.alpha, tuple(config.targets), config.dropout)


def lora_of(meta: Meta) -> LoraConfig:
    """The adapters of a step. Rank 0 means that the step contains parameters instead."""
    return LoraConfig(**meta.config.get("lora", {}))  # the configuration of an import is empty


def base_params(init: InitConfig, model: Model, shardings: Params) -> Params:
    """The frozen base parameters of adapters, in the types of `model.shapes`."""
    if init.checkpoint:
        return whole_params(find_step(Path(init.checkpoint))[1], model, shardings)
    return load_params(Path(init.hf), model, shardings)


def whole_params(step_folder: Path, model: Model, shardings: Params) -> Params:
    """The complete parameters of a step, with any adapters merged, in the types of `model.shapes`."""
    meta = read_meta(step_folder)
    config = lora_of(meta)
    if not config.rank:
        return restore_params(step_folder, model.shapes, shardings)
    # float32 shapes, so that the adapters are added without rounding the base first
    saved = adapted(build(meta.model), config)._replace(shapes=build(meta.model).shapes)
    base = base_params(InitConfig(**meta.config["init"]), saved, shardings)
    places = adapter_shardings(jax.tree.leaves(shardings)[0].mesh, saved)
    adapters = restore_item(step_folder, "adapters", abstract_of(saved.adapter_shapes, places), meta)

    def merged(base: Params, adapters: Params) -> Params:
        params = {**base, "blocks": add_adapters(base["blocks"], adapters, saved.lora)}
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), params, model.shapes)

    return jax.jit(merged, out_shardings=shardings)(base, adapters)


def abstract_of(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def num_adapter_params(model: LlamaConfig, config: LoraConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(adapter_shapes(model, lora_from(config))))
