"""Export of adapters to a folder that `peft` can load, without a device.

    adapter_config.json            rank, alpha, targets and the base
    adapter_model.safetensors      base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight (rank, inputs), ...

Names and layouts are derived from the table in `model/huggingface/names.py`.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from einops import rearrange

from asclepius_jax.checkpoint.adapters import lora_from, lora_of
from asclepius_jax.checkpoint.checksums import host_checksum
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import DamagedStep, compare, read_meta, read_stored, refusal
from asclepius_jax.model.decoder import Model
from asclepius_jax.model.huggingface.names import PER_BLOCK
from asclepius_jax.model.lora import TARGETS, Lora, adapter_shapes
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError

DTYPES = {"float32": ("F32", np.dtype("<f4")), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}


@dataclasses.dataclass(frozen=True)
class HostAdapters:
    """The adapters of a step as float32 host arrays, stacked over layers: {"q": {"A": ..., "B": ...}, ...}."""

    lora: Lora
    weights: dict[str, dict[str, np.ndarray]]


def read_adapters(step_folder: Place) -> HostAdapters | None:
    """The adapters of a step, or None if it contains complete parameters. Raises UserError if they are damaged."""
    meta = read_meta(step_folder)
    config = lora_of(meta)
    if not config.rank:
        return None
    lora = lora_from(config)
    try:
        arrays = {
            f"{name}.{part}": read_stored(step_folder, f"{name}.{part}", "adapters")
            for name in lora.targets
            for part in ("A", "B")
        }
        compare("adapters", {name: host_checksum(array) for name, array in arrays.items()}, meta)
    except DamagedStep as error:
        raise UserError(refusal(step_folder, error)) from error
    return HostAdapters(lora, {name: {part: arrays[f"{name}.{part}"] for part in ("A", "B")} for name in lora.targets})


# ---------------------------------------------------------------- the folder


def peft_rows(target: str) -> dict[str, tuple[str, str]]:
    """Names and layouts of an adapter: {"A": (peft's name with {} for the layer, einops "ours -> theirs"), "B": ...}.

    They are derived from the matrix's own row. For example, "(n h) d -> d n h" has outputs (n h) and inputs d.
    """
    _, theirs, layout = next(row for row in PER_BLOCK if row[0] == TARGETS[target].parameter)
    outputs, inputs = re.findall(r"\([^)]*\)|\w", layout.partition("->")[0])
    stem = f"base_model.model.model.layers.{{}}.{theirs.removesuffix('.weight')}"
    return {
        "A": (f"{stem}.lora_A.weight", f"{inputs.strip('()')} r -> r {inputs}"),
        "B": (f"{stem}.lora_B.weight", f"r {outputs.strip('()')} -> {outputs} r"),
    }


def peft_shapes(config: DecoderConfig, lora: Lora) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, in the order of `peft_tensors`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target, parts in adapter_shapes(config, lora).items():
        for part, (theirs, layout) in peft_rows(target).items():
            # Broadcasting one zero to the shape lets einops work out peft's shape without using memory.
            peft_shape = rearrange(np.broadcast_to(np.int8(0), parts[part].shape[1:]), layout).shape
            shapes |= {theirs.format(layer): peft_shape for layer in range(config.num_layers)}
    return shapes


def peft_tensors(adapters: HostAdapters) -> Iterator[tuple[str, np.ndarray]]:
    for target in adapters.lora.targets:
        for part, (theirs, layout) in peft_rows(target).items():
            for layer, value in enumerate(adapters.weights[target][part]):
                yield theirs.format(layer), np.ascontiguousarray(rearrange(value, layout))


def peft_config(lora: Lora, base: str) -> dict[str, Any]:
    """The content of adapter_config.json. `base` is the folder or hub id of the frozen weights."""
    modules = [peft_rows(target)["A"][0].split(".")[-3] for target in lora.targets]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def write_peft(folder: Path, model: Model, adapters: HostAdapters, base: str, dtype: str) -> int:
    """Write both files to an existing folder, one tensor at a time. Returns the number of tensors."""
    code, numbers = DTYPES[dtype]
    shapes = peft_shapes(model.config, adapters.lora)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * numbers.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), expected in zip(peft_tensors(adapters), shapes, strict=True):
            assert (name, tensor.shape) == (expected, shapes[expected])
            file.write(tensor.astype(numbers).tobytes())
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(adapters.lora, base), indent=2) + "\n")
    return len(shapes)
