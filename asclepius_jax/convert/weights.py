"""Export of a checkpoint's weights to safetensors files, block by block, by one or several processes."""

import dataclasses
import json
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from asclepius_jax.checkpoint.blocks import READERS, Scratch, blocks, read_into
from asclepius_jax.checkpoint.checksums import added, part_checksum
from asclepius_jax.checkpoint.checksums import written as hexadecimal
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import DamagedStep, open_array
from asclepius_jax.model.decoder import Model
from asclepius_jax.model.huggingface.layout import write_part
from asclepius_jax.model.huggingface.names import flatten, hf_shapes, names, non_finite
from asclepius_jax.model.huggingface.safetensors import DTYPES, lay_out, plan_shards
from data_prep.contract.errors import UserError
from data_prep.contract.folders.folder_lock import LOCK, locked
from data_prep.contract.folders.output_folders import place_of, sync, write_durably

PART = "part.json"  # written last by a process, to mark its files as complete
PATIENCE_SECONDS = 600  # time without any progress of another process after which to give up


@dataclasses.dataclass(frozen=True)
class Share:
    """Share of the files that this process writes: file number modulo `processes` equals `process_id`."""

    process_id: int = 0
    """Number of this process among those that share the export, from 0."""
    processes: int = 1
    """Processes that share the export; process 0 collects their files and writes everything else."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor to write."""

    theirs: str  # name in the Hugging Face folder
    ours: str  # name of the parameter in the checkpoint
    layout: str  # "theirs -> ours"
    layer: int | None  # index in a stacked parameter


@dataclasses.dataclass(frozen=True)
class Content:
    """Checksums of one tensor. Those of all tensors of a parameter add up to the checksum of the parameter."""

    stored: list[int]  # checksum of the data read from the checkpoint
    written: list[int]  # checksum of the data in the folder's type
    non_finite: int  # number of infinite or NaN elements


class Export:
    """Assigns the tensors of a checkpoint to files and writes them."""

    def __init__(self, step_folder: Place, model: Model, code: str, max_shard_bytes: int):
        self.model, self.code, self.dtype = model, code, DTYPES[code]
        self.arrays = {name: open_array(step_folder, "params", name) for name in flatten(model.shapes)}
        self.shapes = hf_shapes(model)
        self.sizes = {name: math.prod(shape) * self.dtype.itemsize for name, shape in self.shapes.items()}
        self.shards = plan_shards(self.sizes, max_shard_bytes)
        self.scratch = Scratch()
        self.tensors = {tensor.theirs: tensor for tensor in tensors_of(model)}

    def write(self, folder: Path, share: Share) -> dict[str, Content]:
        """Write the files of this process. Returns the checksums of each tensor in them."""
        files = [file for i, file in enumerate(self.shards) if i % share.processes == share.process_id]
        starts = lay_out_files(folder, {file: self.shards[file] for file in files}, self.shapes, self.code)
        with ThreadPoolExecutor(READERS) as pool:
            written = list(pool.map(lambda name: self.write_tensor(self.tensors[name], *starts[name]), starts))
        for file in files:
            sync(folder / file)
        return dict(zip(starts, written, strict=True))

    def write_tensor(self, tensor: Tensor, path: Path, start: int) -> Content:
        whole = self.scratch.array("whole", self.shapes[tensor.theirs], self.dtype)
        content = self.convert(tensor, whole)
        write_bytes(path, start, whole)
        return content

    def convert(self, tensor: Tensor, into: np.ndarray | None = None) -> Content:
        """Read a tensor from the checkpoint and convert it to the folder's type, optionally `into` an array.

        The array gets the folder's layout. Returns the checksums.
        """
        array, shape = self.arrays[tensor.ours], self.model_shape(tensor)
        stored, written, bad = np.zeros(2, np.uint32), np.zeros(2, np.uint32), 0
        chunk = array.chunk_layout.read_chunk.shape[array.ndim - len(shape) :]
        for index in blocks(shape, chunk, array.dtype.numpy_dtype.itemsize):
            place = index if tensor.layer is None else (tensor.layer, *index)
            block = self.scratch.array("block", [part.stop - part.start for part in index], array.dtype.numpy_dtype)
            read_into(block, array, place, f"params/{tensor.ours}")
            sums = block_checksum(block, tensor.layer, index)
            cast = block
            if block.dtype != self.dtype:
                cast = self.scratch.array("cast", block.shape, self.dtype)
                np.copyto(cast, block, casting="unsafe")
            stored += sums
            written += sums if cast is block else block_checksum(cast, tensor.layer, index)
            bad += non_finite(cast)
            if into is not None:
                write_part(into, tensor.layout, index, shape, cast)
        return Content(stored.tolist(), written.tolist(), bad)

    def model_shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of our array, or of one layer of it."""
        shape = tuple(self.arrays[tensor.ours].shape)
        return shape if tensor.layer is None else shape[1:]


def lay_out_files(
    folder: Path, shards: dict[str, list[str]], shapes: dict[str, tuple[int, ...]], code: str
) -> dict[str, tuple[Path, int]]:
    """Create safetensors files with room for their tensors. Returns the file and byte offset of each tensor."""
    starts = {}
    for file, tensors in shards.items():
        for name, start in lay_out(folder / file, {name: shapes[name] for name in tensors}, code).items():
            starts[name] = (folder / file, start)
    return starts


def write_bytes(path: Path, start: int, array: np.ndarray) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        # Start writing to disk now, so that the sync at the end has little left to do.
        os.posix_fadvise(file.fileno(), start, array.nbytes, os.POSIX_FADV_DONTNEED)


def tensors_of(model: Model) -> list[Tensor]:
    """Every tensor of the model's Hugging Face folder, with its place in the checkpoint."""
    tensors = []
    for ours, theirs, layout in names(model):
        if "{}" in theirs:
            layers = range(model.config.num_layers)
            tensors += [Tensor(theirs.format(layer), ours, layout, layer) for layer in layers]
        else:
            tensors.append(Tensor(theirs, ours, layout, None))
    return tensors


