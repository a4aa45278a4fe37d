"""Merging of adapters into their base weights, one layer at a time and without a device."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asclepius_jax.checkpoint.adapters import adapted, differing_base, init_of, lora_of
from asclepius_jax.checkpoint.blocks import ItemWriter
from asclepius_jax.checkpoint.checksums import added, host_checksum, written
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import STEPS, Meta, find_step, leaf_names, open_array, read, read_meta
from asclepius_jax.checkpoint.write import close_step
from asclepius_jax.convert.export_peft import HostAdapters, read_adapters
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.layout import read_part
from asclepius_jax.model.huggingface.names import flatten, names, open_model
from asclepius_jax.model.lora import LEAST_SQUARE, TARGETS
from asclepius_jax.model.quantized import Quantized, quantized_on_host
from data_prep.contract.errors import UserError

# ("blocks.attention.q_DNH", 3) -> that layer; ("embed_VD", None) -> the whole parameter; both in their stored type.
Reader = Callable[[str, int | None], np.ndarray]


def layers_of(shape: tuple[int, ...], name: str) -> list[int | None]:
    return list(range(shape[0])) if name.startswith("blocks.") else [None]


def merge(name: str, layer: int, weight: np.ndarray, adapters: HostAdapters) -> np.ndarray:
    """One layer's matrix plus its update, W + scale A B, in float32. Unchanged if it has no adapter.

    With magnitudes, every output column of the sum has its magnitude as its length.

    Args:
        name: a name such as "blocks.attention.q_DNH", with or without "blocks.".
        weight: the matrix in our layout, without the layer axis.
    """
    short = name.removeprefix("blocks.")
    target = next((key for key in adapters.weights if TARGETS[key].parameter == short), None)
    if target is None:
        return weight
    parts = adapters.weights[target]
    a, b = (parts[key][layer].astype(np.float32) for key in ("A", "B"))
    # Compute it as one product of two matrices, as the rank is the last axis of A and the first of B.
    update = np.matmul(a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)).reshape(a.shape[:-1] + b.shape[1:])
    row = TARGETS[target]
    update = np.transpose(update, [(row.inputs + row.outputs).index(letter) for letter in row.matrix])
    merged = weight.astype(np.float32) + np.float32(adapters.lora.scale) * update
    if "magnitude" in parts:
        square = np.sum(np.square(merged), axis=row.input_axes, dtype=np.float64)
        factors = (parts["magnitude"][layer] / np.sqrt(np.maximum(square, LEAST_SQUARE))).astype(np.float32)
        merged = merged * np.expand_dims(factors, row.input_axes)
    return merged


def whole_reader(step_folder: Place) -> Reader:
    """Reader of the complete parameters of a step: its own, or its base merged with its adapters in float32."""
    adapters = read_adapters(step_folder)
    if adapters is None:
        return lambda name, layer: read_stored_layer(step_folder, name, layer)
    base = base_reader(read_meta(step_folder))

    def whole(name: str, layer: int | None) -> np.ndarray:
        weight = base(name, layer)
        return weight if layer is None else merge(name, layer, weight, adapters)

    return whole


def read_stored_layer(step_folder: Place, name: str, layer: int | None) -> np.ndarray:
    return read(open_array(step_folder, "params", name), ... if layer is None else layer, f"params/{name}")


def base_reader(meta: Meta) -> Reader:
    """Reader of the base weights of a run's adapters. Raises UserError if their folder is missing."""
    init = init_of(meta)
    if init.checkpoint:
        return whole_reader(find_step(Path(init.checkpoint))[1])
    folder, model = Path(init.hf), build(meta.model)
    if not folder.is_dir():
        raise UserError(f"base weights {folder} not found: restore the folder, or export with --adapters")
    tensors = open_model(folder, model)
    rows = {ours: (theirs, layout) for ours, theirs, layout in names(model)}
    shapes = {name: leaf.shape for name, leaf in flatten(model.shapes).items()}

    def base(name: str, layer: int | None) -> np.ndarray:
        theirs, layout = rows[name]
        shape = shapes[name] if layer is None else shapes[name][1:]
        hf_name = theirs.format(layer)
        weight = read_part(tensors[hf_name], layout, tuple(slice(0, size) for size in shape), shape)
        tensors.release(hf_name)
        return weight

    return base


def check_base(meta: Meta) -> None:
    """Raise UserError if the base weights are not those that the adapters were trained on, down to their root."""
    init, base = init_of(meta), base_reader(meta)
    if differing := differing_base(meta, init, lambda: stored_checksums(base, meta)):
        raise UserError(
            f"{init.hf or init.checkpoint} is not the base that the adapters were trained on, {differing}: restore the "
            "original weights, or export with --adapters"
        )
    if init.checkpoint:
        below = read_meta(find_step(Path(init.checkpoint))[1])
        if lora_of(below).rank:
            check_base(below)


def stored_checksums(base: Reader, meta: Meta) -> dict[str, str]:
    """Checksums of the weights under adapters, in the types in which they were trained on them."""
    config = lora_of(meta)
    sums: dict[str, np.ndarray] = defaultdict(lambda: added([]))
    for name, leaf in flatten(adapted(build(meta.model), config).shapes).items():
        for layer in layers_of(leaf.shape, name):
            weight = base(name, layer)
            is_quantized = isinstance(leaf, Quantized)
            stored = quantized_on_host(weight, config.base_dtype) if is_quantized else weight.astype(leaf.dtype)
            for part, array in leaf_names({name: stored}).items():
                sums[part] = added([sums[part], host_checksum(array[None if layer is not None else ...], layer or 0)])
    return {name: written(total) for name, total in sums.items()}


def write_merged(step_folder: Place, run_dir: Path) -> Path:
    """Merge a step of adapters into its base, in float32, and write it to another run folder. Returns the new step."""
    meta = read_meta(step_folder)
    check_base(meta)
    whole = whole_reader(step_folder)
    shapes = {name: leaf.shape for name, leaf in flatten(build(meta.model).shapes).items()}
    partial = run_dir / STEPS / f".{step_folder.name}.saving"
    (partial / "params").mkdir(parents=True)
    arrays = {name: (shape, np.dtype("float32")) for name, shape in shapes.items()}
    checksums = {}
    with ItemWriter(partial / "params", arrays) as writer:
        for name, shape in shapes.items():
            parts = []
            for layer in layers_of(shape, name):
                weight = np.ascontiguousarray(whole(name, layer), np.float32)
                writer.write(name, (...,) if layer is None else (layer,), weight)
                parts.append(host_checksum(weight if layer is None else weight[None], layer or 0))
            checksums[f"params/{name}"] = written(added(parts))
    close_step(partial, run_dir / STEPS / step_folder.name, dataclasses.replace(meta, checksums=checksums))
    return run_dir / STEPS / step_folder.name
