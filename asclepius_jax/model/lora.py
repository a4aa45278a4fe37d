"""LoRA: y = x W + alpha / rank (dropout(x) A) B, where W is frozen and A and B are trained (arXiv 2106.09685).

The axes of A and B are named after those of the matrix: for q, x_BTD A_DR B_RNH. All layers are stacked, as in the
blocks: {"q": {"A": (L, D, R), "B": (L, R, N, H)}, ...}.

Letters: B batch, T position, L layers, D embed, N query heads, K key/value heads, H head_dim, F mlp, R rank.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.matmul import product
from asclepius_jax.model.sizes import DecoderConfig

Tree = dict[str, Any]

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
    def update(self) -> str:
        """einsum string of the product A B in the axes of the matrix."""
        return f"{self.letters['A']},{self.letters['B']}->{self.parameter.rpartition('_')[2]}"


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

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


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
    return {name: {part: make(letters) for part, letters in TARGETS[name].letters.items()} for name in targets}


def init_adapters(config: DecoderConfig, lora: Lora, seed: int | jax.Array) -> Tree:
    """Initial adapters as in peft: A uniform within 1 / sqrt(inputs), like torch's Linear, and B zero.

    The values of a target depend on the seed and its name only, not on the other targets. Call it under jit with
    out_shardings.
    """
    key, order = jax.random.key(seed), list(TARGETS)
    adapters = {}
    for name, shapes in adapter_shapes(config, lora).items():
        a, b = shapes["A"], shapes["B"]
        bound = math.prod(a.shape[1:-1]) ** -0.5
        drawn = jax.random.uniform(jax.random.fold_in(key, order.index(name)), a.shape, a.dtype, -bound, bound)
        adapters[name] = {"A": drawn, "B": jnp.zeros(b.shape, b.dtype)}
    return adapters


def add_adapters(blocks: Tree, adapters: Tree, lora: Lora) -> Tree:
    """The stacked blocks with the adapters merged into their matrices, which keep their type."""
    blocks = {name: dict(branch) for name, branch in blocks.items()}
    for name, parts in adapters.items():
        target = TARGETS[name]
        branch, leaf = target.parameter.split(".")
        a, b, w = (f"L{letters}" for letters in target.update.replace("->", ",").split(","))
        update = jnp.einsum(f"{a},{b}->{w}", parts["A"], parts["B"], precision="highest")
        matrix = blocks[branch][leaf]
        blocks[branch][leaf] = (matrix.astype(jnp.float32) + lora.scale * update).astype(matrix.dtype)
    return blocks


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
        update does too.
        """
        y = product(spec, x, weight)
        if name not in self.weights:
            return y
        target = TARGETS[name]
        a, b = (
            parallel.weight(matrix, letters.index("D"), x.dtype) if "D" in letters else matrix.astype(x.dtype)
            for matrix, letters in ((self.weights[name][key], target.letters[key]) for key in ("A", "B"))
        )
        if self.noise is not None:
            x = drop(x, self.noise, self.lora.dropout, name, 0 if target.inputs == "D" else parallel.tensor_index())
        low_BTR = product(f"BT{target.inputs},{target.letters['A']}->BTR", x, a)
        update = product(f"BTR,{target.letters['B']}->BT{target.outputs}", low_BTR, b)
        # In float32, as in a merge: bfloat16 would round alpha / rank itself, by up to 0.4 %.
        return (y.astype(jnp.float32) + self.lora.scale * update.astype(jnp.float32)).astype(y.dtype)


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
