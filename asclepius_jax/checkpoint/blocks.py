"""Block-wise copying of arrays between checkpoints and Hugging Face folders, holding only a few blocks in memory.

A block is a part of one layer, aligned to the chunks that storage reads and writes as a whole.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from asclepius_jax.checkpoint.arrays import CHUNK_BYTES, layout_of, merge, open_item
from asclepius_jax.checkpoint.checksums import part_checksum
from asclepius_jax.checkpoint.read import DamagedStep
from asclepius_jax.model.huggingface.layout import axes_of
from data_prep.contract.errors import first_line

BLOCK_BYTES = CHUNK_BYTES
# OCDBT keeps a file of this size in memory until it is written.
FILE_BYTES = 2**26
WORKERS = 2  # threads that transpose and compute checksums
# These threads also wait for the disk. From a cold disk, four read a checkpoint a third faster than two.
READERS = 4
WAITING_BYTES = 2**28  # maximum size of the blocks being written


def blocks(
    shape: tuple[int, ...], chunk: tuple[int, ...], itemsize: int, largest: int = BLOCK_BYTES
) -> Iterator[tuple[slice, ...]]:
    """Divide an array of one layer into parts of whole chunks and whole heads, of about `largest` bytes each."""
    sizes = list(chunk)
    sizes[2:] = shape[2:]
    if len(shape) == 3:
        sizes[1] = shape[1]
    for axis in reversed(range(len(shape))):
        rest = itemsize * int(np.prod(sizes)) // sizes[axis]
        sizes[axis] = min(shape[axis], sizes[axis] * max(1, largest // (rest * sizes[axis])))
    for start in np.ndindex(*(-(-n // size) for n, size in zip(shape, sizes, strict=True))):
        yield tuple(slice(i * size, min(n, (i + 1) * size)) for i, size, n in zip(start, sizes, shape, strict=True))


class Scratch(threading.local):
    """Arrays that a thread reuses, because allocating new memory each time costs as much as the copying."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def array(self, use: str, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """An uninitialized array, in the same memory for every call with the same `use`."""
        size = math.prod(shape) * dtype.itemsize
        if use not in self.arrays or self.arrays[use].size < size:
            self.arrays[use] = np.empty(size, np.uint8)
        return self.arrays[use][:size].view(dtype).reshape(shape)


def read_into(target: np.ndarray, array: Any, place: tuple[Any, ...], label: str) -> None:
    """Read a part of an array opened with `read.open_array` into existing memory.

    Raises DamagedStep, with the label, if it cannot be read.
    """
    try:
        part = array[place]
        tensorstore.array(target, copy=False).write(part[tensorstore.d[:].translate_to[0]]).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise DamagedStep(f"{label} cannot be read: {first_line(error)}") from error


def tensor_checksum(
    tensor: np.ndarray, layout: str, shape: tuple[int, ...], layer: int | None, first: int = 0
) -> np.ndarray:
    """The share of a Hugging Face tensor in the checksum of our parameter. `layer` is its index if layers are stacked.

    It is computed from the tensor as stored, so that a mistake in transposing shows up as a difference. Of a range of
    the tensor's rows, `first` is the index of the first one on our axis, and `shape` that of the same part of ours.
    """
    view, axes = axes_of(tensor, layout, shape)
    starts = [(axis, 0 if number else first) for number, axis in enumerate(axes)]
    if layer is None:
        return part_checksum(view if axes else view[None], starts or [(0, 0)])
    return part_checksum(view[None], [(0, layer), *((1 + axis, start) for axis, start in starts)])


class ItemWriter:
    """Writes an item block by block from any thread, with bounded memory."""

    def __init__(self, folder: Path, arrays: dict[str, tuple[tuple[int, ...], np.dtype]]):
        """Create the arrays with the given shapes and types by name. The folder of the item must exist and be empty."""
        self.folder = folder
        layouts = {name: layout_of(name, shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        self.arrays = open_item(folder, layouts, file_bytes=FILE_BYTES)
        self.waiting: deque[tuple[Any, int]] = deque()
        self.waiting_bytes = 0
        self.lock = threading.Lock()

    def write(self, name: str, index: tuple[Any, ...], block: np.ndarray) -> None:
        """Start writing a block, which must not change until it is written. Waits while too many bytes are pending."""
        future = self.arrays[name][index].write(block, can_reference_source_data_indefinitely=True)
        with self.lock:
            self.waiting.append((future, block.nbytes))
            self.waiting_bytes += block.nbytes
        self.wait(WAITING_BYTES)

    def wait(self, most: int) -> None:
        while True:
            with self.lock:
                if self.waiting_bytes <= most:
                    return
                future, size = self.waiting.popleft()
                self.waiting_bytes -= size
            future.result()

    def __enter__(self) -> "ItemWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None:
            self.wait(0)
            merge(self.folder, self.arrays)
        else:
            # Wait for all writes: the folder is about to be removed, and a pending write would recreate it.
            for future, _ in self.waiting:
                future.exception()
