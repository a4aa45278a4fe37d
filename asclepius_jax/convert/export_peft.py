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
from asclepius_jax.model.huggingface.names import block_rows
from asclepius_jax.model.huggingface.safetensors import stored_name
from asclepius_jax.model.lora import TARGETS, Lora, adapter_shapes
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError

PEFT_NAMES = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
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
            for part in lora.parts(name)
        }
        compare("adapters", {name: host_checksum(array) for name, array in arrays.items()}, meta)
    except DamagedStep as error:
        raise UserError(refusal(step_folder, error)) from error
    weights = {name: {part: arrays[f"{name}.{part}"] for part in lora.parts(name)} for name in lora.targets}
    return HostAdapters(lora, weights)


# ---------------------------------------------------------------- the folder


def peft_modules(config: DecoderConfig) -> dict[str, tuple[str, ...]]:
    """The modules of transformers that can have an adapter, and the targets in each: several where a family fuses them.

    {"self_attn.q_proj": ("q",), ...}
    """
    theirs_of = {name: stored_name(theirs) for name, theirs, _ in block_rows(config)}
    modules: dict[str, tuple[str, ...]] = {}
    for target, row in TARGETS.items():
        module = theirs_of[row.parameter].removesuffix(".weight")
        modules[module] = (*modules.get(module, ()), target)
    return modules


def matrices(target: str, config: DecoderConfig, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The adapter of a target in one layer as peft has it: A (rank, inputs), B (outputs, rank), magnitude (outputs).

    They are derived from the matrix's own row. For example, "(n h) d -> d n h" has outputs (n h) and inputs d.
    """
    layout = next(layout for name, _, layout in block_rows(config) if name == TARGETS[target].parameter)
    outputs, inputs = re.findall(r"\([^)]*\)|\w", layout.partition("->")[0])
    a = rearrange(parts["A"], f"{inputs.strip('()')} r -> r {inputs}")
    b = rearrange(parts["B"], f"r {outputs.strip('()')} -> {outputs} r")
    return {"A": a, "B": b, **({"magnitude": parts["magnitude"].reshape(-1)} if "magnitude" in parts else {})}


def module_matrices(
    targets: tuple[str, ...], config: DecoderConfig, lora: Lora, weights: dict[str, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """A, B and magnitude of a module in one layer.

    Several targets in one module become one adapter of as many ranks: their A above one another, and each B in its own
    outputs and its own ranks. The product is that of the targets.
    """
    made = {name: matrices(name, config, weights[name]) for name in targets if name in weights}
    if len(targets) == 1:
        return made[targets[0]]
    shapes = adapter_shapes(config, dataclasses.replace(lora, targets=targets))
    outputs = {name: math.prod(shapes[name]["B"].shape[2:]) for name in targets}
    b = np.zeros((sum(outputs.values()), lora.rank * len(made)), np.float32)
    row = column = 0
    for name in targets:
        if name in made:
            b[row : row + outputs[name], column : column + lora.rank] = made[name]["B"]
            column += lora.rank
        row += outputs[name]
    whole = {"A": np.concatenate([parts["A"] for parts in made.values()]), "B": b}
    if lora.magnitudes:
        whole["magnitude"] = np.concatenate([parts["magnitude"] for parts in made.values()])
    return whole


def peft_tensors(adapters: HostAdapters, config: DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    for module, targets in peft_modules(config).items():
        present = [name for name in targets if name in adapters.lora.targets]
        if not present:
            continue
        if adapters.lora.magnitudes and len(present) < len(targets):
            raise UserError(
                f"--adapters: {module} of {config.family} models is {', '.join(targets)}, of which only "
                f"{', '.join(present)} have magnitudes, and peft's are of whole modules: export without --adapters"
            )
        for layer in range(config.num_layers):
            weights = {name: {part: array[layer] for part, array in adapters.weights[name].items()} for name in present}
            stem = f"base_model.model.model.layers.{layer}.{module}"
            for part, array in module_matrices(targets, config, adapters.lora, weights).items():
                yield f"{stem}.{PEFT_NAMES[part]}", np.ascontiguousarray(array)


def peft_config(lora: Lora, config: DecoderConfig, base: str) -> dict[str, Any]:
    """The content of adapter_config.json. `base` is the folder or hub id of the frozen weights."""
    counts = {
        module.rpartition(".")[2]: len(set(targets) & set(lora.targets))
        for module, targets in peft_modules(config).items()
        if set(targets) & set(lora.targets)
    }
    several = {module: count for module, count in counts.items() if count > 1}
    # peft divides alpha by the module's rank, or by its square root.
    factor = math.sqrt if lora.rank_stabilized else float
    patterns = {
        "rank_pattern": {module: count * lora.rank for module, count in several.items()},
        "alpha_pattern": {module: factor(count) * lora.alpha for module, count in several.items()},
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(counts),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": lora.rank_stabilized,
        "use_dora": lora.magnitudes,
        "inference_mode": True,
        **(patterns if several else {}),
    }


def write_peft(folder: Path, model: Model, adapters: HostAdapters, base: str, dtype: str) -> int:
    """Write both files to an existing folder, one tensor at a time. Returns the number of tensors.

    Magnitudes stay float32: rounding them would rescale whole columns by up to 0.4 %.
    """

    def type_of(name: str) -> tuple[str, np.dtype]:
        return DTYPES["float32" if name.endswith(PEFT_NAMES["magnitude"]) else dtype]

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in peft_tensors(adapters, model.config):
        code, numbers = type_of(name)
        size = tensor.size * numbers.itemsize
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in peft_tensors(adapters, model.config):
            file.write(tensor.astype(type_of(name)[1]).tobytes())
    config = peft_config(adapters.lora, model.config, base)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(header) - 1
