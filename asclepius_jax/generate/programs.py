"""The two compiled programs of decoding: prompts into a cache, and the next tokens of all slots.

Shape suffixes: S slot (sequence in decoding), N token of a call, B row of prompts, T position of a row, A prompt of a
prefill, M page of a slot, K most likely tokens with their log-probabilities, V vocabulary.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from asclepius_jax.config import ComputeConfig, DataConfig, TrainConfig
from asclepius_jax.distributed.sharding import parallel_of, param_shardings, replicated
from asclepius_jax.generate.sampling import pick
from asclepius_jax.model.decoder import Inputs, Model, Params, build, is_matrix
from asclepius_jax.model.kernels.paged_cache import PAGE, PagedCache, empty_pages
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.train.choose_kernel import choose_kernel
from asclepius_jax.train.step import shard_map

MOST_STEPS = 32  # tokens of a slot in one call of `decode`
KV_AXES = (None, "fsdp", None, "tensor", None)  # mesh axes of keys and values, LBTKH
DType = Literal["bfloat16", "float32"]
Pages = tuple[jax.Array, jax.Array]


class Draws(NamedTuple):
    """How each sequence's next token is drawn, all (S,) but the data of its random key (S, 2)."""

    keys: Any
    temperature: Any
    top_p: Any


class Slots(NamedTuple):
    """The sequences in decoding, all (S,)."""

    token: Any  # the newest token, which the next step reads
    position: Any  # its position
    drawn: Any  # number of tokens drawn so far
    left: Any  # number of tokens that may still be drawn; 0 for an empty slot


class Drawn(NamedTuple):
    """Tokens and their log-probabilities under the model, and those of the K most likely tokens."""

    tokens: Any
    logprobs: Any
    top_tokens: Any
    top_logprobs: Any


class Limits(NamedTuple):
    """The end of a call of `decode`, if not all slots are finished before."""

    most_steps: Any  # at most MOST_STEPS
    until_finished: Any  # end with the first slot that is finished, because requests wait for it


class Programs(NamedTuple):
    """Jitted functions for one mesh. The pages are donated."""

    prefill: Any  # (params, pages, PromptRows, last_A, Draws of A) -> (Drawn of (A,), pages)
    decode: Any  # (params, pages, table_SM, Slots, Draws, ends_E, Limits) -> (steps taken, Drawn of (S, N), pages)


class PromptRows(NamedTuple):
    """Prompts packed into rows as documents are for training, (B, T) each, and the page of each token."""

    inputs: Inputs
    page_BT: Any  # 0 for padding


# Order of a stacked matrix's axes in the memory of a TPU, heads before the width that they share. From the usual order,
# XLA copies all weights to this one at each call, and then holds them twice.
TPU_ORDER = {4: (0, 2, 1, 3), 3: (0, 1, 2)}


def param_formats(mesh: Mesh, model: Model) -> Params:
    """Shardings of the parameters and, on TPUs, their layouts."""

    def format_of(path: Any, sharding: NamedSharding) -> NamedSharding | Format:
        on_tpu = mesh.devices.flat[0].platform == "tpu"
        if not on_tpu or path[0].key != "blocks" or not is_matrix(path[-1].key):
            return sharding
        return Format(Layout(TPU_ORDER[len(sharding.spec)]), sharding)

    return jax.tree.map_with_path(format_of, param_shardings(mesh, model))


def page_shardings(mesh: Mesh) -> Pages:
    sharding = NamedSharding(mesh, PartitionSpec(None, None, None, "tensor", None))
    return sharding, sharding


@functools.lru_cache(maxsize=8)
def make_pages(config: DecoderConfig, mesh: Mesh, pages: int, dtype: str) -> Any:
    return jax.jit(lambda: empty_pages(config, pages, dtype), out_shardings=page_shardings(mesh))


def in_compute_type(params: Params, dtype: DType, formats: Params) -> Params:
    """Parameters with their matrices in the type of the computation: bfloat16 halves the bytes that a step reads."""

    def converted(leaf: jax.Array, shape: jax.ShapeDtypeStruct, format_: Any) -> jax.Array:
        if leaf.dtype == shape.dtype and not isinstance(format_, Format):
            return leaf
        return jax.jit(lambda leaf: leaf.astype(shape.dtype), out_shardings=format_)(leaf)

    return jax.tree.map(converted, params, compute_shapes(params, dtype), formats)


def compute_shapes(params: Params, dtype: DType) -> Params:
    """Shapes and types of `in_compute_type`."""

    def shape(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if is_matrix(path[-1].key) else leaf.dtype)

    return jax.tree.map_with_path(shape, params)


