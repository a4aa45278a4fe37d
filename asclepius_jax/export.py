"""Checkpoint to Hugging Face folder, and back.

Export needs no accelerator: it reads one parameter at a time from storage and writes it on.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from asclepius_jax.checkpoints import STEPS, Meta, find_step, read_meta
from asclepius_jax.config import CheckpointConfig, MeshConfig
from asclepius_jax.model.hf import hf_shapes, load_params, names, read_config, to_hf, write_config
from asclepius_jax.model.llama import Model, build
from asclepius_jax.peft import whole_reader
from asclepius_jax.saver import Saver
from asclepius_jax.sharding import make_mesh, param_shardings
from data_prep.prompts import chat_template
from data_prep.records import MANIFEST, SCHEMA_VERSION, UserError, file_hash, write_durably, writing_folder
from data_prep.tokenizer import JsonTokenizer, load_tokenizer

SAFETENSORS_DTYPES = {"bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)), "float32": ("F32", np.dtype("<f4"))}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Checkpoint to Hugging Face folder."""

    checkpoint: Path
    """Run folder (its newest step), or RUN/checkpoints/STEP."""
    out: Path
    """Folder to write."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the exported weights."""
    max_shard_size: float = 5.0
    """Largest safetensors file, in GB."""


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Hugging Face folder to checkpoint."""

    hf: Path
    """Folder with config.json, safetensors and tokenizer.json or tokenizer.model."""
    out: Path
    """Run folder to write, for `--init.checkpoint`, `generate` and `export`."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)


# ---------------------------------------------------------------- export


def run_export(config: ExportConfig) -> None:
    run_dir, step_folder = find_step(config.checkpoint)
    meta = read_meta(step_folder)
    tokenizer = JsonTokenizer(run_dir / "tokenizer")
    if tokenizer.hash != meta.tokenizer_hash:
        raise UserError(f"{run_dir}/tokenizer is not the one that {step_folder} was trained with")
    if config.max_shard_size <= 0:
        raise UserError(f"--max-shard-size {config.max_shard_size}: it must be above 0 GB")
    item = "params" if (step_folder / "params").is_dir() else "adapters"
    inputs = {str(step_folder): file_hash(step_folder / item / "manifest.ocdbt")}
    with writing_folder(config.out, "export", inputs, of_records=False) as folder:
        files = write_weights(folder.path, step_folder, build(meta.model), config)
        for name, count in files.items():
            folder.add_file(name, count)
        folder.counts["in"] = folder.counts["out"]
        write_texts(folder.path, meta, tokenizer, config.dtype)
        folder.facts = {"dtype": config.dtype, "tokenizer_hash": meta.tokenizer_hash, "step": int(step_folder.name)}
    print(f"exported {step_folder} to {config.out}: {folder.counts['out']} tensors in {len(files)} files")


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a tensor's bytes go."""

    path: Path
    offset: int


def write_weights(out: Path, step_folder: Path, model: Model, config: ExportConfig) -> dict[str, int]:
    """Write every tensor into safetensors shards and their index; returns file name -> tensors in it."""
    code, dtype = SAFETENSORS_DTYPES[config.dtype]
    shapes = hf_shapes(model)
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = plan_shards(sizes, int(config.max_shard_size * 1e9))
    slots: dict[str, Slot] = {}
    for file, tensors in shards.items():
        header = {name: {"dtype": code, "shape": shapes[name]} for name in tensors}
        slots |= lay_out(out / file, header, sizes)
    for name, tensor in stored_tensors(step_folder, model):
        with slots[name].path.open("r+b") as opened:
            opened.seek(slots[name].offset)
            opened.write(tensor.astype(dtype).tobytes())
    if len(shards) > 1:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return {file: len(tensors) for file, tensors in shards.items()}


def plan_shards(sizes: dict[str, int], max_bytes: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order, none above `max_bytes` unless one tensor is."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}


def lay_out(path: Path, header: dict[str, Any], sizes: dict[str, int]) -> dict[str, Slot]:
    """Create a safetensors file with its header and room for every tensor."""
    end = 0
    for name, entry in header.items():
        entry["data_offsets"] = [end, end + sizes[name]]
        end += sizes[name]
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return {name: Slot(path, 8 + len(text) + entry["data_offsets"][0]) for name, entry in header.items()}


def stored_tensors(step_folder: Path, model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """The Hugging Face tensors of a checkpoint, read one parameter at a time without a device."""
    read = whole_reader(step_folder)
    for row in names(model):
        yield from to_hf(row, read(row[0]))


def write_texts(out: Path, meta: Meta, tokenizer: JsonTokenizer, dtype: str) -> None:
    """Everything of the folder that is not weights."""
    tokenizer.save(out)
    pad = tokenizer.config.get("pad_token")
    pad_id = None if pad is None else tokenizer.fast.token_to_id(pad)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad_id}
    (out / "config.json").write_text(write_config(meta.model, dtype, ids))
    (out / "generation_config.json").write_text(json.dumps({**ids, "do_sample": False}, indent=2) + "\n")
    if meta.phase == "instruct":
        template = chat_template(meta.prompt_template, tokenizer.token(tokenizer.bos_id), tokenizer.special_tokens())
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    (out / "README.md").write_text(model_card(meta), encoding="utf-8")


def model_card(meta: Meta) -> str:
    """What the weights are, from what data, under which licence, and what they are not for."""
    licences = ", ".join(f"{name} ({count})" for name, count in meta.data.get("licences", {}).items())
    sources = ", ".join(f"{name} ({count})" for name, count in meta.data.get("sources", {}).items())
    facts = {
        "Parameters": f"{meta.model.num_params:,}",
        "Last phase": meta.phase,
        "Row length": f"{meta.row_length} tokens" if meta.row_length else "",
        "Training rows": meta.data.get("rows", ""),
        "Training tokens": meta.data.get("tokens", ""),
        "Sources of the data": sources,
        "Licences of the data": licences,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value != "")
    prompt = f"\n## Prompt\n\n```\n{meta.prompt_template}```\n" if meta.phase == "instruct" else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [medical, clinical, asclepius-jax]
---

# A clinical language model made with asclepius-jax

| | |
|---|---|
{table}

The licences of the data above govern what may be done with these weights.
{prompt}
## Limits

Trained on synthetic notes. Its answers may be wrong or incomplete. Not for clinical use: nothing that it writes may
decide on a patient's care.
"""


# ---------------------------------------------------------------- import


def run_import(config: ImportConfig) -> None:
    started = time.monotonic()
    model = build(read_config(config.hf))
    source = load_tokenizer(config.hf)
    if source.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{config.hf}: the tokenizer has {source.vocab_size} pieces, the embedding {model.config.vocab_size} rows"
        )
    if (config.out / STEPS).exists():
        raise UserError(f"{config.out} holds checkpoints already: choose another --out, or remove it")
    params = load_params(config.hf, model, param_shardings(make_mesh(config.mesh), model))
    meta = Meta(model.config, source.hash, prompt_template="", row_length=0, phase="import", config={})
    source.save(config.out / "tokenizer")
    saver = Saver(config.out, CheckpointConfig())
    saver.save(0, {"params": params}, meta)
    saver.finish(last=True)
    count = len(hf_shapes(model))
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": "import",
        "in": count,
        "out": count,
        "rejected": {},
        "seconds": round(time.monotonic() - started, 3),
        "inputs": {str(config.hf): file_hash(config.hf / "config.json")},
    }
    write_durably(config.out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    print(f"imported {config.hf} to {config.out}: {model.config.num_params:,} parameters")
