"""The decoder of every family. What distinguishes LLaMA, Qwen, Gemma and others are fields of its configuration.

Shape suffixes, as in x_BTD:
  B batch   T query position   S key position   D embed   V vocab   F mlp   L layers
  N query heads   K key/value heads   G = N // K query heads per key/value head   H head_dim

The module is built and split once (`build`). After that, its parameters are a plain nested dict of arrays.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from asclepius_jax.model import output_loss
from asclepius_jax.model.activations import ACTIVATIONS, capped, scaled, xielu
from asclepius_jax.model.attention import Kernel, Scores, attend, cached_mask, plain, prepare
from asclepius_jax.model.collectives import Parallel, with_gathered
from asclepius_jax.model.kernels.eight_bits import blocks_to_round
from asclepius_jax.model.kernels.paged_cache import PagedCache
from asclepius_jax.model.layer_scan import scan_ahead, scan_layers
from asclepius_jax.model.lora import NO_ADAPTERS, TARGETS, Adapters, Lora, adapter_axes, adapter_shapes
from asclepius_jax.model.rope import CosSin, angles_by_kind, query_factor, rotate
from asclepius_jax.model.sizes import DecoderConfig

Params = dict[str, Any]
ALONE = Parallel()


class Inputs(NamedTuple):
    """Packed rows, (B, T) each; in a mesh with `context`, this device's part of the positions."""

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array


class Rows(NamedTuple):
    """Properties of the rows that a layer reads."""

    kernel: Kernel
    positions_BT: jax.Array
    attention_mask: Any  # the result of attention.prepare in the kernel's own form, or mask_BTS with a cache
    scores: Scores
    cos_sin: CosSin | None = None  # None: this layer rotates nothing
    query_factor: jax.Array | float = 1.0