def block_checksum(block: np.ndarray, layer: int | None, index: tuple[slice, ...]) -> np.ndarray:
    """The share of a block in the checksum of its parameter."""
    starts = [part.start for part in index]
    if layer is None:
        return part_checksum(block, list(enumerate(starts)))
    return part_checksum(block[None], list(enumerate([layer, *starts])))


def check_stored(read: dict[str, list[int]], model: Model, checksums: dict[str, str]) -> None:
    """Raise DamagedStep if the data read from the checkpoint, of these checksums by tensor, is not what was saved."""
    for name, sums in parameter_sums(model, read).items():
        if checksums.get(f"params/{name}", sums) != sums:
            raise DamagedStep(f"the content of params/{name} is not what was saved")


def parameter_sums(model: Model, sums: dict[str, list[int]]) -> dict[str, str]:
    """The checksum of each parameter, as the sum of the checksums of its tensors."""
    parts: dict[str, list[np.ndarray]] = {}
    for tensor in tensors_of(model):
        if tensor.theirs in sums:
            parts.setdefault(tensor.ours, []).append(np.array(sums[tensor.theirs], np.uint32))
    return {name: hexadecimal(added(values)) for name, values in parts.items()}


# ---------------------------------------------------------------- several processes


def part_folder(out: Path, process_id: int) -> Path:
    return out.parent / f".{out.name}.asclepius-part-{process_id}"


def write_share(export: Export, out: Path, share: Share, identity: str) -> None:
    """Write the files of a process other than process 0 to a folder of its own, unless that folder is complete."""
    folder = part_folder(place_of(out), share.process_id)
    with locked(folder):
        if finished(folder, identity) is not None:
            return
        for path in folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        contents = export.write(folder, share)
        tensors = {name: dataclasses.asdict(content) for name, content in contents.items()}
        write_durably(folder / PART, json.dumps({"identity": identity, "tensors": tensors}))


def finished(folder: Path, identity: str) -> dict[str, Content] | None:
    """Checksums of the tensors in a finished part, or None if it is unfinished or belongs to another export."""
    if not (folder / PART).is_file():
        return None
    part = json.loads((folder / PART).read_text())
    if part["identity"] != identity:
        return None
    return {name: Content(**content) for name, content in part["tensors"].items()}


def collect(out: Path, into: Path, share: Share, identity: str) -> dict[str, Content]:
    """Wait for the other processes and move their files to `into`. Returns the checksums of the tensors in them.

    Raises UserError if a process makes no progress for PATIENCE_SECONDS.
    """
    contents: dict[str, Content] = {}
    for process_id in range(1, share.processes):
        folder = part_folder(place_of(out), process_id)
        last_size, since = -1, time.monotonic()
        while (part := finished(folder, identity)) is None:
            size = sum(path.stat().st_blocks for path in folder.glob("*")) if folder.is_dir() else 0
            last_size, since = size, (time.monotonic() if size != last_size else since)
            if time.monotonic() - since > PATIENCE_SECONDS:
                raise UserError(
                    f"process {process_id} of {share.processes} has written nothing for {PATIENCE_SECONDS} s in "
                    f"{folder}: start it with the same settings, then restart this one"
                )
            time.sleep(0.2)
        for path in folder.glob("*.safetensors"):
            path.rename(into / path.name)
        shutil.rmtree(folder, ignore_errors=True)  # its process may be removing its lock
        contents |= part
    return contents
