"""Merging of adapters into their base weights, one layer or a few chunks at a time and without a device."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from asclepius_jax.checkpoint.adapters import adapted, differing_base, init_of, lora_of
from asclepius_jax.checkpoint.arrays import layout_of
from asclepius_jax.checkpoint.blocks import ItemWriter, blocks
from asclepius_jax.checkpoint.checksums import added, host_checksum, part_checksum, written
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

# A layer of a stacked parameter, or a range on every axis of any other.
Part = int | tuple[slice, ...]
# ("blocks.attention.q_DNH", 3) -> that layer; ("embed_VD", (slice(0, 500), slice(0, 4096))) -> these rows; both in the
# stored type.
Reader = Callable[[str, Part], np.ndarray]


def parts_of(name: str, shape: tuple[int, ...]) -> Iterable[Part]:
    """All layers of a stacked parameter. Of others, which may be far larger than a layer, parts of whole chunks."""
    if name.startswith("blocks."):
        return range(shape[0])
    stored = np.dtype("float32")
    return blocks(shape, layout_of(name, shape, stored).chunk, stored.itemsize)


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
    # In place: of the largest matrix of a layer, each copy can take a gigabyte.
    update *= np.float32(adapters.lora.scale)
    update += weight.astype(np.float32, copy=False)
    if "magnitude" in parts:
        square = np.sum(np.square(update), axis=row.input_axes, dtype=np.float64)
        factors = (parts["magnitude"][layer] / np.sqrt(np.maximum(square, LEAST_SQUARE))).astype(np.float32)
        update *= np.expand_dims(factors, row.input_axes)
    return update


def whole_reader(step_folder: Place) -> Reader:
    """Reader of the complete parameters of a step: its own, or its base merged with its adapters in float32."""
    adapters = read_adapters(step_folder)
    if adapters is None:
        return lambda name, part: read(open_array(step_folder, "params", name), part, f"params/{name}")
    base = base_reader(read_meta(step_folder))

    def whole(name: str, part: Part) -> np.ndarray:
        weight = base(name, part)
        return merge(name, part, weight, adapters) if isinstance(part, int) else weight

    return whole


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

    def base(name: str, part: Part) -> np.ndarray:
        theirs, layout = rows[name]
        shape = shapes[name][1:] if isinstance(part, int) else shapes[name]
        hf_name = theirs.format(part)
        place = tuple(slice(0, size) for size in shape) if isinstance(part, int) else part
        weight = read_part(tensors[hf_name], layout, place, shape)
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
        for part in parts_of(name, leaf.shape):
            weight = base(name, part)
            is_quantized = isinstance(leaf, Quantized)
            stored = quantized_on_host(weight, config.base_dtype) if is_quantized else weight.astype(leaf.dtype)
            for array_name, array in leaf_names({name: stored}).items():
                sums[array_name] = added([sums[array_name], checksum_of(array, part)])
    return {name: written(total) for name, total in sums.items()}


def checksum_of(weight: np.ndarray, part: Part) -> np.ndarray:
    """The share of a part in the checksum of its parameter."""
    if isinstance(part, int):
        return host_checksum(weight[None], part)
    return part_checksum(weight, [(axis, along.start) for axis, along in enumerate(part)])


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
            sums = []
            for part in parts_of(name, shape):
                weight = np.ascontiguousarray(whole(name, part), np.float32)
                writer.write(name, (part,) if isinstance(part, int) else part, weight)
                sums.append(checksum_of(weight, part))
            checksums[f"params/{name}"] = written(added(sums))
    close_step(partial, run_dir / STEPS / step_folder.name, dataclasses.replace(meta, checksums=checksums))
    return run_dir / STEPS / step_folder.name
