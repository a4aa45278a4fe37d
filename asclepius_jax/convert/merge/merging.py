"""`asclepius merge`: one Hugging Face folder made of several models of the same shape.

    asclepius merge --models runs/a=0.6 models/b=0.4 --out models/merged

Every model is read, and the result written, in blocks of rows, so that memory depends on no model's size.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asclepius_jax.checkpoint.blocks import WORKERS
from asclepius_jax.checkpoint.checksums import added, written
from asclepius_jax.convert.export_hf import CODES, add_texts, add_weights, check_shard_size, texts_of
from asclepius_jax.convert.merge.merge_methods import Method, Read, Recipe, merged
from asclepius_jax.convert.merge.merged_card import merged_card
from asclepius_jax.convert.merge.parents import (
    Parent,
    check_alike,
    find_parent,
    last_parents,
    numbered,
    opened,
    read_weights,
)
from asclepius_jax.convert.merge.tensor_rows import FolderReader, Reader, Rows, row_blocks
from asclepius_jax.convert.weights import lay_out_files, write_bytes
from asclepius_jax.model.decoder import Model, build
from asclepius_jax.model.huggingface.names import check_finite, hf_shapes, non_finite
from asclepius_jax.model.huggingface.safetensors import DTYPES, plan_shards
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import NEW, place_of, sync, working_folder
from data_prep.contract.manifests import check_replaceable, writing_folder
from data_prep.contract.tokenizer import JsonTokenizer

BLOCK_ELEMENTS = 2**22  # of a block of one model
ALL_ELEMENTS = 2**25  # of the blocks of all models that ties holds at once


@dataclasses.dataclass(frozen=True)
class MergeConfig:
    """Merge models into one Hugging Face folder."""

    models: tuple[str, ...]
    """Models to merge, each as PATH or PATH=WEIGHT. A path is a Hugging Face folder, a hub id, a run folder (its newest
    step) or RUN/checkpoints/STEP."""
    out: Path
    """Folder to write."""
    method: Method = "linear"
    """Method of merging: the weighted average, spherical interpolation between two models, or weighted differences to a
    base, added as they are or by the rules of TIES."""
    last: int = 0
    """Number of a run's last checkpoints to average; --models then names the run alone. 0 merges the models given."""
    base: str = ""
    """Model that the others were tuned from, named as in --models; task-arithmetic and ties need it."""
    density: float = 0.2
    """Fraction of each difference to the base that ties keeps, the largest elements of every tensor."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the merged weights."""
    max_shard_size: float = 5.0
    """Largest safetensors file, in GB."""
    verify: bool = True
    """Read the written weights back and compare their checksums with those of the computed ones."""


@dataclasses.dataclass(frozen=True)
class MergedTensor:
    """Facts about a tensor in the folder's type."""

    sums: np.ndarray  # checksum
    non_finite: int  # number of infinite or NaN elements


def run_merge(config: MergeConfig) -> None:
    check_settings(config)
    paths, given = read_weights(config.models)
    recipe = recipe_of(config, given)
    parents = last_parents(paths[0], config.last) if config.last else [find_parent(path) for path in paths]
    models = numbered([*parents, *([find_parent(config.base)] if config.base else [])])
    parents, base = models[: len(recipe.weights)], (models[-1] if config.base else None)
    check_alike(models)
    # Before adapters are merged, which takes a while.
    check_replaceable(place_of(config.out, [str(parent.place) for parent in models]), "export")
    with opened(models, config.out) as readers:
        write_folder(config, recipe, parents, base, readers)


def check_settings(config: MergeConfig) -> None:
    """Raise UserError for settings that do not go together, before any model is read."""
    check_shard_size(config.max_shard_size)
    if not config.models:
        raise UserError("--models names no model: give each as PATH or PATH=WEIGHT")
    if not 0 < config.density <= 1:
        raise UserError(f"--density {config.density}: it must be above 0 and at most 1")
    if config.method in ("task-arithmetic", "ties") and not config.base:
        raise UserError(f"--method {config.method} needs --base, the model that the others were tuned from")
    if config.method in ("linear", "slerp") and config.base:
        raise UserError(
            f"--base {config.base}: {config.method} uses no base; omit the flag, or choose another --method"
        )
    if config.last < 0:
        raise UserError(f"--last {config.last}: it must be 1 or more")
    if config.last and (config.method != "linear" or len(config.models) != 1):
        raise UserError(f"--last {config.last} is for --method linear and one run folder in --models")


def recipe_of(config: MergeConfig, given: list[float | None]) -> Recipe:
    """The method with a weight for every model. Raises UserError for weights that the method cannot use."""
    count, method = config.last or len(given), config.method
    weights = [weight for weight in given if weight is not None]
    if weights and (config.last or len(weights) < len(given)):
        raise UserError("--models: give every model a weight, as in PATH=0.5, or none; with --last all count the same")
    if method == "slerp" and count != 2:
        raise UserError(f"--models: slerp merges two models, not {count}")
    if method == "linear" and count < 2 and not config.last:
        raise UserError("--models: linear merges at least two models; for the last checkpoints of a run add --last N")
    if method == "task-arithmetic" and not weights:
        raise UserError("--models: task-arithmetic needs a weight for every model, as in PATH=0.5")
    weights = weights or [1 / count] * count
    shown = " ".join(f"{weight:g}" for weight in weights)
    if method == "ties" and min(weights) <= 0:
        raise UserError(f"--models: the weights {shown} of ties must all be above 0")
    if method == "slerp" and min(weights) < 0:
        raise UserError(f"--models: the weights {shown} of slerp must be 0 or more")
    total = math.fsum(weights)
    if method in ("linear", "slerp"):
        if abs(total) < 1e-9:
            raise UserError(f"--models: the weights {shown} sum to 0, and cannot be scaled to a sum of 1")
        # Weights that were meant to sum to 1 stay as they are written.
        weights = weights if math.isclose(total, 1, rel_tol=1e-12) else [weight / total for weight in weights]
    return Recipe(method, tuple(weights), config.density)


