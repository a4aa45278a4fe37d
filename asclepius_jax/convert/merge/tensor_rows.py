"""Tensors in blocks of rows, and models that are read in such blocks: Hugging Face folders and steps of a run.

Every model is read in the layout of Hugging Face's tensors, whose rows lie one after another in the files. A tensor of
any size thus needs the memory of a block alone.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorstore

from asclepius_jax.checkpoint.blocks import tensor_checksum
from asclepius_jax.checkpoint.checksums import added
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import DamagedStep, Meta, open_array, read, refusal
from asclepius_jax.convert.weights import Tensor, check_stored, tensors_of
from asclepius_jax.model.decoder import Model
from asclepius_jax.model.huggingface.layout import is_turned, write_part
from asclepius_jax.model.huggingface.names import flatten, hf_shapes, open_model, unpadded
from data_prep.contract.errors import UserError

# Chunks of checkpoints that were read and belong to the next blocks too.
CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Rows:
    """A range of rows of a Hugging Face tensor, and the same part of our parameter or of one layer of it."""

    tensor: Tensor
    start: int
    stop: int
    theirs: tuple[int, ...]  # shape of the range
    ours: tuple[int, ...]  # shape of the part
    place: tuple[slice, ...]  # the part as an index
    first: int  # index of the first row on our axis

    def checksum(self, values: np.ndarray) -> np.ndarray:
        """The share of these rows, of any type, in the checksum of our parameter."""
        return tensor_checksum(values, self.tensor.layout, self.ours, self.tensor.layer, self.first)


def row_blocks(model: Model, largest: int) -> dict[str, list[Rows]]:
    """Each tensor of a model, by Hugging Face's name, in blocks of at most `largest` elements and of whole heads.

    A vector is one block, and so is a single head of more elements.
    """
    theirs, ours = hf_shapes(model), flatten(model.shapes)
    blocks = {}
    for tensor in tensors_of(model):
        shape = ours[tensor.ours].shape if tensor.layer is None else ours[tensor.ours].shape[1:]
        shape = unpadded(shape, tensor.layout, model.config)
        blocks[tensor.theirs] = rows_of(tensor, theirs[tensor.theirs], shape, largest)
    return blocks


def rows_of(tensor: Tensor, theirs: tuple[int, ...], ours: tuple[int, ...], largest: int) -> list[Rows]:
    if len(theirs) < 2:
        count = math.prod(theirs)
        return [Rows(tensor, 0, count, theirs, ours, tuple(slice(0, size) for size in ours), 0)]
    axis = 1 if is_turned(tensor.layout) else 0
    rows, columns = theirs
    together = math.prod(ours[2:]) if axis else 1  # rows of one head
    step = max(1, largest // (together * columns)) * together
    found = []
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        part = slice(start // together, stop // together)
        place = tuple(part if number == axis else slice(0, size) for number, size in enumerate(ours))
        shape = tuple(along.stop - along.start for along in place)
        found.append(Rows(tensor, start, stop, (stop - start, columns), shape, place, part.start))
    return found


class FolderReader:
    """The tensors of a Hugging Face folder."""

    def __init__(self, folder: Path, model: Model):
        self.tensors = open_model(folder, model)
        # Two families may name a parameter differently.
        self.names = {(tensor.ours, tensor.layer): tensor.theirs for tensor in tensors_of(model)}

    def read(self, rows: Rows) -> np.ndarray:
        """A copy of these rows, in their stored type."""
        name = self.names[rows.tensor.ours, rows.tensor.layer]
        tensor = self.tensors[name].reshape(-1, *rows.theirs[1:])
        values = np.array(tensor[rows.start : rows.stop]).reshape(rows.theirs)
        self.tensors.release(name)
        return values

    def check(self) -> None:
        """Nothing is recorded that the content of a folder could be compared with."""


class StepReader:
    """The complete parameters of a step, compared with their checksums."""

    def __init__(self, step_folder: Place, model: Model, meta: Meta, context: tensorstore.Context):
        self.step_folder, self.model, self.meta = step_folder, model, meta
        self.sums: dict[tuple[str, int], np.ndarray] = {}
        try:
            self.arrays = {name: open_array(step_folder, "params", name, context) for name in flatten(model.shapes)}
        except DamagedStep as error:
            raise UserError(refusal(step_folder, error)) from error

    def read(self, rows: Rows) -> np.ndarray:
        """A copy of these rows, in their stored type. Raises UserError if they cannot be read."""
        tensor = rows.tensor
        place = rows.place if tensor.layer is None else (tensor.layer, *rows.place)
        try:
            part = read(self.arrays[tensor.ours], place, f"params/{tensor.ours}")
        except DamagedStep as error:
            raise UserError(refusal(self.step_folder, error)) from error
        values = np.empty(rows.theirs, part.dtype)
        write_part(values, tensor.layout, tuple(slice(0, size) for size in rows.ours), rows.ours, part)
        key = (tensor.theirs, rows.start)
        if key not in self.sums:  # a method may read a block several times
            self.sums[key] = rows.checksum(values)
        return values

    def check(self) -> None:
        """Raise UserError if what was read is not what was saved."""
        parts = defaultdict(list)
        for (name, _), sums in self.sums.items():
            parts[name].append(sums)
        try:
            found = {name: added(sums).tolist() for name, sums in parts.items()}
            check_stored(found, self.model, self.meta.checksums)
        except DamagedStep as error:
            raise UserError(refusal(self.step_folder, error)) from error


Reader = FolderReader | StepReader


def chunk_cache() -> tensorstore.Context:
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
