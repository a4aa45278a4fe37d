"""The LLaMA decoder.

Shape suffixes, as in x_BTD:
  B batch   T query position   S key position   D embed   V vocab   F mlp   L layers
  N query heads   K key/value heads   G = N // K query heads per key/value head   H head_dim

The module is built and split once (`build`). After that, its parameters are a plain nested dict of arrays.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from asclepius_jax.model import output_loss
from asclepius_jax.model.attention import SAVED_NAME, Kernel, attend, cached_mask, plain, prepare
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.lora import NO_ADAPTERS, Adapters, Lora, adapter_axes, adapter_shapes
from asclepius_jax.model.rope import angles, frequencies, rotate
from asclepius_jax.model.sizes import LlamaConfig

Params = dict[str, Any]
ALONE = Parallel()

# Activations kept for the backward pass in addition to the input of every block. Everything else, including gathered
# weights, is recomputed. `offload` keeps the block inputs themselves in host memory.
REMAT_SAVES: dict[str, tuple[str, ...]] = {
    "none": ("normed", "q", "k", "v", SAVED_NAME, "attended", "mlp_normed", "gate", "up", "hidden"),
    "projections": (SAVED_NAME, "q", "k", "v", "gate", "up"),
    "attention": (SAVED_NAME,),
    "full": (),
    "offload": (),
}
REMAT_POLICIES = tuple(REMAT_SAVES)


class Inputs(NamedTuple):
    """Packed rows, (B, T) each; in a mesh with `context`, this device's part of the positions."""

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array


class Rows(NamedTuple):
    """Properties of the rows that every layer reads."""

    kernel: Kernel
    cos_sin: tuple[jax.Array, jax.Array]
    positions_BT: jax.Array
    attention_mask: Any  # the result of attention.prepare in the kernel's own form, or mask_BTS with a cache


PLAIN = Kernel()


class Cache(NamedTuple):
    """Keys and values of every layer; slot s holds position s."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float = 0.02) -> nnx.Param:
    """A float32 parameter with logical axes, which `sharding.py` maps to the mesh."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=axes)


class RMSNorm(nnx.Module):
    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones(dim), axes=("norm",))
        self.eps = eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x32_BTD = x_BTD.astype(jnp.float32)  # the mean square loses too much in bfloat16
        x32_BTD *= jax.lax.rsqrt(jnp.mean(x32_BTD**2, axis=-1, keepdims=True) + self.eps)
        return (x32_BTD * self.scale[...]).astype(x_BTD.dtype)


# Every matrix of a block has D, the dimension that fsdp splits, as its first axis. Gathered slices are then contiguous
# and need no transposition.
class Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.q_DNH = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o_DNH = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"), residual_std(config))

    def __call__(
        self, x_BTD: jax.Array, rows: Rows, parallel: Parallel, adapters: Adapters, cache: Any = None
    ) -> tuple[jax.Array, Any]:
        """Output (B, T, D) and the updated cache.

        `cache` is this layer's (k_BSKH, v_BSKH), or None to attend within x.
        """
        dtype, scale = x_BTD.dtype, self.q_DNH.shape[-1] ** -0.5
        q_DNH, k_DKH, v_DKH = (parallel.weight(w[...], 0, dtype) for w in (self.q_DNH, self.k_DKH, self.v_DKH))
        q_BTNH = rotate(adapters.project("q", "BTD,DNH->BTNH", x_BTD, q_DNH, parallel), rows.cos_sin, scale)
        k_BSKH = rotate(adapters.project("k", "BSD,DKH->BSKH", x_BTD, k_DKH, parallel), rows.cos_sin)
        v_BSKH = adapters.project("v", "BSD,DKH->BSKH", x_BTD, v_DKH, parallel)
        if cache is not None:
            rows_B1 = jnp.arange(x_BTD.shape[0])[:, None]
            k_BSKH = cache[0].at[rows_B1, rows.positions_BT].set(k_BSKH)
            v_BSKH = cache[1].at[rows_B1, rows.positions_BT].set(v_BSKH)
            cache = (k_BSKH, v_BSKH)
            out_BTNH = plain(q_BTNH, k_BSKH, v_BSKH, rows.attention_mask)
        else:
            q, k, v = (
                checkpoint_name(parallel.heads_apart(x), name)
                for x, name in zip((q_BTNH, k_BSKH, v_BSKH), "qkv", strict=True)
            )
            out_BTNH = parallel.positions_apart(attend(rows.kernel, q, k, v, rows.attention_mask))
        o_DNH = parallel.weight(self.o_DNH[...], 0, dtype)
        return adapters.project("o", "BTNH,DNH->BTD", out_BTNH, o_DNH, parallel), cache


