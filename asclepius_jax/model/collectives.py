"""Explicit communication between devices, for a model that runs inside `jax.shard_map`.

The compiled program contains exactly the collectives written here: weights are gathered once per pass, gradients are
reduced once, and the partitioner has nothing to guess. Each collective is defined next to its transpose, so that
gradients are those of the loss summed over all devices.

  fsdp     slices of a weight are gathered when it is used; its gradient is summed and sliced again
  tensor   heads and feed-forward columns are split; between blocks the *positions* are split, for the same traffic
  context  positions are split; around attention the heads are split instead, so that every kernel sees whole rows
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from asclepius_jax.model.kernels.eight_bits import ToRound, eight_bit_product, whole_codes
from asclepius_jax.model.kernels.matmul import product
from asclepius_jax.model.quantized import Quantized, dequantized


@dataclass(frozen=True)
class Parallel:
    """Sizes of the mesh axes that the model communicates over. The default means one device, or plain jit."""

    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    reduce_dtype: str = "float32"  # type in which gradients are summed over devices
    matmul: str = "bfloat16"  # type of the blocks' products: float8, int8, or else that of the activations
    native: bool = False  # whether the device multiplies eight bits faster
    ahead: bool = False  # whether the first weights of a layer are gathered during the layer before it

    def weight(self, slice_: Any, axis: int, dtype: jnp.dtype) -> Any:
        """The whole weight in `dtype`, from this device's float32 or quantized slice along `axis`.

        A slice that is to be rounded to eight bits is returned as it is: `product` gathers it.
        """
        if isinstance(slice_, ToRound):
            return slice_
        if isinstance(slice_, Gathered):
            return use_gathered(slice_.slice_, slice_.whole, axis, self.reduce_dtype)
        if isinstance(slice_, Quantized):  # frozen, and gathered as it is, which sends fewer bytes
            gathered = functools.partial(jax.lax.all_gather, axis_name="fsdp", axis=axis, tiled=True)
            return dequantized(jax.tree.map(gathered, slice_) if self.fsdp > 1 else slice_, dtype)
        return (
            gather_weight(slice_, axis, jnp.dtype(dtype), self.reduce_dtype) if self.fsdp > 1 else slice_.astype(dtype)
        )

    def gathered(self, slice_: Any, dtype: str) -> jax.Array:
        """The whole weight that `with_gathered` puts beside its slice, whose first axis fsdp splits."""
        if isinstance(slice_, ToRound):
            return whole_codes(slice_)
        return gather_weight(slice_, 0, jnp.dtype(dtype), self.reduce_dtype)

    def product(self, spec: str, x: jax.Array, weight: jax.Array | ToRound) -> jax.Array:
        """einsum of activations and a result of `weight`."""
        return (eight_bit_product if isinstance(weight, ToRound) else product)(spec, x, weight)

    def gather_positions(self, x_BTD: jax.Array) -> jax.Array:
        """All positions of x, gathered from the parts on the tensor devices."""
        return gather_positions(x_BTD) if self.tensor > 1 else x_BTD

    def sum_positions(self, x_BTD: jax.Array) -> jax.Array:
        """Sum over the tensor devices; each keeps its part of the positions."""
        return sum_positions(x_BTD) if self.tensor > 1 else x_BTD

    def mean_of_heads(self, x: jax.Array) -> jax.Array:
        """Mean over the tensor devices of what each computed from its heads."""
        return mean_of_heads(x) if self.tensor > 1 else x

    def own_positions(self, x_BT: jax.Array) -> jax.Array:
        """This tensor device's part of the positions of x, which all of them hold. Not differentiable."""
        if self.tensor == 1:
            return x_BT
        size = x_BT.shape[1] // self.tensor
        return jax.lax.dynamic_slice_in_dim(x_BT, jax.lax.axis_index("tensor") * size, size, axis=1)

    def heads_apart(self, x_BTNH: jax.Array) -> jax.Array:
        """Exchange part of the positions with all heads for all positions with part of the heads."""
        if self.context == 1:
            return x_BTNH
        return jax.lax.all_to_all(x_BTNH, "context", split_axis=2, concat_axis=1, tiled=True)

    def positions_apart(self, x_BTNH: jax.Array) -> jax.Array:
        """Inverse of `heads_apart`."""
        if self.context == 1:
            return x_BTNH
        return jax.lax.all_to_all(x_BTNH, "context", split_axis=1, concat_axis=2, tiled=True)

    def whole_rows(self, x_BT: jax.Array) -> jax.Array:
        """All positions of x, gathered from the parts on the context devices. Not differentiable."""
        return jax.lax.all_gather(x_BT, "context", axis=1, tiled=True) if self.context > 1 else x_BT

    def tensor_index(self) -> jax.Array | int:
        return jax.lax.axis_index("tensor") if self.tensor > 1 else 0

    def tensor_sum(self, x: jax.Array) -> jax.Array:
        """Sum over the tensor devices. Not differentiable."""
        return jax.lax.psum(x, "tensor") if self.tensor > 1 else x

    def tensor_max(self, x: jax.Array) -> jax.Array:
        """Maximum over the tensor devices. Not differentiable."""
        return jax.lax.pmax(x, "tensor") if self.tensor > 1 else x

    def sum_weight(self, grad: jax.Array, axis: int) -> jax.Array:
        """Transpose of `weight`: sum a gradient over the fsdp devices and slice it along `axis`, in float32."""
        if self.fsdp == 1:
            return grad.astype(jnp.float32)
        return scatter_weight(grad, axis, self.reduce_dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gathered:
    """A device's slice of a weight, and the whole weight that was gathered before its use, in the slice's place."""

    slice_: jax.Array
    whole: jax.Array

    def __getitem__(self, index: Any) -> "Gathered":
        assert index is ..., "a part would need its own slice"
        return self


def with_gathered(slice_: Any, whole: jax.Array) -> Any:
    if isinstance(slice_, ToRound):
        return dataclasses.replace(slice_, codes=whole)
    return Gathered(slice_, whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def use_gathered(slice_: jax.Array, whole: jax.Array, axis: int, reduce_dtype: str) -> jax.Array:
    """The whole weight. Its gradient is summed over the fsdp devices and given to the slice."""
    return whole


use_gathered.defvjp(
    lambda slice_, whole, axis, reduce_dtype: (whole, None),
    lambda axis, reduce_dtype, _, grad: (scatter_weight(grad, axis, reduce_dtype), None),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gather_weight(slice_: jax.Array, axis: int, dtype: jnp.dtype, reduce_dtype: str) -> jax.Array:
    # Cast before gathering: that halves the bytes sent.
    return jax.lax.all_gather(slice_.astype(dtype), "fsdp", axis=axis, tiled=True)


def scatter_weight(grad: jax.Array, axis: int, reduce_dtype: str) -> jax.Array:
    sum_ = jax.lax.psum_scatter(grad.astype(reduce_dtype), "fsdp", scatter_dimension=axis, tiled=True)
    # The barrier keeps the sum inside its microbatch. XLA for TPU would otherwise move it behind the loop over
    # microbatches, trip over the cast that follows and fail with an internal error (libtpu 0.0.42 to 0.0.50).
    return jax.lax.optimization_barrier(sum_).astype(jnp.float32)


gather_weight.defvjp(
    lambda slice_, axis, dtype, reduce_dtype: (gather_weight(slice_, axis, dtype, reduce_dtype), None),
    lambda axis, dtype, reduce_dtype, _, grad: (scatter_weight(grad, axis, reduce_dtype),),
)


@jax.custom_vjp
def gather_positions(x_BTD: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x_BTD, "tensor", axis=1, tiled=True)


@jax.custom_vjp
def sum_positions(x_BTD: jax.Array) -> jax.Array:
    return jax.lax.psum_scatter(x_BTD, "tensor", scatter_dimension=1, tiled=True)


gather_positions.defvjp(lambda x: (gather_positions(x), None), lambda _, grad: (sum_positions(grad),))
sum_positions.defvjp(lambda x: (sum_positions(x), None), lambda _, grad: (gather_positions(grad),))


@jax.custom_vjp
def mean_of_heads(x: jax.Array) -> jax.Array:
    return jax.lax.pmean(x, "tensor")


# Every device computes with the mean, so the gradients of all of them are summed, and each has its share in the mean.
mean_of_heads.defvjp(lambda x: (mean_of_heads(x), None), lambda _, grad: (jax.lax.pmean(grad, "tensor"),))
