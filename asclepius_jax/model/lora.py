"""LoRA: y = x W + scale (dropout(x) A) B, where W is frozen and A and B are trained (arXiv 2106.09685).

DoRA (arXiv 2402.09353) also trains the length of every output column of W + scale A B, its magnitude. The axes of the
arrays are named after those of the matrix: for q, x_BTD A_DR B_RNH magnitude_NH. All layers are stacked, as in the
blocks: {"q": {"A": (L, D, R), "B": (L, R, N, H), "magnitude": (L, N, H)}, ...}.

Letters: B batch, T position, L layers, D embed, N query heads, K key/value heads, H head_dim, F mlp, R and Q rank.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.kernels.matmul import product
from asclepius_jax.model.quantized import Quantized, dequantized
from asclepius_jax.model.sizes import DecoderConfig

Tree = dict[str, Any]

# Square of the shortest column that a magnitude rescales. A column of zeros stays zero instead of becoming NaN.
LEAST_SQUARE = 1e-30
AXES = {"D": "embed", "N": "heads", "K": "kv_heads", "H": "head_dim", "F": "mlp", "R": "rank"}


class Target(NamedTuple):
    """A matrix of a block that can have an adapter."""

    parameter: str  # name in a block; the letters after the underscore are the axes
    inputs: str
    outputs: str

    @property
    def letters(self) -> dict[str, str]:
        return {"A": self.inputs + "R", "B": "R" + self.outputs}

    @property
    def matrix(self) -> str:
        """Axes of the matrix."""
        return self.parameter.rpartition("_")[2]

    @property
    def update(self) -> str:
        """einsum string of the product A B in the axes of the matrix."""
        return f"{self.letters['A']},{self.letters['B']}->{self.matrix}"

    @property
    def input_axes(self) -> tuple[int, ...]:
        """Numbers of the matrix's axes over which a product with it sums, for one layer."""
        return tuple(self.matrix.index(letter) for letter in self.inputs)


TARGETS = {
    "q": Target("attention.q_DNH", "D", "NH"),
    "k": Target("attention.k_DKH", "D", "KH"),
    "v": Target("attention.v_DKH", "D", "KH"),
    "o": Target("attention.o_DNH", "NH", "D"),
    "gate": Target("mlp.gate_DF", "D", "F"),
    "up": Target("mlp.up_DF", "D", "F"),
    "down": Target("mlp.down_DF", "F", "D"),
}


