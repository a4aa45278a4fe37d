"""Products of the blocks' matrices in eight bits, with gradients for parameters in float32.

float8 (arXiv 2209.05433): all products of the forward and backward pass are in eight bits, activations and weights in
e4m3 and gradients in e5m2. Every array of a device has one scale, a power of two, so that scaling rounds nothing.

int8 (arXiv 2105.03536): as the type has little range, every token and every output of a matrix has its own scale. The
product with the weights and that for the gradient of activations are in eight bits. The gradient of the weights, which
sums over tokens of different scales, is computed in the type of the activations.

Weights are rounded before they are gathered over fsdp devices, which halves the bytes sent.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from asclepius_jax.model.kernels.matmul import product

# Scales are such that the largest value lies in the upper half of the type's range: 448 for e4m3, 57344 for e5m2.
FLOAT8 = {jnp.float8_e4m3fn: 2.0**-7, jnp.float8_e5m2: 2.0**-14}
MOST_CODE = 127
CODES: dict[str, Any] = {"float8": jnp.float8_e4m3fn, "int8": jnp.int8}  # of activations and weights
# Scale of arrays that hold nothing but zeros or smaller values, whose own scale would not be a normal float32.
LEAST_SCALE = 2.0**-100


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToRound:
    """A device's slice of a matrix, with the scale that the whole matrix is rounded with, in the matrix's place."""

    values: Any
    scale: Any  # with axes of size 1 where values share it
    parallel: Any = field(metadata={"static": True})  # Parallel: the type, and the devices that share the matrix
    trained: bool = field(metadata={"static": True})
    codes: Any = None  # of the whole matrix, if they were gathered before

    def __getitem__(self, index: Any) -> "ToRound":
        assert index is ..., "codes of a part would need their own scale"
        return self


def multiplies(kind: str, device: Any) -> bool:
    """Return whether a device multiplies this type faster than bfloat16; float8 on Ada GPUs and newer."""
    if device.platform == "tpu":
        names = {"int8": ("TPU v5", "TPU v6"), "float8": ("TPU7",)}.get(kind, ())
        return device.device_kind.startswith(names)
    if device.platform == "gpu" and kind == "float8":
        return tuple(int(part) for part in device.compute_capability.split(".")) >= (8, 9)
    return False


def to_round(stacked: jax.Array, input_axes: tuple[int, ...], parallel: Any, trained: bool) -> ToRound:
    """The matrices of all layers, (L, ...), with their scales. A product sums over the axes `input_axes` of a matrix.

    For use inside shard_map. The scales of all layers are agreed upon at once, before the first gather.
    """
    shared = input_axes if parallel.matmul == "int8" else range(stacked.ndim - 1)
    largest = largest_of(jax.lax.stop_gradient(stacked), tuple(axis + 1 for axis in shared))
    if parallel.fsdp > 1:
        if largest.shape[1] == 1:
            largest = jax.lax.pmax(largest, "fsdp")
        else:
            largest = jax.lax.all_gather(largest, "fsdp", axis=1, tiled=True)
    return ToRound(stacked, scale_of(largest, CODES[parallel.matmul]), parallel, trained)


def blocks_to_round(blocks: Any, matrices: Iterable[Any], parallel: Any, trained: bool) -> Any:
    """The stacked parameters of the blocks, with `to_round` of those that are matrices."""
    blocks = jax.tree.map(lambda leaf: leaf, blocks)
    for matrix in matrices:
        branch, leaf = matrix.parameter.split(".")
        if leaf in blocks[branch]:  # some families have no gate
            blocks[branch][leaf] = to_round(blocks[branch][leaf], matrix.input_axes, parallel, trained)
    return blocks


def largest_of(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axes, keepdims=True)


def scale_of(largest: jax.Array, dtype: Any) -> jax.Array:
    """The value of one step of a code. It is not finite where `largest` is not, and then no result is."""
    if dtype == jnp.int8:
        return jnp.maximum(largest / MOST_CODE, LEAST_SCALE)
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)  # of two, at most `largest`; infinite for NaN
    return jnp.maximum(power * FLOAT8[dtype], LEAST_SCALE)


def rounded(x: jax.Array, scale: jax.Array, dtype: Any) -> jax.Array:
    """The codes of x, of which `scale` is the unit."""
    codes = x.astype(jnp.float32) / scale
    return (jnp.round(codes) if dtype == jnp.int8 else codes).astype(dtype)


def scaled_codes(x: jax.Array, letters: str, summed: str, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Codes and scales of activations or gradients; int8 has a scale for all values that a product sums up."""
    axes = tuple(i for i, letter in enumerate(letters) if dtype != jnp.int8 or letter in summed)
    scale = scale_of(largest_of(x, axes), dtype)
    return rounded(x, scale, dtype), scale