# ---------------------------------------------------------------- the folder


def write_folder(
    config: MergeConfig, recipe: Recipe, parents: list[Parent], base: Parent | None, readers: list[Reader]
) -> None:
    models, first = [*parents, *([base] if base else [])], parents[0]
    inputs = {str(parent.place): parent.digest for parent in models}
    with writing_folder(config.out, "export", inputs, of_records=False) as folder:
        writer = MergedWeights(build(first.meta.model), config, recipe, readers)
        tensors = writer.write(folder.path)
        for reader in readers:
            reader.check()
        check_finite({name: tensor.non_finite for name, tensor in tensors.items()}, "the result")
        add_weights(folder, writer.shards, sum(writer.sizes.values()))
        if config.verify:
            writer.verify(folder.path, tensors)
        card = merged_card(parents, base, recipe, config.dtype)
        with json_tokenizer(first, config.out) as tokenizer:
            add_texts(folder, tokenizer, {**texts_of(first.meta, tokenizer, config.dtype), "README.md": card})
        folder.facts = {
            **facts_of(config, recipe, parents, base),
            "checksums": {name: written(tensors[name].sums) for name in sorted(tensors)},
        }
    done = "merged and verified" if config.verify else "merged"
    names = ", ".join(parent.name for parent in parents)
    print(f"{done} {names} in {config.out}: {folder.counts['out']} tensors in {len(writer.shards)} files", flush=True)


@contextlib.contextmanager
def json_tokenizer(parent: Parent, out: Path) -> Iterator[JsonTokenizer]:
    """Context with the tokenizer of a model as tokenizer.json, which a folder with tokenizer.model alone lacks."""
    if isinstance(parent.tokenizer, JsonTokenizer):
        yield parent.tokenizer
        return
    with working_folder(place_of(out), purpose="-tokenizer") as work:
        parent.tokenizer.save(work / NEW)
        yield JsonTokenizer(work / NEW)


def facts_of(config: MergeConfig, recipe: Recipe, parents: list[Parent], base: Parent | None) -> dict[str, Any]:
    """Entries of the manifest. Only public names of the models, because the folder may be published."""
    return {
        "dtype": config.dtype,
        "max_shard_size": config.max_shard_size,
        "tokenizer_hash": parents[0].tokenizer.hash,
        "inputs": {parent.name: parent.digest for parent in [*parents, *([base] if base else [])]},
        "method": recipe.method,
        "weights": {parent.name: weight for parent, weight in zip(parents, recipe.weights, strict=True)},
        **({"base": base.name} if base else {}),
        **({"density": recipe.density} if recipe.method == "ties" else {}),
    }


class MergedWeights:
    """Merges the tensors of all models, writes them to safetensors files, and reads these back."""

    def __init__(self, model: Model, config: MergeConfig, recipe: Recipe, readers: list[Reader]):
        self.model, self.recipe, self.code = model, recipe, CODES[config.dtype]
        self.dtype, self.shapes = DTYPES[self.code], hf_shapes(model)
        self.sizes = {name: math.prod(shape) * self.dtype.itemsize for name, shape in self.shapes.items()}
        self.shards = plan_shards(self.sizes, int(config.max_shard_size * 1e9))
        self.blocks = row_blocks(model, min(BLOCK_ELEMENTS, ALL_ELEMENTS // len(recipe.weights)))
        reads = [as_float32(reader) for reader in readers]
        self.reads, self.base = reads[: len(recipe.weights)], (reads[-1] if config.base else None)

    def write(self, folder: Path) -> dict[str, MergedTensor]:
        starts = lay_out_files(folder, self.shards, self.shapes, self.code)
        with ThreadPoolExecutor(WORKERS) as pool:
            tensors = list(pool.map(lambda name: self.write_tensor(name, *starts[name]), starts))
        for file in self.shards:
            sync(folder / file)
        return dict(zip(starts, tensors, strict=True))

    def write_tensor(self, name: str, path: Path, start: int) -> MergedTensor:
        sums, bad, blocks = [], 0, self.blocks[name]
        # Infinite and NaN values are counted and refused, without warnings before that.
        with np.errstate(all="ignore"):
            for rows, values in zip(blocks, merged(self.recipe, blocks, self.reads, self.base), strict=True):
                cast = values.astype(self.dtype, copy=False)
                write_bytes(path, start, cast)
                start += cast.nbytes
                sums.append(rows.checksum(cast))
                bad += non_finite(cast)
        return MergedTensor(added(sums), bad)

    def verify(self, folder: Path, tensors: dict[str, MergedTensor]) -> None:
        """Raise UserError if the files do not contain the tensors that were computed."""
        reader = FolderReader(folder, self.model)

        def differs(name: str) -> bool:
            return bool(
                (added(rows.checksum(reader.read(rows)) for rows in self.blocks[name]) != tensors[name].sums).any()
            )

        with ThreadPoolExecutor(WORKERS) as pool:
            differing = [name for name, wrong in zip(tensors, pool.map(differs, tensors), strict=True) if wrong]
        if differing:
            raise UserError(
                f"{len(differing)} tensors read back from the disk are not those that were written, such as "
                f"{differing[0]}: check the disk, and run this again"
            )


def as_float32(reader: Reader) -> Read:
    def read(rows: Rows) -> np.ndarray:
        return reader.read(rows).astype(np.float32, copy=False)

    return read