@dataclass(frozen=True)
class Lora:
    """Settings of a model's adapters. Rank 0 means no adapters."""

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    rank_stabilized: bool = False
    magnitudes: bool = False

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank), with which updates keep their size at large ranks (arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def parts(self, name: str) -> dict[str, str]:
        """Axes of the arrays of a target's adapter in one layer."""
        target = TARGETS[name]
        return target.letters | ({"magnitude": target.outputs} if self.magnitudes else {})


def adapter_shapes(config: DecoderConfig, lora: Lora) -> Tree:
    """Shapes of all adapters, in float32; empty with rank 0."""
    sizes = {
        "D": config.embed_dim,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "F": config.mlp_dim,
        "R": lora.rank,
    }
    return each_adapter(
        lora,
        lambda letters: jax.ShapeDtypeStruct((config.num_layers, *(sizes[c] for c in letters)), jnp.float32),
    )


def adapter_axes(lora: Lora) -> Tree:
    """Logical axes of all adapters, nested like `adapter_shapes`."""
    return each_adapter(lora, lambda letters: ("layers", *(AXES[c] for c in letters)))


def each_adapter(lora: Lora, make: Any) -> Tree:
    targets = lora.targets if lora.rank else ()
    return {name: {part: make(letters) for part, letters in lora.parts(name).items()} for name in targets}


def init_adapters(config: DecoderConfig, lora: Lora, seed: int | jax.Array, blocks: Tree | None = None) -> Tree:
    """Initial adapters as in peft: A uniform within 1 / sqrt(inputs), like torch's Linear, and B zero.

    Magnitudes are the lengths of the columns in `blocks`, which only they need. The values of a target depend on the
    seed and its name only, not on the other targets. Call it under jit with out_shardings.
    """
    key, order = jax.random.key(seed), list(TARGETS)
    adapters = {}
    for name, shapes in adapter_shapes(config, lora).items():
        a, b = shapes["A"], shapes["B"]
        bound = math.prod(a.shape[1:-1]) ** -0.5
        drawn = jax.random.uniform(jax.random.fold_in(key, order.index(name)), a.shape, a.dtype, -bound, bound)
        adapters[name] = {"A": drawn, "B": jnp.zeros(b.shape, b.dtype)}
        if lora.magnitudes:
            assert blocks is not None, "magnitudes start from the base"
            branch, leaf = TARGETS[name].parameter.split(".")

            def of_layer(weight: Any, target: Target = TARGETS[name]) -> jax.Array:
                whole = dequantized(weight, jnp.float32) if isinstance(weight, Quantized) else weight
                return column_norms(target, whole)

            # One layer at a time: a cast of all layers to float32 would be twice as large as the matrices.
            adapters[name]["magnitude"] = jax.lax.map(of_layer, blocks[branch][leaf])
    return adapters


def column_norms(target: Target, weight: jax.Array) -> jax.Array:
    """Length of every output column of one layer's matrix, over its inputs, in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(weight.astype(jnp.float32)), axis=target.input_axes))


def updated_norms(target: Target, weight: jax.Array, a: jax.Array, b: jax.Array, lora: Lora, parallel: Parallel) -> Any:
    """Length of every output column of W + scale A B in one layer, in float32 and without a gradient.

    |W + s A B|^2 = |W|^2 + sum over ranks of B * (2 s A^T W + s^2 A^T A B), which needs no array of the matrix's size.
    The whole gradient costs as much again for no better result (DoRA, section 4.3).
    """
    weight, a, b = jax.lax.stop_gradient((weight, a, b))
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    first, second = target.letters["A"], target.letters["B"]
    scale, b32 = lora.scale, b.astype(jnp.float32)
    crossed = einsum(f"{first},{target.matrix}->{second}", a, weight)
    squared_RQ = einsum(f"{first},{first.replace('R', 'Q')}->RQ", a, a)
    added = b32 * (2 * scale * crossed + scale**2 * einsum(f"RQ,{second.replace('R', 'Q')}->{second}", squared_RQ, b32))
    square = jnp.sum(jnp.square(weight.astype(jnp.float32)), axis=target.input_axes) + jnp.sum(added, axis=0)
    if target.inputs != "D":  # this device has a part of the inputs
        square = parallel.tensor_sum(square)
    return jnp.sqrt(jnp.maximum(square, LEAST_SQUARE))


def merged_matrix(target: Target, matrix: jax.Array, parts: Tree, lora: Lora) -> jax.Array:
    """The float32 matrices of all layers with their adapters merged into them."""
    a, b, w = (f"L{letters}" for letters in target.update.replace("->", ",").split(","))
    merged = matrix + lora.scale * jnp.einsum(f"{a},{b}->{w}", parts["A"], parts["B"], precision="highest")
    if lora.magnitudes:
        square = jnp.sum(jnp.square(merged), axis=tuple(axis + 1 for axis in target.input_axes))
        factors = parts["magnitude"] / jnp.sqrt(jnp.maximum(square, LEAST_SQUARE))
        merged = jnp.einsum(f"{w},L{target.outputs}->{w}", merged, factors)
    return merged


class Noise(NamedTuple):
    """Everything that dropout depends on. Neither the mesh nor the microbatches change what is dropped."""

    key: jax.Array  # derived from the seed and the step, and from the layer once that is known
    places_BT: jax.Array  # index of each token in the global batch: row x row length + position


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters of all layers or of one layer. If empty, every projection uses only the frozen matrix."""

    lora: Lora = Lora()
    weights: Tree = field(default_factory=dict)
    noise: Noise | None = None  # None: nothing is dropped

    def by_layer(self) -> Any:
        """The adapters and dropout keys with a leading layer axis, as input of a scan over layers."""
        if self.noise is None or not self.weights:
            return self.weights, None
        layers = jnp.arange(next(iter(self.weights.values()))["A"].shape[0])
        return self.weights, jax.vmap(jax.random.fold_in, (None, 0))(self.noise.key, layers)

    def of_layer(self, layer: Any) -> "Adapters":
        """The adapters of one layer, from one slice of `by_layer`."""
        weights, key = layer
        noise = None if key is None else self.noise._replace(key=key)  # type: ignore[union-attr]
        return Adapters(self.lora, weights, noise)

    def project(self, name: str, spec: str, x: jax.Array, weight: jax.Array, parallel: Parallel) -> jax.Array:
        """`product(spec, x, weight)` plus the update of target `name`, if it has an adapter.

        Both are linear in the axis that `tensor` splits, so where the matrix yields this device's share of a sum, the
        update does too. Magnitudes rescale the sum; with dropout, only the part of y that the dropped-out inputs give,
        as in peft.
        """
        y = parallel.product(spec, x, weight)
        if name not in self.weights:
            return y
        target = TARGETS[name]
        a, b, magnitude = self.gathered(name, x.dtype, parallel)
        rescaled = y
        if self.noise is not None:
            x = drop(x, self.noise, self.lora.dropout, name, 0 if target.inputs == "D" else parallel.tensor_index())
            rescaled = y if magnitude is None else product(spec, x, weight)
        low_BTR = product(f"BT{target.inputs},{target.letters['A']}->BTR", x, a)
        update = product(f"BTR,{target.letters['B']}->BT{target.outputs}", low_BTR, b)
        # In float32, as in a merge: bfloat16 would round the scale itself, by up to 0.4 %.
        added = self.lora.scale * update.astype(jnp.float32)
        if magnitude is not None:
            factors = magnitude / updated_norms(target, weight, a, b, self.lora, parallel)
            added = (factors - 1) * rescaled.astype(jnp.float32) + factors * added
        return (y.astype(jnp.float32) + added).astype(y.dtype)

    def gathered(
        self, name: str, dtype: jnp.dtype, parallel: Parallel
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """A and B of a target in `dtype`, and its magnitude in float32 or None: whole along the axis of fsdp."""
        whole = {
            key: parallel.weight(
                self.weights[name][key], letters.index("D"), jnp.float32 if key == "magnitude" else dtype
            )
            if "D" in letters
            else self.weights[name][key]
            for key, letters in self.lora.parts(name).items()
        }
        return whole["A"].astype(dtype), whole["B"].astype(dtype), whole.get("magnitude")


NO_ADAPTERS = Adapters()


def drop(x: jax.Array, noise: Noise, rate: float, name: str, part: jax.Array | int) -> jax.Array:
    """Dropout of x with probability `rate`, where x is part number `part` of all channels.

    A hash of the key, the token's index and the channel decides whether an element is dropped. The hash is
    elementwise and fuses with neighbouring operations. Random bits drawn in the shape of an array would differ from
    mesh to mesh.
    """
    words = jax.random.bits(jax.random.fold_in(noise.key, list(TARGETS).index(name)), (2,))
    size = math.prod(x.shape[2:])
    channels_C = jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(part) * jnp.uint32(size)
    # Two hashes per token: with a single 32-bit hash, some tokens of a large batch would drop the same channels.
    first_BT, second_BT = (mixed(noise.places_BT ^ word) for word in words)
    bits_BTC = mixed(mixed(first_BT[..., None] + channels_C) ^ second_BT[..., None])
    kept = (bits_BTC >= jnp.uint32(round(rate * 2**32))).reshape(x.shape)
    # In float32, because bfloat16 would round 1 / (1 - rate) and shift the mean.
    return jnp.where(kept, x.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(x.dtype)


def mixed(bits: jax.Array) -> jax.Array:
    """Hash of 32 bits: a bijection whose every output bit depends on all input bits (multiply-xorshift finalizer)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
