"""The LLaMA decoder.

Shape suffixes, as in x_BTD:
  B batch   T query position   S key position   D embed   V vocab   F mlp   L layers
  N query heads   K key/value heads   G = N // K query heads a key/value head   H head_dim

The module is built and split once (`build`); from then on its parameters are a plain nested dict of arrays.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from asclepius_jax.model.attention import attend, cached_mask, packed_mask
from asclepius_jax.model.rope import frequencies, rotate
from asclepius_jax.model.variants import LlamaConfig

Params = dict[str, Any]

# What the backward pass finds saved, beside the input of every block. The rest is computed again.
REMAT_SAVES: dict[str, tuple[str, ...]] = {
    "full": (),
    "attention": ("attention_out",),
    "projections": ("attention_out", "q", "k", "v", "gate", "up"),
}
REMAT_POLICIES = ("none", *REMAT_SAVES)


class Cache(NamedTuple):
    """Keys and values of every layer; slot s holds position s."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float = 0.02) -> nnx.Param:
    """A float32 parameter with its logical axes; `sharding.py` maps those to the mesh."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=axes)


class RMSNorm(nnx.Module):
    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones(dim), axes=("norm",))
        self.eps = eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x32_BTD = x_BTD.astype(jnp.float32)  # the mean square loses too much in bfloat16
        x32_BTD *= jax.lax.rsqrt(jnp.mean(x32_BTD**2, axis=-1, keepdims=True) + self.eps)
        return (x32_BTD * self.scale[...]).astype(x_BTD.dtype)


class Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.q_DNH = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o_NHD = weight(rngs, (N, H, D), ("heads", "head_dim", "embed"), residual_std(config))
        self.frequency = tuple(frequencies(config).tolist())

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, mask_BTS: jax.Array, cache: Any = None
    ) -> tuple[jax.Array, Any]:
        """`cache` is this layer's (k_BSKH, v_BSKH), or None to attend within x; returns it with x's keys written."""
        cast = functools.partial(jnp.asarray, dtype=x_BTD.dtype)
        frequency = jnp.asarray(self.frequency, jnp.float32)
        q_BTNH = rotate(jnp.einsum("BTD,DNH->BTNH", x_BTD, cast(self.q_DNH[...])), positions_BT, frequency)
        k_BSKH = rotate(jnp.einsum("BSD,DKH->BSKH", x_BTD, cast(self.k_DKH[...])), positions_BT, frequency)
        v_BSKH = jnp.einsum("BSD,DKH->BSKH", x_BTD, cast(self.v_DKH[...]))
        q_BTNH, k_BSKH, v_BSKH = map(checkpoint_name, (q_BTNH, k_BSKH, v_BSKH), "qkv")
        if cache is not None:
            rows_B1 = jnp.arange(x_BTD.shape[0])[:, None]
            k_BSKH = cache[0].at[rows_B1, positions_BT].set(k_BSKH)
            v_BSKH = cache[1].at[rows_B1, positions_BT].set(v_BSKH)
            cache = (k_BSKH, v_BSKH)
        out_BTNH = checkpoint_name(attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS), "attention_out")
        return jnp.einsum("BTNH,NHD->BTD", out_BTNH, cast(self.o_NHD[...])), cache


class Mlp(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, F = config.embed_dim, config.mlp_dim
        self.gate_DF = weight(rngs, (D, F), ("embed", "mlp"))
        self.up_DF = weight(rngs, (D, F), ("embed", "mlp"))
        self.down_FD = weight(rngs, (F, D), ("mlp", "embed"), residual_std(config))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cast = functools.partial(jnp.asarray, dtype=x_BTD.dtype)
        gate_BTF = checkpoint_name(jnp.einsum("BTD,DF->BTF", x_BTD, cast(self.gate_DF[...])), "gate")
        up_BTF = checkpoint_name(jnp.einsum("BTD,DF->BTF", x_BTD, cast(self.up_DF[...])), "up")
        return jnp.einsum("BTF,FD->BTD", jax.nn.silu(gate_BTF) * up_BTF, cast(self.down_FD[...]))


def residual_std(config: LlamaConfig) -> float:
    """Smaller for what adds to the residual stream, so that its variance does not grow with depth (GPT-2, 2.3)."""
    return 0.02 * (2 * config.num_layers) ** -0.5


class Block(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, mask_BTS: jax.Array, cache: Any = None
    ) -> tuple[jax.Array, Any]:
        attended_BTD, cache = self.attention(self.attention_norm(x_BTD), positions_BT, mask_BTS, cache)
        x_BTD += attended_BTD
        x_BTD += self.mlp(self.mlp_norm(x_BTD))
        return x_BTD, cache


class Llama(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        V, D = config.vocab_size, config.embed_dim

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.embed_VD = weight(rngs, (V, D), ("vocab", "embed"))
        self.blocks = stack(rngs)  # every parameter has a leading layer axis
        self.norm = RMSNorm(D, config.norm_eps)
        self.head_DV = None if config.tie_embeddings else weight(rngs, (D, V), ("embed", "vocab"))

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array,
        dtype: str = "bfloat16",
        remat: str = "none",
    ) -> jax.Array:
        """Logits (B, T, V) in float32 of packed rows; `dtype` is the activations'."""
        mask_BTS = packed_mask(segments_BT)
        graphdef, blocks = nnx.split(self.blocks)

        def run(x_BTD: jax.Array, block: Any) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, block)(x_BTD, positions_BT, mask_BTS)[0], None

        if remat != "none":
            policy = jax.checkpoint_policies.save_only_these_names(*REMAT_SAVES[remat])
            run = jax.checkpoint(run, policy=policy, prevent_cse=False)  # the scan itself prevents it
        x_BTD, _ = jax.lax.scan(run, self.embed_VD[...].astype(dtype)[tokens_BT], blocks)
        return self.logits(x_BTD)

    def decode(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: Cache, dtype: str = "bfloat16"
    ) -> tuple[jax.Array, Cache]:
        """Hidden states (B, T, D) of the tokens at `positions_BT`, for `logits`, and the cache with them in it."""
        mask_BTS = cached_mask(positions_BT, cache.k_LBSKH.shape[2])
        graphdef, blocks = nnx.split(self.blocks)

        def run(x_BTD: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
            block, kv = layer
            return nnx.merge(graphdef, block)(x_BTD, positions_BT, mask_BTS, kv)

        x_BTD = self.embed_VD[...].astype(dtype)[tokens_BT]
        x_BTD, (k_LBSKH, v_LBSKH) = jax.lax.scan(run, x_BTD, (blocks, tuple(cache)))
        return x_BTD, Cache(k_LBSKH, v_LBSKH)

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Scores of the next token, (B, T, V) in float32."""
        x_BTD = self.norm(x_BTD)
        head_DV = self.embed_VD[...].T if self.head_DV is None else self.head_DV[...]
        return jnp.einsum("BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)


class Model(NamedTuple):
    """A LLaMA split into its structure and what its parameters look like."""

    config: LlamaConfig
    graphdef: Any
    shapes: Params  # nested dict of jax.ShapeDtypeStruct
    axes: Params  # the same nested dict: a tuple of logical axis names for each parameter

    def merge(self, params: Params) -> Llama:
        return nnx.merge(self.graphdef, params)


def build(config: LlamaConfig) -> Model:
    """The structure alone: nothing is allocated."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Llama(config, nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(state)
    axes: Params = {}
    for path, param in nnx.to_flat_state(state):
        stacked = path[0] == "blocks"
        named = ("layers", *param.axes) if stacked else param.axes
        assert len(named) == len(param.shape), f"{path}: axes {named} for shape {param.shape}"
        branch = axes
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = named
    return Model(config, graphdef, shapes, axes)


def init_params(config: LlamaConfig, seed: int | jax.Array) -> Params:
    """Random parameters, float32. Call it under jit with out_shardings, so that no device holds them all."""
    return nnx.to_pure_dict(nnx.state(Llama(config, nnx.Rngs(jax.random.key(seed))), nnx.Param))


def empty_cache(config: LlamaConfig, batch: int, num_slots: int, dtype: str) -> Cache:
    shape = (config.num_layers, batch, num_slots, config.num_kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