PLAIN = Kernel()
FIRST = ("q_DNH", "k_DKH", "v_DKH")  # the matrices that a block needs first


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float = 0.02) -> nnx.Param:
    """A float32 parameter with logical axes, which `sharding.py` maps to the mesh."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=axes)


def bias(sizes: tuple[int, ...], axes: tuple[str, ...], present: bool) -> nnx.Param | None:
    return nnx.Param(jnp.zeros(sizes), axes=axes) if present else None


def plus(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    return x if bias is None else x + bias[...].astype(x.dtype)


def is_matrix(name: str) -> bool:
    """Return whether a parameter is a matrix, and not a scale, a bias, a magnitude or a constant of an activation."""
    return not re.fullmatch(r"scale|[a-z]+_bias_[A-Z]+|alpha_[pn]|beta|eps|magnitude", name)


class RMSNorm(nnx.Module):
    """Over the last axes of the input, as many as the scale has; heads of all tensor devices together."""

    def __init__(self, config: DecoderConfig, sizes: tuple[int, ...], axes: tuple[str, ...] = ("norm",)):
        self.offset = 1.0 if config.unit_offset else 0.0
        self.scale = nnx.Param(jnp.ones(sizes) - self.offset, axes=axes)
        self.eps = config.norm_eps

    def __call__(self, x: jax.Array, parallel: Parallel = ALONE) -> jax.Array:
        scale, over = self.scale[...], tuple(range(-self.scale.ndim, 0))
        x32 = x.astype(jnp.float32)  # the mean square loses too much in bfloat16
        mean_square = jnp.mean(x32**2, axis=over, keepdims=True)
        mean_square = parallel.mean_of_heads(mean_square) if len(over) > 1 else mean_square
        x32 *= jax.lax.rsqrt(mean_square + self.eps)
        return (x32 * (self.offset + scale if self.offset else scale)).astype(x.dtype)


def normed(x: jax.Array, norm: RMSNorm | None, parallel: Parallel = ALONE) -> jax.Array:
    return x if norm is None else norm(x, parallel)


# Every matrix of a block has D, the dimension that fsdp splits, as its first axis. Gathered slices are then contiguous
# and need no transposition.
class Attention(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.q_DNH = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = weight(rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o_DNH = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"), residual_std(config))
        self.q_bias_NH = bias((N, H), ("heads", "head_dim"), config.qkv_bias)
        self.k_bias_KH = bias((K, H), ("kv_heads", "head_dim"), config.qkv_bias)
        self.v_bias_KH = bias((K, H), ("kv_heads", "head_dim"), config.qkv_bias)
        self.o_bias_D = bias((D,), ("norm",), config.out_bias)
        norms: tuple[RMSNorm | None, RMSNorm | None] = (None, None)
        if config.qk_norm == "head":
            norms = RMSNorm(config, (H,), ("head_dim",)), RMSNorm(config, (H,), ("head_dim",))
        elif config.qk_norm == "whole":
            norms = RMSNorm(config, (N, H), ("heads", "head_dim")), RMSNorm(config, (K, H), ("kv_heads", "head_dim"))
        self.q_norm, self.k_norm = norms
        self.query_scale = H**-0.5 if config.query_scale is None else config.query_scale

    def __call__(
        self, x_BTD: jax.Array, rows: Rows, parallel: Parallel, adapters: Adapters,
        cache: tuple[PagedCache, jax.Array] | None = None,
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        """Output (B, T, D) and the updated cache. `cache` is the cache of all layers and the number of this layer.

        Without a cache, x attends within itself, and its keys and values (B, T, K, H) are in place of the cache.
        """
        dtype = x_BTD.dtype
        q_DNH, k_DKH, v_DKH = (parallel.weight(w[...], 0, dtype) for w in (self.q_DNH, self.k_DKH, self.v_DKH))
        q_BTNH = plus(adapters.project("q", "BTD,DNH->BTNH", x_BTD, q_DNH, parallel), self.q_bias_NH)
        k_BSKH = plus(adapters.project("k", "BSD,DKH->BSKH", x_BTD, k_DKH, parallel), self.k_bias_KH)
        v_BSKH = plus(adapters.project("v", "BSD,DKH->BSKH", x_BTD, v_DKH, parallel), self.v_bias_KH)
        q_BTNH = rotate(normed(q_BTNH, self.q_norm, parallel), rows.cos_sin, self.query_scale * rows.query_factor)
        k_BSKH = rotate(normed(k_BSKH, self.k_norm, parallel), rows.cos_sin)
        kept: Any = (k_BSKH, v_BSKH)
        if cache is not None:
            pages, layer = cache
            kept = pages.write(layer, rows.positions_BT, k_BSKH, v_BSKH)
            k_BSKH, v_BSKH = kept.read(layer)
            out_BTNH = plain(q_BTNH, k_BSKH, v_BSKH, rows.attention_mask, rows.scores.cap)
        else:
            q, k, v = (
                checkpoint_name(parallel.heads_apart(x), name)
                for x, name in zip((q_BTNH, k_BSKH, v_BSKH), "qkv", strict=True)
            )
            out_BTNH = parallel.positions_apart(attend(rows.kernel, q, k, v, rows.attention_mask, rows.scores))
        o_DNH = parallel.weight(self.o_DNH[...], 0, dtype)
        return adapters.project("o", "BTNH,DNH->BTD", out_BTNH, o_DNH, parallel), kept


class Mlp(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        D, F = config.embed_dim, config.mlp_dim
        self.gate_DF = weight(rngs, (D, F), ("embed", "mlp")) if config.gated else None
        self.up_DF = weight(rngs, (D, F), ("embed", "mlp"))
        self.down_DF = weight(rngs, (D, F), ("embed", "mlp"), residual_std(config))
        self.gate_bias_F = bias((F,), ("mlp",), config.mlp_bias and config.gated)
        self.up_bias_F = bias((F,), ("mlp",), config.mlp_bias)
        self.down_bias_D = bias((D,), ("norm",), config.mlp_bias)
        self.activation = config.activation
        if config.activation == "xielu":  # the initial values of transformers, before their softplus
            self.alpha_p, self.alpha_n = (nnx.Param(jnp.full(1, x), axes=("norm",)) for x in (0.2036, -1.0502))
            self.beta, self.eps = (nnx.Param(jnp.float32(x), axes=()) for x in (0.5, -1e-6))

    def __call__(self, x_BTD: jax.Array, parallel: Parallel, adapters: Adapters) -> jax.Array:
        dtype, gate_BTF = x_BTD.dtype, None
        if self.gate_DF is not None:
            gate_DF = parallel.weight(self.gate_DF[...], 0, dtype)
            gate_BTF = plus(adapters.project("gate", "BTD,DF->BTF", x_BTD, gate_DF, parallel), self.gate_bias_F)
            gate_BTF = checkpoint_name(gate_BTF, "gate")
        up_DF, down_DF = (parallel.weight(w[...], 0, dtype) for w in (self.up_DF, self.down_DF))
        up_BTF = plus(adapters.project("up", "BTD,DF->BTF", x_BTD, up_DF, parallel), self.up_bias_F)
        up_BTF = checkpoint_name(up_BTF, "up")
        hidden_BTF = self.act(up_BTF) if gate_BTF is None else self.act(gate_BTF) * up_BTF
        hidden_BTF = checkpoint_name(hidden_BTF, "hidden")
        return adapters.project("down", "BTF,DF->BTD", hidden_BTF, down_DF, parallel)

    def act(self, x_BTF: jax.Array) -> jax.Array:
        if self.activation == "xielu":
            return xielu(x_BTF, *(p[...] for p in (self.alpha_p, self.alpha_n, self.beta, self.eps)))
        return ACTIVATIONS[self.activation](x_BTF)


def residual_std(config: DecoderConfig) -> float:
    """Initial standard deviation of matrices that add to the residual stream.

    It shrinks with depth so that the variance of the stream does not grow (GPT-2, section 2.3).
    """
    return 0.02 * (2 * config.num_layers) ** -0.5


class Block(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        def norm(present: bool) -> RMSNorm | None:
            return RMSNorm(config, (config.embed_dim,)) if present else None

        self.attention_norm, self.attention_post_norm = norm(config.pre_norm), norm(config.post_norm)
        self.attention = Attention(config, rngs)
        self.mlp_norm, self.mlp_post_norm = norm(config.pre_norm), norm(config.post_norm)
        self.mlp = Mlp(config, rngs)
        self.residual_scale = config.residual_scale

    def __call__(
        self, x_BTD: jax.Array, rows: Rows, parallel: Parallel = ALONE, adapters: Adapters = NO_ADAPTERS,
        cache: tuple[PagedCache, jax.Array] | None = None, during: Any = None,
    ) -> tuple[jax.Array, Any]:  # fmt: skip
        """Output (B, T, D) and the updated cache, or else the keys and values, or the result of `during`, which is
        called between attention and MLP. x holds this tensor device's part of the positions."""
        x_BTD = checkpoint_name(x_BTD, "block_input")
        normed_BTD = checkpoint_name(normed(x_BTD, self.attention_norm), "normed")
        added_BTD, kept = self.attention(parallel.gather_positions(normed_BTD), rows, parallel, adapters, cache)
        added_BTD = normed(plus(parallel.sum_positions(added_BTD), self.attention.o_bias_D), self.attention_post_norm)
        x_BTD = checkpoint_name(x_BTD + scaled(added_BTD, self.residual_scale), "attended")
        kept = during(x_BTD) if during else kept
        normed_BTD = checkpoint_name(normed(x_BTD, self.mlp_norm), "mlp_normed")
        added_BTD = parallel.sum_positions(self.mlp(parallel.gather_positions(normed_BTD), parallel, adapters))
        added_BTD = normed(plus(added_BTD, self.mlp.down_bias_D), self.mlp_post_norm)
        return x_BTD + scaled(added_BTD, self.residual_scale), kept