def whole_codes(weight: ToRound) -> jax.Array:
    """The codes of a whole matrix, gathered from the slices of all fsdp devices."""
    if weight.codes is not None:
        return weight.codes
    fsdp, scale = weight.parallel.fsdp, weight.scale
    if fsdp > 1 and scale.shape[0] > 1:
        size = weight.values.shape[0]
        scale = jax.lax.dynamic_slice_in_dim(scale, jax.lax.axis_index("fsdp") * size, size)
    codes = rounded(weight.values, scale, CODES[weight.parallel.matmul])
    return jax.lax.all_gather(codes, "fsdp", axis=0, tiled=True) if fsdp > 1 else codes


def code_product(spec: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """einsum of codes, in float32. `dtype` is another type to multiply them in, which must represent all codes."""
    if dtype is not None:
        a, b = a.astype(dtype), b.astype(dtype)
    sums = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
    return jnp.einsum(spec, a, b, preferred_element_type=sums).astype(jnp.float32)


def multiplied_in(x: jax.Array, weight: ToRound) -> Any:
    """The type of the activations on devices that do not multiply eight bits faster, otherwise None."""
    return None if weight.parallel.native else x.dtype


def beside(scale: jax.Array, letters: str, out: str) -> jax.Array:
    """A scale with axes `letters` as a factor of an array with axes `out`, which are in the same order."""
    sizes = dict(zip(letters, scale.shape, strict=True))
    return scale.reshape([sizes.get(letter, 1) for letter in out])


def split_spec(spec: str) -> tuple[str, str, str]:
    inputs, out = spec.split("->")
    a, b = inputs.split(",")
    return a, b, out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def eight_bit_product(spec: str, x: jax.Array, weight: ToRound) -> jax.Array:
    """einsum of x and the whole matrix, in the type of x."""
    a, b, out = split_spec(spec)
    x_codes, x_scale = scaled_codes(x, a, b, CODES[weight.parallel.matmul])
    y = code_product(spec, x_codes, whole_codes(weight), multiplied_in(x, weight))
    return (y * (beside(x_scale, a, out) * beside(weight.scale, b, out))).astype(x.dtype)


def forward(spec: str, x: jax.Array, weight: ToRound) -> tuple[jax.Array, Any]:
    return eight_bit_product(spec, x, weight), (x, weight)


def backward(spec: str, saved: tuple[jax.Array, ToRound], grad: jax.Array) -> tuple[jax.Array, ToRound]:
    x, weight = saved
    a, b, out = split_spec(spec)
    of_x, of_weight = f"{out},{b}->{a}", f"{a},{out}->{b}"
    codes, dtype = whole_codes(weight), multiplied_in(x, weight)
    if weight.parallel.matmul == "int8":
        # The scales of the matrix belong to outputs, over which this product sums: the gradients take them up first.
        taken = grad.astype(jnp.float32) * beside(weight.scale, b, out)
        grad_codes, scale = scaled_codes(taken, out, b, jnp.int8)
        x_grad = code_product(of_x, grad_codes, codes, dtype) * beside(scale, out, a)
        weight_grad = product(of_weight, x, grad)
    else:
        grad_codes, scale = scaled_codes(grad, out, b, jnp.float8_e5m2)
        x_grad = code_product(of_x, grad_codes, codes, dtype) * (beside(scale, out, a) * beside(weight.scale, b, a))
        x_codes, x_scale = scaled_codes(x, a, b, jnp.float8_e4m3fn)
        weight_grad = code_product(of_weight, x_codes, grad_codes, dtype) * (
            beside(x_scale, a, b) * beside(scale, out, b)
        )
    if weight.trained:
        values = weight.parallel.sum_weight(weight_grad.astype(x.dtype), 0)
    else:
        values = jnp.zeros_like(weight.values)
    return x_grad.astype(x.dtype), ToRound(values, jnp.zeros_like(weight.scale), weight.parallel, weight.trained)


eight_bit_product.defvjp(forward, backward)
