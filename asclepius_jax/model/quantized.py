"""Frozen matrices in 8 or 4 bits per value, with one scale per block (QLoRA, arXiv 2305.14314).

A block is up to 32 neighbouring values of the last axis, so that a matrix can be split over devices between blocks.

    mlp.up_DF (4096, 11008) in nf4  ->  codes uint8 (4096, 5504), two per byte; scales bfloat16 (4096, 344)
    mlp.up_DF (4096, 11008) in int8 ->  codes int8 (4096, 11008); scales bfloat16 (4096, 344)

NumPy and JAX give the same codes on every kind of device, because checksums of the codes are compared: values are only
compared with products that float32 represents exactly, and quotients, which devices round differently, are corrected.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

MOST_PER_BLOCK = 32
CODES = {"int8": np.dtype(np.int8), "nf4": np.dtype(np.uint8)}
MOST_CODE = 127
BAND_VALUES = 2**16  # quantized at a time in host memory
# Blocks whose values are all smaller become zeros: float32 has no exact products near its smallest number.
LEAST_SCALED = 2.0**-100
# Largest scales with which no value exceeds the largest finite number of bfloat16.
MOST_SCALE = {"int8": 2.0**121, "nf4": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)}
# Quantiles of the normal distribution, from QLoRA's appendix E.
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
ZERO = 7
# Rounded to 16 significant bits: a product with the 8 bits of a bfloat16 scale is then exact in float32.
MIDPOINTS = (((LEVELS[1:] + LEVELS[:-1]) / 2).view(np.uint32) & np.uint32(0xFFFFFF00)).view(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """A quantized array as a pytree of its codes and scales, or of their shapes or shardings, in the array's place."""

    codes: Any
    scales: Any

    def __getitem__(self, index: Any) -> "Quantized":
        assert index is ..., "a block has one scale for several values"
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        *outer, last = self.codes.shape
        return (*outer, last if self.codes.dtype == np.int8 else 2 * last)

    @property
    def block(self) -> int:
        """Values per scale."""
        return self.shape[-1] // self.scales.shape[-1]


def quantized_shape(shape: tuple[int, ...], kind: str) -> Quantized:
    """Shapes of the codes and scales of an array. `kind` is "int8" or "nf4"."""
    *outer, last = shape
    codes = (*outer, last if kind == "int8" else last // 2)
    scales = (*outer, last // block_size(last, kind))
    return Quantized(jax.ShapeDtypeStruct(codes, CODES[kind]), jax.ShapeDtypeStruct(scales, jnp.bfloat16))


def block_size(last: int, kind: str) -> int:
    """The largest number of values per block that divides the last axis; of nf4 an even one, as two share a byte."""
    step = 2 if kind == "nf4" else 1
    assert last % step == 0, f"an axis of {last} values does not fill bytes of two"
    return max(size for size in range(step, MOST_PER_BLOCK + 1, step) if last % size == 0)


def bytes_per_value(dtype: str) -> float:
    """Bytes of an array per value, scales included, while it is sent between devices; others are sent in bfloat16."""
    return {"int8": 1.0, "nf4": 0.5}[dtype] + 2 / MOST_PER_BLOCK if dtype in CODES else 2.0


def quantized(x: Any, kind: str, numpy: Any = jnp) -> Quantized:
    """An array of finite values in codes and scales. `numpy` is jax.numpy, or NumPy for an array in host memory."""
    block = block_size(x.shape[-1], kind)
    x = x.astype(np.float32).reshape(*x.shape[:-1], -1, block)
    largest = numpy.max(numpy.abs(x), axis=-1, keepdims=True)
    scale = largest * np.float32(1 / MOST_CODE) if kind == "int8" else largest
    scale = numpy.minimum(in_bfloat16(scale, numpy), np.float32(MOST_SCALE[kind]))
    scale = numpy.where(largest < np.float32(LEAST_SCALED), np.float32(0), scale)
    codes = (multiples if kind == "int8" else places)(x, scale, numpy)
    codes = codes.reshape(*codes.shape[:-2], -1)
    if kind == "nf4":
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return Quantized(codes, scale[..., 0].astype(jnp.bfloat16))


def quantized_on_host(x: np.ndarray, kind: str) -> Quantized:
    """`quantized` of an array in host memory, in bands of rows that fit a core's cache."""
    rows = max(1, BAND_VALUES // max(1, x[0].size))
    bands = [quantized(x[row : row + rows], kind, np) for row in range(0, len(x), rows)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *bands)


def in_bfloat16(x: Any, numpy: Any) -> Any:
    """float32 values rounded to those of bfloat16. XLA would optimize a cast and its inverse away."""
    return jax.lax.reduce_precision(x, 8, 7) if numpy is jnp else x.astype(ml_dtypes.bfloat16).astype(np.float32)


def multiples(x: Any, scale: Any, numpy: Any) -> Any:
    """The nearest multiples of the scale, as int8 codes."""
    near = numpy.round(x / numpy.where(scale > 0, scale, np.float32(1)))
    near = numpy.clip(near, -MOST_CODE, MOST_CODE)  # half a step beyond, a product with any scale is finite
    near = near + (x >= (near + np.float32(0.5)) * scale) - (x < (near - np.float32(0.5)) * scale)
    near = numpy.clip(near, -MOST_CODE, MOST_CODE)
    return numpy.where(scale > 0, near, np.float32(0)).astype(np.int8)


def places(x: Any, scale: Any, numpy: Any) -> Any:
    """Places of the nearest levels in the table, as uint8: the number of midpoints below each value."""
    codes = numpy.zeros(x.shape, np.uint8)
    for midpoint in MIDPOINTS:
        codes = codes + (x > midpoint * scale).astype(np.uint8)
    return numpy.where(scale > 0, codes, np.uint8(ZERO))  # the sign of what a device takes for zero differs


def dequantized(array: Quantized, dtype: Any) -> jax.Array:
    """The array in `dtype`: products of levels or multiples with their scales, in float32."""
    codes, shape = array.codes, array.shape
    if codes.dtype == np.uint8:
        shifts = np.array([0, 4], np.uint8)
        codes = (codes[..., None] >> shifts) & np.uint8(15)
    values = codes.reshape(*shape[:-1], -1, array.block)
    values = values.astype(jnp.float32) if array.codes.dtype == np.int8 else level_of(values)
    return (values * array.scales[..., None].astype(jnp.float32)).astype(dtype).reshape(shape)


def level_of(codes: jax.Array) -> jax.Array:
    """Levels of nf4 codes.

    As a sum with one term that is not zero, which is exact: TPUs look up a table one value at a time. Selects would
    need each level as a whole array, which JAX takes out of the loop over layers: 16 GiB for a model of 70B.
    """
    return functools.reduce(jnp.add, ((codes == code).astype(jnp.float32) * level for code, level in enumerate(LEVELS)))


def in_type_of(x: Any, shape: Any) -> Any:
    """x in the type of `shape`, which may be quantized. What is quantized stays as it is."""
    if not isinstance(shape, Quantized) or isinstance(x, Quantized):
        return jax.tree.map(lambda array, like: array.astype(like.dtype), x, shape)
    kind = next(name for name, codes in CODES.items() if codes == shape.codes.dtype)
    of_layer: Callable[[jax.Array], Quantized] = lambda layer: quantized(layer, kind)  # noqa: E731
    # One layer at a time, for the memory of comparisons in float32.
    return jax.lax.map(of_layer, x)
