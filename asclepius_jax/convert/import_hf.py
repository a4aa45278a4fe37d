"""Import of a Hugging Face folder as a checkpoint, block by block and without a device or mesh.

Weights keep the type that they have in the folder. bfloat16 weights stay bfloat16 in the checkpoint and are converted
to float32 when training starts.
"""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from asclepius_jax.checkpoint.blocks import WORKERS, ItemWriter, blocks, tensor_checksum
from asclepius_jax.checkpoint.checksums import added, written
from asclepius_jax.checkpoint.read import STEPS, Meta, find_step
from asclepius_jax.checkpoint.write import close_step
from asclepius_jax.convert.verify import compare_logits, set_aside
from asclepius_jax.model.decoder import Model, build
from asclepius_jax.model.huggingface.layout import read_part
from asclepius_jax.model.huggingface.names import (
    check_finite,
    flatten,
    hf_shapes,
    names,
    non_finite,
    open_model,
    read_config,
)
from asclepius_jax.model.huggingface.safetensors import FolderError, Tensors
from data_prep.contract.errors import UserError
from data_prep.contract.hub import WEIGHTS, local_folder
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import file_hash
from data_prep.contract.tokenizer import Tokenizer, check_vocabulary, load_tokenizer


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Convert a Hugging Face folder to a checkpoint."""

    hf: Path
    """Folder or hub id with config.json, safetensors and tokenizer.json or tokenizer.model."""
    out: Path
    """Run folder to write; `--init.checkpoint`, `generate` and `export` read it."""
    verify: bool = False
    """Compare the logits of a sample text with those of transformers; needs PyTorch."""


def run_import(config: ImportConfig) -> None:
    if (config.out / STEPS).exists():
        raise UserError(f"{config.out} already contains checkpoints: choose another --out, or remove it")
    config = dataclasses.replace(config, hf=local_folder(config.hf, WEIGHTS))
    meta, source = read_folder(config.hf)
    model = build(meta.model)
    tensors = open_model(config.hf, model)
    inputs = {str(config.hf): file_hash(config.hf / "config.json")}
    with writing_folder(config.out, "import", inputs, of_records=False) as folder:
        source.save(folder.path / "tokenizer")
        partial = folder.path / STEPS / ".0.saving"
        (partial / "params").mkdir(parents=True)
        checksums = copy_weights(tensors, model, partial / "params", config.hf)
        close_step(partial, partial.parent / "0", dataclasses.replace(meta, checksums=checksums))
        folder.counts["in"] = folder.counts["out"] = len(hf_shapes(model))
    print(f"imported {config.hf} to {config.out}: {model.config.num_params:,} parameters")
    if config.verify:
        verify_import(config, meta, model)


def read_folder(folder: Path) -> tuple[Meta, Tokenizer]:
    """The metadata of a Hugging Face folder as those of a checkpoint, and its tokenizer, which must fit the model."""
    model, tokenizer = read_config(folder), load_tokenizer(folder)
    check_vocabulary(tokenizer, model.vocab_size, folder)
    if max(tokenizer.ends) >= model.vocab_size:
        raise UserError(
            f"{folder}: a text ends at {', '.join(map(str, tokenizer.ends))}, but the embedding has "
            f"{model.vocab_size} rows: correct eos_token_id in generation_config.json or config.json"
        )
    return Meta(model, tokenizer.hash, prompt_template="", row_length=0, phase="import", config={}), tokenizer


def verify_import(config: ImportConfig, meta: Meta, model: Model) -> None:
    """Compare the checkpoint with the folder by their logits, and print the result. One that fails is renamed."""
    try:
        result = compare_logits(config.hf, find_step(config.out)[1], meta, model, rounded=False)
    except FolderError as error:
        raise UserError(
            f"{config.out} does not compute what {config.hf} does: {error}. Renamed to {set_aside(config.out)}"
        ) from error
    print(f"verified {config.out}: {result}")


def common_dtype(tensors: Tensors, theirs: str, layers: range) -> np.dtype:
    """The type of a parameter's tensors. If its layers differ, float32, which represents all others exactly."""
    dtypes = {tensors[theirs.format(layer)].dtype for layer in layers}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)


def copy_weights(tensors: Tensors, model: Model, item: Path, where: Path) -> dict[str, str]:
    """Write the item `params` of a checkpoint. Returns the content checksum of each array by name."""
    shapes = {name: shape.shape for name, shape in flatten(model.shapes).items()}
    rows = {row[0]: row for row in names(model)}
    layers = {name: range(shapes[name][0]) if "{}" in row[1] else range(1) for name, row in rows.items()}
    arrays = {name: (shapes[name], common_dtype(tensors, row[1], layers[name])) for name, row in rows.items()}

    def copy(writer: ItemWriter, job: tuple[str, int]) -> tuple[str, str, int, np.ndarray]:
        name, layer = job
        _, theirs, layout = rows[name]
        hf_name = theirs.format(layer)
        tensor = tensors.fetch(hf_name).astype(arrays[name][1], copy=False)
        stacked = "{}" in theirs
        shape, chunk = shapes[name], writer.arrays[name].chunk_layout.write_chunk.shape
        shape, chunk = (shape[1:], chunk[1:]) if stacked else (shape, chunk)
        for index in blocks(shape, chunk, tensor.itemsize):
            block = read_part(tensor, layout, index, shape)
            writer.write(name, (layer, *index) if stacked else index, block)
        sums = tensor_checksum(tensor, layout, shape, layer if stacked else None)
        bad = non_finite(tensor)
        tensors.release(hf_name)
        return f"params/{name}", hf_name, bad, sums

    jobs = [(name, layer) for name in rows for layer in layers[name]]
    with ItemWriter(item, arrays) as writer:
        with ThreadPoolExecutor(WORKERS) as pool:
            done = list(pool.map(functools.partial(copy, writer), jobs))
        check_finite({hf_name: bad for _, hf_name, bad, _ in done}, where)
    return {name: written(added(sums for other, _, _, sums in done if other == name)) for name, *_ in done}