class Decoder(nnx.Module):
    adapters = NO_ADAPTERS  # LoRA updates for the matrices of the blocks; set by `Model.merge`

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        V, D = config.table_rows, config.embed_dim
        self.config = config

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.embed_VD = weight(rngs, (V, D), ("vocab", "embed"))
        self.embed_VD[...] = output_loss.padded_with_zeros(self.embed_VD[...], config.vocab_size, 0)
        self.blocks = stack(rngs)  # every parameter has a leading layer axis
        self.norm = RMSNorm(config, (D,))
        self.head_DV = None if config.tie_embeddings else weight(rngs, (D, V), ("embed", "vocab"))
        if self.head_DV is not None:
            self.head_DV[...] = output_loss.padded_with_zeros(self.head_DV[...], config.vocab_size, 1)

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array, dtype: str = "bfloat16"
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
        return self.through_blocks(inputs, dtype, remat, kernel, parallel)[0]

    def prefill(
        self, inputs: Inputs, dtype: str, kernel: Kernel, parallel: Parallel = ALONE
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The result of `hidden`, and keys and values (L, B, T, K, H) of every layer for a cache."""
        return self.through_blocks(inputs, dtype, None, kernel, parallel)

    def through_blocks(
        self, inputs: Inputs, dtype: str, remat: str | None, kernel: Kernel, parallel: Parallel
    ) -> tuple[jax.Array, Any]:
        """Hidden states, and with `remat` None, where nothing is differentiated, the keys and values."""
        graphdef, blocks = nnx.split(self.blocks)
        frozen = bool(self.adapters.weights)  # with adapters, which are trained instead
        blocks = nnx.to_pure_dict(blocks)
        if parallel.matmul != "bfloat16":
            blocks = blocks_to_round(blocks, TARGETS.values(), parallel, not frozen)
        mask_of = functools.partial(prepare, kernel, parallel.whole_rows(inputs.segments_BT))
        rows = self.rows_by_kind(kernel, inputs.positions_BT, mask_of)

        def run(kind: str, x_BTD: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
            held, (block, adapter) = layer
            block = held if frozen else block
            adapters = self.adapters.of_layer(adapter)
            x_BTD, keys_and_values = nnx.merge(graphdef, block)(x_BTD, rows[kind], parallel, adapters)
            return x_BTD, None if remat else keys_and_values

        def gather(layer: Any) -> dict[str, jax.Array]:
            return {name: parallel.gathered(layer["attention"][name], dtype) for name in FIRST}

        def run_ahead(x_BTD: jax.Array, block: Any, gathered: Any, during: Any) -> tuple[jax.Array, Any]:
            first = {name: with_gathered(block["attention"][name], whole) for name, whole in gathered.items()}
            block = block | {"attention": block["attention"] | first}
            return nnx.merge(graphdef, block)(x_BTD, rows[self.config.kinds[0]], parallel, during=during)

        x_BTD = self.embedded(inputs.tokens_BT, parallel, dtype)
        if parallel.ahead and remat and not frozen and len(rows) == 1:
            return scan_ahead(run_ahead, gather, x_BTD, blocks, remat, self.config.num_layers), None
        held, trained = (blocks, {}) if frozen else ({}, blocks)
        return scan_layers(self.config, run, x_BTD, held, (trained, self.adapters.by_layer()), remat)

    def embedded(self, tokens_BT: jax.Array, parallel: Parallel, dtype: str) -> jax.Array:
        x_BTD = output_loss.lookup(self.embed_VD[...], tokens_BT, parallel, dtype)
        if self.config.embedding_scale == 1.0:
            return x_BTD
        # Rounded to the type first, as Gemma was trained: in bfloat16, the square root of 3072 is 55.5, not 55.43.
        return x_BTD * jnp.asarray(self.config.embedding_scale, x_BTD.dtype)

    def rows_by_kind(self, kernel: Kernel, positions_BT: jax.Array, mask_of: Any) -> dict[str, Rows]:
        """The rows as layers of each kind read them. `mask_of(window)` makes the mask of all kinds with the window."""
        config = self.config
        windows = {kind: config.window_of(kind) for kind in dict.fromkeys(config.kinds)}
        masks = {window: mask_of(window) for window in dict.fromkeys(windows.values())}
        factor = query_factor(positions_BT, config)
        scores = {kind: Scores(window, config.score_cap) for kind, window in windows.items()}
        return {
            kind: Rows(kernel, positions_BT, masks[windows[kind]], scores[kind], cos_sin, factor)
            for kind, cos_sin in angles_by_kind(positions_BT, config).items()
        }

    def losses(
        self, inputs: Inputs, targets_BT: jax.Array, weights_BT: jax.Array, dtype: str, remat: str, kernel: Kernel,
        parallel: Parallel = ALONE,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        """Weighted cross entropy in nats, summed over this device's tokens, and that of every token without weight.

        Both are float32; only the sum has a gradient.
        """
        x_BTD = self.final(self.hidden(inputs, dtype, remat, kernel, parallel))
        weight = (self.embed_VD if self.head_DV is None else self.head_DV)[...]
        config, axis = self.config, 1 if self.head_DV is None else 0
        logits = output_loss.Logits(axis, config.vocab_size if config.vocab_padding else None, config.logit_cap)
        return output_loss.weighted_losses(x_BTD, weight, targets_BT, weights_BT, parallel, logits)

    def final(self, x_BTD: jax.Array) -> jax.Array:
        """The hidden states as the output matrix takes them."""
        return scaled(self.norm(x_BTD), 1 / self.config.logit_divisor)

    def decode(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, cache: PagedCache, dtype: str = "bfloat16"
    ) -> tuple[jax.Array, PagedCache]:
        """Hidden states (B, T, D) of the tokens at `positions_BT`, to be passed to `logits`, and the updated cache."""
        graphdef, blocks = nnx.split(self.blocks)
        mask_of = functools.partial(cached_mask, positions_BT, cache.num_positions)
        rows = self.rows_by_kind(PLAIN, positions_BT, mask_of)

        # The cache is carried from layer to layer, so that it is updated in place.
        def run(kind: str, carry: tuple[jax.Array, PagedCache], layer: Any) -> tuple[Any, None]:
            (block, adapter), number = layer
            x_BTD, cache = carry
            adapters = self.adapters.of_layer(adapter)
            return nnx.merge(graphdef, block)(x_BTD, rows[kind], adapters=adapters, cache=(cache, number)), None

        carry = (self.embedded(tokens_BT, ALONE, dtype), cache)
        layers = (blocks, self.adapters.by_layer())
        return scan_layers(self.config, run, carry, layers, jnp.arange(self.config.num_layers))[0]

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Next-token logits (B, T, V) in float32, from the hidden states (B, T, D) of `hidden` or `decode`."""
        x_BTD = self.final(x_BTD)
        head_DV = self.embed_VD[...].T if self.head_DV is None else self.head_DV[...]
        logits_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
        return capped(logits_BTV[..., : self.config.vocab_size], self.config.logit_cap)


class Model(NamedTuple):
    """A decoder split into its structure and the shapes of its parameters."""

    config: DecoderConfig
    graphdef: Any
    shapes: Params  # nested dict of jax.ShapeDtypeStruct
    axes: Params  # same nesting as shapes, with a tuple of logical axis names per parameter
    lora: Lora = Lora()

    def merge(self, params: Params, adapters: Adapters = NO_ADAPTERS) -> Decoder:
        decoder = nnx.merge(self.graphdef, params)
        decoder.adapters = adapters
        return decoder

    @property
    def adapter_shapes(self) -> Params:
        return adapter_shapes(self.config, self.lora)

    @property
    def adapter_axes(self) -> Params:
        return adapter_axes(self.lora)


@functools.cache
def build(config: DecoderConfig) -> Model:
    """The structure of the model, without allocating any parameter. Equal configurations share it: do not change it."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))
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


def init_params(config: DecoderConfig, seed: int | jax.Array) -> Params:
    """Random float32 parameters. Call it under jit with out_shardings, so that no device holds all of them."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(jax.random.key(seed))), nnx.Param))
