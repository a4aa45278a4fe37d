"""The custom calls of cudnn.py beside those that JAX's private primitives lower to: nothing here needs a GPU."""

import inspect
import json
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from asclepius_jax.model.kernels import cudnn

B, T, H, M = 2, 64, 32, 3
HEADS = [(4, 2), (4, 4)]


class Call(NamedTuple):
    """One custom call of a lowered program, as its text states it."""

    target: str
    operands: list[str]  # %arg3 is the fourth argument of the function, %7 something computed from them
    operand_types: list[str]
    result_types: list[str]
    operand_layouts: list[str]
    result_layouts: list[str]
    config: dict[str, Any]


LINE = re.compile(
    r'custom_call @(?P<target>__cudnn\S+?)\((?P<operands>[^)]*)\) \{.*?backend_config = "(?P<config>[^"]*)"'
    r".*?operand_layouts = \[(?P<operand_layouts>.*?)\], result_layouts = \[(?P<result_layouts>.*?)\]\}"
    r" : \((?P<operand_types>.*?)\) -> \((?P<result_types>.*?)\)$"
)


def calls(function: Any, *shapes: Any) -> list[Call]:
    text = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    found = [re.search(LINE, line.strip()) for line in text.splitlines() if "custom_call @__cudnn" in line]
    made = []
    for each in found:
        assert each is not None
        lists = [each[name].split(", ") for name in ("operands", "operand_types", "result_types")]
        layouts = [each[name].split(", dense") for name in ("operand_layouts", "result_layouts")]
        config = json.loads(each["config"].replace(r"\22", '"'))["cudnn_fmha_backend_config"]
        made.append(Call(each["target"], *lists, *layouts, config))
    return made


