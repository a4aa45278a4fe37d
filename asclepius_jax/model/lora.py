"""Low-rank adapters: y = x W + alpha / rank (dropout(x) A) B, where W is frozen and A and B train (arXiv 2106.09685).

A and B of a target are named after what it multiplies: of q, x_BTD A_DR B_RNH. All layers are stacked, as in the
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
from asclepius_jax.model.sizes import LlamaConfig

Tree = dict[str, Any]

AXES = {"D": "embed", "N": "heads", "K": "kv_heads", "H": "head_dim", "F": "mlp", "R": "rank"}


class Target(NamedTuple):
    """A matrix of a block that may have an adapter."""

    parameter: str  # its name in a block; what follows the underscore are its dimensions
    inputs: str
    outputs: str

    @property
    def letters(self) -> dict[str, str]:
        return {"A": self.inputs + "R", "B": "R" + self.outputs}

    @property
    def update(self) -> str:
        """einsum of A and B to the dimensions of the matrix."""
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
    """What the adapters of a model are; none with rank 0."""

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def adapter_shapes(config: LlamaConfig, lora: Lora) -> Tree:
    """A float32 shape for each adapter; empty with rank 0."""
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
    """The logical axes of each adapter."""
    return each_adapter(lora, lambda letters: ("layers", *(AXES[c] for c in letters)))


def each_adapter(lora: Lora, make: Any) -> Tree:
    targets = lora.targets if lora.rank else ()
    return {name: {part: make(letters) for part, letters in TARGETS[name].letters.items()} for name in targets}


def init_adapters(config: LlamaConfig, lora: Lora, seed: int | jax.Array) -> Tree:
    """A as torch's Linear has it, uniform within 1 / sqrt(inputs), as peft does; B zero: nothing is added at first.

    A target's numbers depend on its name alone, not on which others there are. Call it under jit with out_shardings.
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
    """The stacked blocks with the updates in their matrices, in the matrices' own type."""
    blocks = {name: dict(branch) for name, branch in blocks.items()}
    for name, parts in adapters.items():
        target = TARGETS[name]
        branch, leaf = target.parameter.split(".")
        a, b, w = (f"L{letters}" for letters in target.update.replace("->", ",").split(","))
        update = jnp.einsum(f"{a},{b}->{w}", parts["A"], parts["B"], precision="highest")
        whole = blocks[branch][leaf]
        blocks[branch][leaf] = (whole.astype(jnp.float32) + lora.scale * update).astype(whole.dtype)
    return blocks


class Noise(NamedTuple):
    """What dropout is drawn from: nothing else decides what is dropped, neither the mesh nor the microbatches."""

    key: jax.Array  # of the seed and the step; of a layer, too, where the layer is known
    places_BT: jax.Array  # of each token in the global batch: row x row length + position


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters of all layers, or of one; without any, every projection is the frozen matrix alone."""

    lora: Lora = Lora()
    weights: Tree = field(default_factory=dict)
    noise: Noise | None = None  # None: nothing is dropped

    def by_layer(self) -> Any:
        """What a scan over layers takes apart."""
        if self.noise is None or not self.weights:
            return self.weights, None
        layers = jnp.arange(next(iter(self.weights.values()))["A"].shape[0])
        return self.weights, jax.vmap(jax.random.fold_in, (None, 0))(self.noise.key, layers)

    def of_layer(self, part: Any) -> "Adapters":
        weights, key = part
        noise = None if key is None else self.noise._replace(key=key)  # type: ignore[union-attr]
        return Adapters(self.lora, weights, noise)

    def project(self, name: str, spec: str, x: jax.Array, weight: jax.Array, parallel: Parallel) -> jax.Array:
        """`product(spec, x, weight)` with the update of target `name` added, if it has one.

        Both are linear in what `tensor` splits: where the matrix gives this device's share of a sum, so do they.
        """
        y = product(spec, x, weight)
        if name not in self.weights:
            return y
        target = TARGETS[name]
        a, b = (
            parallel.weight(part, letters.index("D"), x.dtype) if "D" in letters else part.astype(x.dtype)
            for part, letters in ((self.weights[name][key], target.letters[key]) for key in ("A", "B"))
        )
        if self.noise is not None:
            x = drop(x, self.noise, self.lora.dropout, name, 0 if target.inputs == "D" else parallel.tensor_index())
        low_BTR = product(f"BT{target.inputs},{target.letters['A']}->BTR", x, a)
        return y + self.lora.scale * product(f"BTR,{target.letters['B']}->BT{target.outputs}", low_BTR, b)


NO_ADAPTERS = Adapters()


def drop(x: jax.Array, noise: Noise, rate: float, name: str, part: jax.Array | int) -> jax.Array:
    """x with a share `rate` of its numbers zero and the others larger; x is part number `part` of all channels.

    A number's fate is a hash of the key, the token's place and the channel: an elementwise pass that fuses with its
    neighbours, where random bits of an array's shape would be others on every mesh.
    """
    words = jax.random.bits(jax.random.fold_in(noise.key, list(TARGETS).index(name)), (2,))
    size = math.prod(x.shape[2:])
    channels_C = jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(part) * jnp.uint32(size)
    # Two hashes of each place: of one alone, 32 bits, some tokens of a large batch would share what they drop.
    first_BT, second_BT = (mixed(noise.places_BT ^ word) for word in words)
    bits_BTC = mixed(mixed(first_BT[..., None] + channels_C) ^ second_BT[..., None])
    kept = (bits_BTC >= jnp.uint32(round(rate * 2**32))).reshape(x.shape)
    return jnp.where(kept, x * (1 / (1 - rate)), 0).astype(x.dtype)


def mixed(bits: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each bit of the result depends on every one (a multiply-xorshift finalizer)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
