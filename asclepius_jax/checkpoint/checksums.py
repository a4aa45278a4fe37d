"""A content checksum of an array: the same number however the array is spread over devices, or read in slices.

Two sums of the elements' bit patterns, each pattern times one odd weight for each of its indices, modulo 2^32:

    sum over i, j, k of  bits[i, j, k] * w0[i] * w1[j] * w2[k]

An odd factor makes every single flipped bit count, a factor of the place every exchange of elements; integers make the
sum independent of its order. What else could happen to data is missed with probability 2^-64.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LANES = (0x243F6A88, 0x85A308D3)  # two unlike starts: the first digits of pi's fraction


@jax.jit
def checksums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of arrays spread over a mesh, computed where they lie; in one program, because the sums over processes of several
    could meet in unlike order."""
    return {name: checksum(array) for name, array in arrays.items()}


def checksum(x: jax.Array) -> jax.Array:
    """(2,) uint32 of an array with up to 32 bits an element."""
    x = x.reshape(1) if x.ndim == 0 else x
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    sums = []
    for lane in LANES:
        total = bits
        for axis in reversed(range(bits.ndim)):
            total = jnp.sum(total * weights(axis, bits.shape[axis], lane, jnp), axis=axis, dtype=jnp.uint32)
        sums.append(total)
    return jnp.stack(sums)


def host_checksum(x: np.ndarray, first: int = 0) -> np.ndarray:
    """The same in the host's memory. Modulo 2^32, the checksums of slices along the first axis add up to that of the
    whole; `first` is the place of x's first slice in it."""
    x = x.reshape(1) if x.ndim == 0 else x
    return part_checksum(x, [(0, first), *((axis, 0) for axis in range(1, x.ndim))])


def part_checksum(x: np.ndarray, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """Of a part of an array, which may have its axes in another order: for each axis of x, the axis of the whole that
    it is, and where x begins along it. The checksums of all parts add up to that of the whole."""
    bits = x.view(f"u{x.dtype.itemsize}")
    sums = np.zeros(len(LANES), np.uint32)
    for number, lane in enumerate(LANES):
        total = bits
        for (axis, first), size in reversed(list(zip(places, bits.shape, strict=True))):
            # einsum casts as it reads: no copy of the array in 32 bits.
            weight = weights(axis, size, lane, np, first)
            total = np.einsum("...a,a->...", total, weight, dtype=np.uint32, casting="unsafe")
        sums[number] = total
    return sums


def weights(axis: int, size: int, lane: int, numpy: Any, first: int = 0) -> Any:
    """(size,) odd uint32: spread anew over all bits for each axis and lane (the finalizer of MurmurHash3)."""
    start = (lane + 0x9E3779B9 * (axis + 1) + first) % 2**32
    x = numpy.arange(size, dtype=numpy.uint32) + numpy.uint32(start)
    for _ in range(2):
        x = (x ^ (x >> 16)) * numpy.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * numpy.uint32(0xC2B2AE35)
        x = x ^ (x >> 16)
    return x | numpy.uint32(1)


def added(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The checksum of an array from those of its slices."""
    total = np.zeros(len(LANES), np.uint32)
    for part in parts:
        total += part
    return total


def written(sums: Any) -> str:
    """Sixteen hex digits."""
    return "".join(f"{int(lane):08x}" for lane in np.asarray(sums))