def shape(*sizes: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def integers(*sizes: int) -> jax.ShapeDtypeStruct:
    return shape(*sizes, dtype=jnp.int32)


def operands(N: int, K: int, packed: bool, backward: bool) -> list[jax.ShapeDtypeStruct]:
    """q, k, v; backward stats, d_out; bias; backward out; or the lengths in place of the bias, after it all."""
    q, k = shape(B, T, N, H), shape(B, T, K, H)
    stats = shape(B * M if packed else B, N, T, dtype=jnp.float32)
    made = [q, k, k, stats, q] if backward else [q, k, k]
    return made + ([] if packed else [shape(B, 1, T, T)]) + [q] * backward + [integers(B * M)] * packed


def jax_call(N: int, K: int, packed: bool, backward: bool, window: int = 0) -> Call:
    """What JAX's own primitive lowers to, given the same operands in the same order."""
    theirs = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    options = {"scale": 1.0, "seed": 0, "dropout_rate": 0.0, "sliding_window_length": window}
    options["layout"] = theirs.AttentionLayout.BTNH.value
    options["variadic_args"] = (not packed, False)  # has a bias, wants no gradient of it
    options["mask_type"] = theirs.MaskType.PADDING_CAUSAL if packed else theirs.MaskType.CAUSAL
    # jax 0.12 has a function of the scores, `score_mod`, which its lowering wants named even where there is none.
    wanted = inspect.signature(theirs._dot_product_attention_fwd_cuda_lowering).parameters
    options.update({name: None for name in ("score_mod_name", "score_mod_jaxpr") if name in wanted})

    def bind(*given):
        q, k, v, *rest = given
        stats, d_out = (rest.pop(0), rest.pop(0)) if backward else (None, None)
        bias = jnp.zeros(0, jnp.bfloat16) if packed else rest.pop(0)
        out = rest.pop(0) if backward else None
        empty = jnp.zeros(0, jnp.int32)
        # M is read from the second dimension of the places: B x (M + 1).
        starts = jnp.zeros((B, M + 1), jnp.int32) if packed else empty
        where = (rest[0], rest[0], starts, starts) if packed else (empty,) * 4
        if backward:
            return theirs._dot_product_attention_bwd_p.bind(
                q, k, v, bias, *where, empty, empty, stats, out, d_out, **options
            )
        return theirs._dot_product_attention_fwd_p.bind(
            q, k, v, bias, *where, empty, empty, is_training=True, **options
        )

    (call,) = calls(bind, *operands(N, K, packed, backward))
    return call


def our_call(N: int, K: int, packed: bool, backward: bool, window: int = 0) -> Call:
    """Through the rules of differentiation, so that the order is the one that training gets."""

    def run(*given):
        q, k, v, *rest = given
        starts = jnp.zeros(B * M + 1, jnp.int32)
        if not backward and packed:
            return cudnn.packed_forward(q, k, v, starts, rest[0], M, window, "saved")[0]
        if not backward:
            return cudnn.masked_forward(q, k, v, rest[0], "saved")[0]
        stats, d_out, *rest = rest
        if packed:
            out, lengths = rest
            by_token = stats.reshape(-1, N)[: B * T]
            residuals = (q, k, v, starts, lengths, out, by_token)
            return cudnn.packed_backward(M, window, "saved", residuals, d_out)[:3]
        bias, out = rest
        return cudnn.masked_backward("saved", (q, k, v, bias, out, stats), d_out)[:3]

    (call,) = calls(run, *operands(N, K, packed, backward))
    return call


def stated(config: Any) -> Any:
    """A message without its empty fields, which a reader takes for their defaults."""
    if isinstance(config, dict):
        return {name: stated(value) for name, value in config.items() if value not in EMPTY}
    return config


EMPTY: tuple[Any, ...] = ([], {}, "0", "PRIMITIVE_TYPE_INVALID")


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("packed", "window"), [(True, 0), (True, 9), (False, 0)], ids=["packed", "window", "masked"])
@pytest.mark.parametrize(("N", "K"), HEADS)
def test_a_call_is_the_one_that_jax_lowers_to(N: int, K: int, packed: bool, window: int, backward: bool):
    """The target, the order, types and layouts of what goes in and out, and the description."""
    ours, theirs = (make(N, K, packed, backward, window) for make in (our_call, jax_call))
    assert ours.target == theirs.target
    arguments = [name for name in theirs.operands if name.startswith("%arg")]
    assert len(set(arguments)) == len(operands(N, K, packed, backward))
    places = 2 if packed else 0  # the last two, made inside of the function by both
    end = len(ours.operands) - places
    assert theirs.operands[:end] == arguments
    # Where the backward pass takes the log-sum-exps, ours are made of those of the tokens.
    made = [3] if packed and backward else []
    given = [place for place in range(end) if place not in made]
    assert [ours.operands[place] for place in given] == [arguments[place] for place in given]
    assert ours.operand_types[:end] == theirs.operand_types[:end]
    # One place more than there are documents; theirs has B more, filled with the end of the batch.
    assert ours.operand_types[end:] == [f"tensor<{B * M + 1}xi32>"] * places
    assert theirs.operand_types[end:] == [f"tensor<{B}x{M + 1}xi32>"] * places
    assert ours.result_types == theirs.result_types
    assert ours.result_layouts == theirs.result_layouts
    assert ours.operand_layouts[:end] == theirs.operand_layouts[:end]
    assert stated(ours.config) == stated(theirs.config)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "masked"])
def test_the_backward_pass_gets_what_the_forward_pass_left(packed: bool):
    """Through jax.vjp: stats and out are results of the forward call, in the places that JAX gives them."""
    q, k = shape(B, T, 4, H), shape(B, T, 2, H)
    extra = [integers(B * M + 1), integers(B * M)] if packed else [shape(B, 1, T, T)]

    def grads(q, k, v, d_out, *extra):
        if packed:
            return jax.vjp(lambda q, k, v: cudnn.attend_packed(q, k, v, *extra, M, 9, "saved"), q, k, v)[1](d_out)
        return jax.vjp(lambda q, k, v: cudnn.attend_masked(q, k, v, *extra, "saved"), q, k, v)[1](d_out)

    forward, backward = calls(grads, q, k, k, q, *extra)
    theirs = jax_call(4, 2, packed, True)
    assert forward.target + "Backward" == backward.target
    windows = {call.config.get("sliding_window_length", 0) for call in (forward, backward)}
    assert windows == {9 if packed else 0}
    assert backward.operands[:3] == forward.operands[:3] == ["%arg0", "%arg1", "%arg2"]
    assert backward.operands[4] == "%arg3"  # the gradient of the output
    if not packed:
        assert backward.operands[3].endswith("#1")  # of the forward call's results: its stats
    assert backward.operand_types[:6] == theirs.operand_types[:6]
