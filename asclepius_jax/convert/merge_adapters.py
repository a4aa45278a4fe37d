"""Base and adapters as one: the parameters that a step of adapters stands for, a layer at a time, without a device."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asclepius_jax.checkpoint.blocks import ItemWriter
from asclepius_jax.checkpoint.checksums import added, host_checksum, written
from asclepius_jax.checkpoint.read import STEPS, Meta, find_step, open_array, read, read_meta
from asclepius_jax.checkpoint.write import close_step
from asclepius_jax.convert.export_peft import HostAdapters, read_adapters
from asclepius_jax.model.huggingface.layout import read_part
from asclepius_jax.model.huggingface.names import flatten, names, open_model
from asclepius_jax.model.llama import build
from asclepius_jax.model.lora import TARGETS
from data_prep.contract.errors import UserError

# ("blocks.attention.q_DNH", 3) -> that layer of the parameter; ("embed_VD", None) -> the whole; as they were kept.
Reader = Callable[[str, int | None], np.ndarray]


def layers_of(shape: tuple[int, ...], name: str) -> list[int | None]:
    return list(range(shape[0])) if name.startswith("blocks.") else [None]


def merge(name: str, layer: int, weight: np.ndarray, adapters: HostAdapters) -> np.ndarray:
    """One layer's matrix with its update, W + alpha / rank A B, in float32; as it came where it has no adapter.

    Args:
        name: as in "blocks.attention.q_DNH", or without "blocks.".
        weight: in our layout, without the layer axis.
    """
    short = name.removeprefix("blocks.")
    target = next((each for each in adapters.weights if TARGETS[each].parameter == short), None)
    if target is None:
        return weight
    parts = adapters.weights[target]
    a, b = (parts[key][layer].astype(np.float32) for key in ("A", "B"))
    # As one product of two matrices: the rank is last in A and first in B.
    update = np.matmul(a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)).reshape(a.shape[:-1] + b.shape[1:])
    made, _, wanted = TARGETS[target].update.partition("->")
    made = made.replace("R", "").replace(",", "")
    update = np.transpose(update, [made.index(letter) for letter in wanted])
    return weight.astype(np.float32) + np.float32(adapters.lora.scale) * update


def whole_reader(step_folder: Path) -> Reader:
    """Reads the parameters that a step stands for: its own, or its base's with its adapters, these in float32."""
    adapters = read_adapters(step_folder)
    if adapters is None:
        return lambda name, layer: read_stored_layer(step_folder, name, layer)
    base = base_reader(read_meta(step_folder))

    def whole(name: str, layer: int | None) -> np.ndarray:
        weight = base(name, layer)
        return weight if layer is None else merge(name, layer, weight, adapters)

    return whole


def read_stored_layer(step_folder: Path, name: str, layer: int | None) -> np.ndarray:
    return read(open_array(step_folder, "params", name), ... if layer is None else layer, f"params/{name}")


def base_reader(meta: Meta) -> Reader:
    """The same of what a run's adapters stand on."""
    init = meta.config["init"]
    if init["checkpoint"]:
        return whole_reader(find_step(Path(init["checkpoint"]))[1])
    folder, model = Path(init["hf"]), build(meta.model)
    if not folder.is_dir():
        raise UserError(f"{folder}, which the adapters stand on, is not there: put it back, or export with --adapters")
    tensors = open_model(folder, model)
    rows = {ours: (theirs, layout) for ours, theirs, layout in names(model)}
    shapes = {name: leaf.shape for name, leaf in flatten(model.shapes).items()}

    def base(name: str, layer: int | None) -> np.ndarray:
        theirs, layout = rows[name]
        shape = shapes[name] if layer is None else shapes[name][1:]
        told = theirs.format(layer)
        part = read_part(tensors[told], layout, tuple(slice(0, size) for size in shape), shape)
        tensors.release(told)
        return part

    return base


def check_base(meta: Meta) -> None:
    """Refuse to merge into other weights than those that the adapters were trained upon."""
    base = base_reader(meta)
    for name, leaf in flatten(build(meta.model).shapes).items():
        kept = np.dtype("float32") if name.endswith("scale") else np.dtype(meta.config["lora"]["base_dtype"])
        sums = (
            host_checksum(base(name, layer).astype(kept)[None if layer is not None else ...], layer or 0)
            for layer in layers_of(leaf.shape, name)
        )
        if written(added(sums)) != meta.checksums.get(f"base/{name}"):
            init = meta.config["init"]
            raise UserError(
                f"{init['hf'] or init['checkpoint']} is not what the adapters were trained upon, {name} differs: put "
                "the weights back that they began with, or export with --adapters"
            )


def write_merged(step_folder: Path, run_dir: Path) -> Path:
    """A step, in a run folder of its own, that holds in float32 what a step of adapters stands for; returns it."""
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