@functools.lru_cache(maxsize=16)
def programs(config: DecoderConfig, mesh: Mesh, dtype: DType, top: int) -> Programs:
    """The programs of a model on a mesh without data parallelism. `top`: number of most likely tokens to return."""
    everywhere, pages, params = replicated(mesh), page_shardings(mesh), param_formats(mesh, build(config))

    def compiled(function: Any, inputs: int, results: int) -> Any:
        """A jitted function (params, pages, more inputs) -> (more results, pages)."""
        ins, outs = (params, pages, *[everywhere] * inputs), (*[everywhere] * results, pages)
        return jax.jit(function, donate_argnums=1, in_shardings=ins, out_shardings=outs)

    prefill, decode = make_prefill(config, mesh, dtype, top), make_decode(config, dtype, top)
    return Programs(compiled(prefill, 3, 1), compiled(decode, 5, 2))


def make_prefill(config: DecoderConfig, mesh: Mesh, dtype: DType, top: int) -> Any:
    """The forward pass of training, with its kernels, on rows split over fsdp. It fills the pages of all prompts."""
    model = build(config)
    specs = jax.tree.map(lambda sharding: sharding.spec, param_shardings(mesh, model))
    inputs, hidden, kv = (PartitionSpec(*axes) for axes in (("fsdp",), ("fsdp", "tensor"), KV_AXES))

    def prefill(params: Params, pages: Pages, rows: PromptRows, last_A: Any, draws: Draws) -> tuple[Drawn, Pages]:
        settings = TrainConfig(data=DataConfig(row_length=rows.page_BT.shape[1]), compute=ComputeConfig(dtype))
        kernel = choose_kernel(settings, mesh, config, len(last_A) + 1)

        def forward(params: Params, inputs: Inputs) -> Any:
            return model.merge(params).prefill(inputs, dtype, kernel, parallel_of(mesh))

        x_BTD, (k, v) = shard_map(forward, mesh, (specs, inputs), (hidden, (kv, kv)))(params, rows.inputs)
        offset_BT = rows.inputs.positions_BT % PAGE
        pages = pages[0].at[:, rows.page_BT, offset_BT].set(k), pages[1].at[:, rows.page_BT, offset_BT].set(v)
        x_1AD = x_BTD.reshape(1, -1, x_BTD.shape[2])[:, last_A]
        return draw(model.merge(params).logits(x_1AD)[0], jnp.zeros_like(last_A), draws, top), pages

    return prefill


def make_decode(config: DecoderConfig, dtype: DType, top: int) -> Any:
    """A loop of steps, each a token for every slot. The compiler distributes the products over the mesh: only the
    activations of one token per slot move between devices."""
    model = build(config)

    def decode(
        params: Params, pages: Pages, table_SM: Any, slots: Slots, draws: Draws, ends_E: Any, limits: Limits
    ) -> tuple[Any, Drawn, Pages]:
        decoder = model.merge(params)
        room = (len(slots.token), MOST_STEPS)
        empty = Drawn(jnp.zeros(room, int), jnp.zeros(room), jnp.zeros((*room, top), int), jnp.zeros((*room, top)))

        def unfinished(carry: Any) -> jax.Array:
            n, now, _, _ = carry
            ended = jnp.any((slots.left > 0) & (now.left == 0))
            return (n < limits.most_steps) & jnp.any(now.left > 0) & ~(limits.until_finished & ended)

        def step(carry: Any) -> Any:
            n, now, drawn, pages = carry
            active_S = now.left > 0
            # An empty slot writes to page 0, a finished one again to its last place.
            cache = PagedCache(pages[0], pages[1], table_SM)
            x_S1D, cache = decoder.decode(now.token[:, None], now.position[:, None], cache, dtype)
            new = draw(decoder.logits(x_S1D)[:, 0], now.drawn, draws, top)
            left_S = jnp.where(active_S & ~jnp.isin(new.tokens, ends_E), now.left - 1, 0)
            now = Slots(new.tokens, now.position + active_S, now.drawn + 1, left_S)
            drawn = Drawn(*(before.at[:, n].set(each) for before, each in zip(drawn, new, strict=True)))
            return n + 1, now, drawn, (cache.k_LPCKH, cache.v_LPCKH)

        n, _, drawn, pages = jax.lax.while_loop(unfinished, step, (jnp.int32(0), slots, empty, pages))
        return n, drawn, pages

    return decode


def draw(logits_SV: jax.Array, drawn_S: jax.Array, draws: Draws, top: int) -> Drawn:
    """One token per sequence. The n-th token of a sequence depends on its key and n alone, and not on its slot."""
    keys_S = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(draws.keys), drawn_S)
    token_S = pick(logits_SV, keys_S, draws.temperature, draws.top_p)
    logprobs_SV = jax.nn.log_softmax(logits_SV, axis=-1)
    logprob_S = jnp.take_along_axis(logprobs_SV, token_S[:, None], axis=1)[:, 0]
    top_logprobs_SK, top_SK = jax.lax.top_k(logprobs_SV, top)
    return Drawn(token_S, logprob_S, top_SK.astype(jnp.int32), top_logprobs_SK)