class Mlp(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, F = config.embed_dim, config.mlp_dim
        self.gate_DF = weight(rngs, (D, F), ("embed", "mlp"))
        self.up_DF = weight(rngs, (D, F), ("embed", "mlp"))
        self.down_DF = weight(rngs, (D, F), ("embed", "mlp"), residual_std(config))

    def __call__(self, x_BTD: jax.Array, parallel: Parallel, adapters: Adapters) -> jax.Array:
        dtype = x_BTD.dtype
        gate_DF, up_DF, down_DF = (parallel.weight(w[...], 0, dtype) for w in (self.gate_DF, self.up_DF, self.down_DF))
        gate_BTF = adapters.project("gate", "BTD,DF->BTF", x_BTD, gate_DF, parallel)
        up_BTF = adapters.project("up", "BTD,DF->BTF", x_BTD, up_DF, parallel)
        gate_BTF, up_BTF = checkpoint_name(gate_BTF, "gate"), checkpoint_name(up_BTF, "up")
        hidden_BTF = checkpoint_name(jax.nn.silu(gate_BTF) * up_BTF, "hidden")
        return adapters.project("down", "BTF,DF->BTD", hidden_BTF, down_DF, parallel)


def residual_std(config: LlamaConfig) -> float:
    """Initial standard deviation of matrices that add to the residual stream.

    It shrinks with depth so that the variance of the stream does not grow (GPT-2, section 2.3).
    """
    return 0.02 * (2 * config.num_layers) ** -0.5


class Block(nnx.Module):
    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self, x_BTD: jax.Array, rows: Rows, parallel: Parallel = ALONE, adapters: Adapters = NO_ADAPTERS,
        cache: Any = None,
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        """Output (B, T, D) and the updated cache. x holds this tensor device's part of the positions."""
        normed_BTD = checkpoint_name(self.attention_norm(x_BTD), "normed")
        attended_BTD, cache = self.attention(parallel.gather_positions(normed_BTD), rows, parallel, adapters, cache)
        x_BTD = checkpoint_name(x_BTD + parallel.sum_positions(attended_BTD), "attended")
        normed_BTD = checkpoint_name(self.mlp_norm(x_BTD), "mlp_normed")
        x_BTD += parallel.sum_positions(self.mlp(parallel.gather_positions(normed_BTD), parallel, adapters))
        return x_BTD, cache


class Llama(nnx.Module):
    adapters = NO_ADAPTERS  # LoRA updates for the matrices of the blocks; set by `Model.merge`

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        V, D = config.vocab_size, config.embed_dim
        self.config = config

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
    ) -> jax.Array:
        """Logits (B, T, V) of packed rows, in float32. `dtype` is the type of the activations."""
        return self.logits(self.hidden(Inputs(tokens_BT, positions_BT, segments_BT), dtype))

    def hidden(
        self,
        inputs: Inputs,
        dtype: str = "bfloat16",
        remat: str = "none",
        kernel: Kernel = PLAIN,
        parallel: Parallel = ALONE,
    ) -> jax.Array:
        """Hidden states (B, T, D) before the last norm, for this tensor device's part of the positions."""
        graphdef, blocks = nnx.split(self.blocks)
        cos_sin = angles(inputs.positions_BT, frequencies(self.config))
        attention_mask = prepare(kernel, parallel.whole_rows(inputs.segments_BT))
        rows = Rows(kernel, cos_sin, inputs.positions_BT, attention_mask)

        def run(x_BTD: jax.Array, layer: Any) -> tuple[jax.Array, None]:
            block, adapter = layer
            x_BTD = checkpoint_name(x_BTD, "block_input")
            return nnx.merge(graphdef, block)(x_BTD, rows, parallel, self.adapters.of_layer(adapter))[0], None

        x_BTD = output_loss.lookup(self.embed_VD[...], inputs.tokens_BT, parallel, dtype)
        run = jax.checkpoint(run, policy=remat_policy(remat), prevent_cse=False)  # the scan already prevents CSE
        return jax.lax.scan(run, x_BTD, (blocks, self.adapters.by_layer()))[0]

    def loss_sum(
        self, inputs: Inputs, targets_BT: jax.Array, weights_BT: jax.Array, dtype: str, remat: str, kernel: Kernel,
        parallel: Parallel = ALONE,
    ) -> jax.Array:  # fmt: skip
        """Weighted cross entropy in nats, summed over this device's tokens, in float32."""
        x_BTD = self.norm(self.hidden(inputs, dtype, remat, kernel, parallel))
        weight = (self.embed_VD if self.head_DV is None else self.head_DV)[...]
        return output_loss.loss_sum(x_BTD, weight, targets_BT, weights_BT, parallel, 1 if self.head_DV is None else 0)

    def decode(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: Cache, dtype: str = "bfloat16"
    ) -> tuple[jax.Array, Cache]:
        """Hidden states (B, T, D) of the tokens at `positions_BT`, to be passed to `logits`, and the updated cache."""
        mask_BTS = cached_mask(positions_BT, cache.k_LBSKH.shape[2])
        graphdef, blocks = nnx.split(self.blocks)
        rows = Rows(PLAIN, angles(positions_BT, frequencies(self.config)), positions_BT, mask_BTS)

        def run(x_BTD: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
            block, kv, adapter = layer
            return nnx.merge(graphdef, block)(x_BTD, rows, adapters=self.adapters.of_layer(adapter), cache=kv)

        x_BTD = output_loss.lookup(self.embed_VD[...], tokens_BT, ALONE, dtype)
        x_BTD, (k_LBSKH, v_LBSKH) = jax.lax.scan(run, x_BTD, (blocks, tuple(cache), self.adapters.by_layer()))
        return x_BTD, Cache(k_LBSKH, v_LBSKH)

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Next-token logits (B, T, V) in float32, from the hidden states (B, T, D) of `hidden` or `decode`."""
        x_BTD = self.norm(x_BTD)
        head_DV = self.embed_VD[...].T if self.head_DV is None else self.head_DV[...]
        return jnp.einsum("BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)


def remat_policy(name: str) -> Any:
    if name == "offload":
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["block_input"],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return jax.checkpoint_policies.save_only_these_names(*REMAT_SAVES[name])


class Model(NamedTuple):
    """A LLaMA split into its structure and the shapes of its parameters."""

    config: LlamaConfig
    graphdef: Any
    shapes: Params  # nested dict of jax.ShapeDtypeStruct
    axes: Params  # same nesting as shapes, with a tuple of logical axis names per parameter
    lora: Lora = Lora()

    def merge(self, params: Params, adapters: Adapters = NO_ADAPTERS) -> Llama:
        llama = nnx.merge(self.graphdef, params)
        llama.adapters = adapters
        return llama

    @property
    def adapter_shapes(self) -> Params:
        return adapter_shapes(self.config, self.lora)

    @property
    def adapter_axes(self) -> Params:
        return adapter_axes(self.lora)


@functools.cache
def build(config: LlamaConfig) -> Model:
    """The structure of the model, without allocating any parameter. Equal configurations share it: do not change it."""
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
    """Random float32 parameters. Call it under jit with out_shardings, so that no device holds all of them."""
    return nnx.to_pure_dict(nnx.state(Llama(config, nnx.Rngs(jax.random.key(seed))), nnx.Param))


def empty_cache(config: LlamaConfig, batch: int, num_slots: int, dtype: str) -> Cache:
    shape = (config.num_layers, batch, num_slots, config.num_kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
