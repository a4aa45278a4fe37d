"""Writing of the arrays of a step with TensorStore, by many processes and to a file system or a bucket.

    params/ocdbt.process_0/    what process 0 wrote: chunks of all arrays in a few large files
    params/manifest.ocdbt      names all chunks of all processes; written by `merge` when they are done
    params/_METADATA           names the arrays for Orbax, which reads such a folder too

A chunk is a part of one layer, and never spans what two processes write.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tensorstore

from asclepius_jax.checkpoint.places import Place, kvstore, write_small

CHUNK_BYTES = 2**23  # maximum size of a stored chunk; a chunk never spans layers, so that one layer can be read alone
FILE_BYTES = 2**28  # approximate size of a file of chunks, which is kept in memory until it is written
PROCESS = "ocdbt.process_"
METADATA = "_METADATA"
SPLIT_BYTES = 2**20  # size of a shard from which its replicas write a part each
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """An array on storage."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]


def layout_of(name: str, shape: tuple[int, ...], dtype: np.dtype, part: tuple[int, ...] | None = None) -> Layout:
    """The layout of an array, of which each writer writes parts of this shape (all of it by default).

    Chunks divide the parts, so that no chunk has two writers. Stacked layers are separate chunks.
    """
    chunk = list(part or shape)
    if "blocks." in name:
        chunk[0] = 1
    while dtype.itemsize * math.prod(chunk) > CHUNK_BYTES:
        axis = max(range(len(chunk)), key=lambda axis: chunk[axis])
        chunk[axis] //= next(factor for factor in range(2, chunk[axis] + 1) if chunk[axis] % factor == 0)
    return Layout(tuple(shape), dtype, tuple(chunk))


def open_item(
    folder: Place, arrays: Mapping[str, Layout], process: int = 0, file_bytes: int = FILE_BYTES
) -> dict[str, Any]:
    """The arrays of an item, open for writing the share of one process. Raises ValueError or OSError.

    Only process 0 stores their shapes and types; the others know them.
    """
    base = kvstore(folder / f"{PROCESS}{process}")
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_concurrency": {"limit": 128}})
    create: dict[str, Any] = {"create": True} if process == 0 else {"assume_metadata": True}
    opening = {
        name: tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {
                    "driver": "ocdbt",
                    "base": base,
                    "path": f"{name}/",
                    "target_data_file_size": file_bytes,
                },
                "metadata": {
                    "shape": layout.shape,
                    "chunks": layout.chunk,
                    "dtype": tensorstore_type(layout.dtype),
                    "compressor": None,
                    "fill_value": None,
                },
                # A chunk of zeros is stored like any other: a missing one is then known to be an error.
                "store_data_equal_to_fill_value": True,
            },
            open=True,
            context=context,
            **create,
        )
        for name, layout in arrays.items()
    }
    return {name: future.result() for name, future in opening.items()}


def tensorstore_type(dtype: np.dtype) -> str:
    return "bfloat16" if dtype.name == "bfloat16" else dtype.str


def replica_axis(array: jax.Array) -> tuple[int, int | None]:
    """How many devices hold each shard, and the axis along which they divide it between them for writing."""
    shape = array.sharding.shard_shape(array.shape)
    replicas = array.sharding.num_devices * math.prod(shape) // max(1, array.size)
    if replicas == 1 or array.dtype.itemsize * math.prod(shape) < SPLIT_BYTES:
        return replicas, None
    return replicas, next((axis for axis, size in enumerate(shape) if size % replicas == 0), None)


def layout_of_array(name: str, array: jax.Array) -> Layout:
    """The layout of a sharded array, which is the same in all processes."""
    part = list(array.sharding.shard_shape(array.shape))
    replicas, axis = replica_axis(array)
    if axis is not None:
        part[axis] //= replicas
    return layout_of(name, array.shape, array.dtype, tuple(part))


def shares(array: jax.Array) -> Iterator[tuple[Index, jax.Array]]:
    """The parts of an array that this process writes, with their places. Together, all processes write each once."""
    replicas, axis = replica_axis(array)
    for shard in array.addressable_shards:
        if axis is None:
            if shard.replica_id == 0:
                yield shard.index, shard.data
            continue
        size = shard.data.shape[axis] // replicas
        start = shard.replica_id * size
        place = list(shard.index)
        first = (place[axis].start or 0) + start
        place[axis] = slice(first, first + size)
        yield tuple(place), jax.lax.slice_in_dim(shard.data, start, start + size, axis=axis)


def host_copy(part: jax.Array) -> np.ndarray:
    """The content of a part, which stays as it is when the next step overwrites the device's memory."""
    value = np.asarray(part)
    return value.copy() if part.device.platform == "cpu" else value  # on a CPU, the array is the device's memory itself


def merge(folder: Place, arrays: Iterable[str]) -> None:
    """Make one item of what all processes have written. `arrays` are its names. Raises ValueError or OSError."""
    parts = sorted(path for path in folder.iterdir() if path.name.startswith(PROCESS))
    context = tensorstore.Context()  # one for all, or chunks cannot be taken over without copying them
    specs = [{"driver": "ocdbt", "base": kvstore(place)} for place in (*parts, folder)]
    stores = [tensorstore.KvStore.open(spec, context=context) for spec in specs]
    *children, parent = [future.result() for future in stores]
    transaction = tensorstore.Transaction(atomic=True)
    for child in children:
        child.experimental_copy_range_to(parent.with_transaction(transaction)).result()
    transaction.commit_async().result()
    write_small(folder / METADATA, orbax_metadata(arrays))


def orbax_metadata(arrays: Iterable[str]) -> str:
    """What Orbax reads first in a folder of arrays: their names in its tree."""
    tree = {
        str((name,)): {
            "key_metadata": [{"key": name, "key_type": 2}],  # a key of a dictionary
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        for name in arrays
    }
    return json.dumps(
        {
            "tree_metadata": tree,
            "use_ocdbt": True,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
    )
