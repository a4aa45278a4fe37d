"""Content checksum of an array that does not depend on how the array is sharded or in which slices it is read.

It consists of two sums modulo 2^32. Each adds up the bit patterns of the elements, multiplied by one odd weight per
index:

    sum over i, j, k of  bits[i, j, k] * w0[i] * w1[j] * w2[k]

Odd weights detect every single flipped bit, and weights that depend on the index detect exchanged elements. Integer
sums do not depend on the order of summation. Any other change is missed with probability 2^-64.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LANES = (0x243F6A88, 0x85A308D3)  # two different seeds: the first digits of the fractional part of pi


@jax.jit
def checksums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Checksums (2,) uint32 of sharded arrays by name, computed on their devices.

    All are computed in one program, because several programs could run their collectives in different orders.
    """
    return {name: checksum(array) for name, array in arrays.items()}


def checksum(x: jax.Array) -> jax.Array:
    """Checksum (2,) uint32 of an array with at most 32 bits per element."""
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
    """Checksum (2,) uint32 of an array in host memory, or of a slice of it that starts at `first` on the first axis.

    Modulo 2^32, the checksums of all slices along the first axis add up to the checksum of the whole array.
    """
    x = x.reshape(1) if x.ndim == 0 else x
    return part_checksum(x, [(0, first), *((axis, 0) for axis in range(1, x.ndim))])


def part_checksum(x: np.ndarray, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """Checksum (2,) uint32 of a part of an array, whose axes may be in a different order.

    `places` contains, for each axis of x, the corresponding axis of the whole array and the index where x starts on
    it. The checksums of all parts add up to the checksum of the whole array.
    """
    bits = x.view(f"u{x.dtype.itemsize}")
    sums = np.zeros(len(LANES), np.uint32)
    for number, lane in enumerate(LANES):
        total = bits
        for (axis, first), size in reversed(list(zip(places, bits.shape, strict=True))):
            # einsum casts as it reads, which avoids a 32-bit copy of the array.
            weight = weights(axis, size, lane, np, first)
            total = np.einsum("...a,a->...", total, weight, dtype=np.uint32, casting="unsafe")
        sums[number] = total
    return sums


def weights(axis: int, size: int, lane: int, numpy: Any, first: int = 0) -> Any:
    """Odd weights (size,) uint32, different for each axis and lane, hashed with the finalizer of MurmurHash3."""
    start = (lane + 0x9E3779B9 * (axis + 1) + first) % 2**32
    x = numpy.arange(size, dtype=numpy.uint32) + numpy.uint32(start)
    for _ in range(2):
        x = (x ^ (x >> 16)) * numpy.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * numpy.uint32(0xC2B2AE35)
        x = x ^ (x >> 16)
    return x | numpy.uint32(1)


def added(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The checksum of an array as the sum of the checksums of its parts."""
    total = np.zeros(len(LANES), np.uint32)
    for part in parts:
        total += part
    return total


def written(sums: Any) -> str:
    """A checksum as 16 hex digits."""
    return "".join(f"{int(lane):08x}" for lane in np.asarray(sums))
