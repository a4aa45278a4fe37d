"""Models whose layers are of several kinds: scans, meshes, remat and caches compute what a plain loop computes."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, MeshConfig, TrainConfig
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.distributed.sharding import BATCH_AXES, check_model_divides, make_mesh, parallel_of, specs_of
from asclepius_jax.model.attention import Kernel, Scores, packed_mask
from asclepius_jax.model.decoder import Inputs, Params, Rows, build, init_params
from asclepius_jax.model.layer_scan import REMAT_POLICIES
from asclepius_jax.model.rope import angles_by_kind, query_factor
from asclepius_jax.model.sizes import LONGEST_PERIOD, DecoderConfig, stretches_of
from asclepius_jax.plan.compile import compile_step
from asclepius_jax.train.choose_kernel import choose_kernel
from asclepius_jax.train.step import ROW_AXES, accumulate, axes_beside, shard_map, sum_over
from tests.helpers.made_inputs import cache_for

KINDS = ("full", "window", "full_nope", "window_nope")
ROWS, LENGTH, WINDOW = 4, 24, 5


def config(kinds: tuple[str, ...], **features: Any) -> DecoderConfig:
    """57 vocabulary entries and 7 of padding, so that with four tensor devices the last has padding and others none."""
    sizes: Any = {"num_heads": 8, "num_kv_heads": 4, "head_dim": 8, "max_length": LENGTH, "window": WINDOW}
    sizes |= {"vocab_padding": 7, "layer_kinds": kinds, **features}
    return DecoderConfig(57, 16, 32, len(kinds), **sizes)


# Periods of two, three and six layers, and layers that are left after the last.
PAIRS = config(
    ("window", "full") * 2 + ("window",), qk_norm="head", post_norm=True, unit_offset=True, score_cap=2.0,
    logit_cap=3.0, tie_embeddings=True, embedding_scale=4.0, activation="gelu_tanh", query_scale=0.3,
    query_growth=0.5, query_period=4,
)  # fmt: skip
TRIPLES = config(
    ("window", "window_nope", "full_nope") * 2, qk_norm="whole", pre_norm=False, post_norm=True,
    qkv_bias=True, out_bias=True, mlp_bias=True, rotary_fraction=0.5, residual_scale=0.5,
    window_rope_theta=100.0, activation="xielu", gated=False, query_growth=0.5, query_period=3,
)  # fmt: skip
SIXES = config((("window",) * 5 + ("full",)) * 2 + ("window",) * 2, qk_norm="head", window_rope_theta=100.0)
ALL = {"pairs": PAIRS, "triples": TRIPLES, "sixes": SIXES}


@functools.cache
def params_of(model: DecoderConfig) -> Params:
    """Parameters far from their initial values: norms, biases and padded rows that could be left out are not."""
    random = np.random.default_rng(0)
    shapes = build(model).shapes
    return jax.tree.map(lambda x: np.float32(0.5 + 0.2 * random.normal(size=x.shape) if x.ndim < 3 else
                                             0.2 * random.normal(size=x.shape)), shapes)  # fmt: skip


@functools.cache
def batch() -> dict[str, np.ndarray]:
    """Rows of documents of several lengths, most longer than a window, and padding."""
    random = np.random.default_rng(1)
    tokens, targets = random.integers(0, 57, (2, ROWS, LENGTH), dtype=np.int32)
    segments, positions = np.zeros((2, ROWS, LENGTH), np.int32)
    for row, lengths in enumerate([[9, 1, 12], [24], [3, 20], [12, 12]]):
        start = 0
        for number, length in enumerate(lengths, 1):
            segments[row, start : start + length] = number
            positions[row, start : start + length] = np.arange(length)
            start += length
    weights = (segments > 0) * random.random((ROWS, LENGTH))
    return {"tokens": tokens, "positions": positions, "segments": segments, "targets": targets,
            "weights": np.float32(weights)}  # fmt: skip


def inputs() -> Inputs:
    return Inputs(*(jnp.asarray(batch()[name]) for name in ("tokens", "positions", "segments")))


def assert_near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max()
        assert np.abs(np.asarray(one) - other).max() <= tolerance * scale, (jax.tree_util.keystr(path), scale)


# ---------------------------------------------------------------- the scan


@pytest.mark.parametrize("name", ["pairs", "triples", pytest.param("sixes", marks=pytest.mark.slow)])
def test_the_scan_computes_what_a_loop_over_layers_computes(name: str):
    model, params = ALL[name], params_of(ALL[name])
    decoder = build(model).merge(params)
    graphdef, blocks = nnx.split(decoder.blocks)
    _, positions_BT, segments_BT = inputs()
    cos_sin, factor = angles_by_kind(positions_BT, model), query_factor(positions_BT, model)

    @functools.partial(jax.jit, static_argnums=0)
    def one_layer(kind: str, block: Any, x_BTD: jax.Array) -> jax.Array:
        window = WINDOW if kind.startswith("window") else None
        mask_BTS = packed_mask(segments_BT, window)
        rows = Rows(Kernel(), positions_BT, mask_BTS, Scores(window, model.score_cap), cos_sin[kind], factor)
        assert (cos_sin[kind] is None) == kind.endswith("nope")
        return nnx.merge(graphdef, block)(x_BTD, rows)[0]

    x_BTD = decoder.embed_VD[...][inputs().tokens_BT] * model.embedding_scale
    for layer, kind in enumerate(model.layer_kinds):
        x_BTD = one_layer(kind, jax.tree.map(lambda a: a[layer], blocks), x_BTD)  # noqa: B023
    found = jax.jit(lambda params: build(model).merge(params).hidden(inputs(), "float32"))(params)
    assert_near(found, x_BTD)


def test_what_is_behind_a_window_is_not_seen_and_what_is_in_it_is():
    """Three layers of windows of five: a token reaches the twelve after it, and no further."""
    model = config(("window",) * 3)
    run = jax.jit(lambda tokens: build(model).merge(params_of(model)).hidden(Inputs(tokens, *rest), "float32"))
    rest = jnp.arange(LENGTH)[None], jnp.ones((1, LENGTH), jnp.int32)
    tokens = jnp.arange(LENGTH)[None]
    changed = np.abs(run(tokens.at[0, 2].set(50)) - run(tokens)).max((0, 2)) > 0
    assert np.flatnonzero(changed).tolist() == list(range(2, 2 + 3 * (WINDOW - 1) + 1))


def runs_of(kinds: tuple[str, ...]) -> int:
    return sum(1 for _ in itertools.groupby(kinds))


def test_stretches_hold_every_layer_once_and_in_order():
    random = np.random.default_rng(2)
    for _ in range(300):
        pattern = random.choice(KINDS, random.integers(1, 8))
        kinds = tuple(np.resize(pattern, random.integers(1, 60)).tolist())
        if random.random() < 0.5:
            kinds += tuple(random.choice(KINDS, random.integers(1, 5)).tolist())
        stretches = stretches_of(kinds)
        assert sum((pattern * repeats for _, pattern, repeats in stretches), ()) == kinds
        assert [s.start for s in stretches] == np.cumsum([0, *(s.num_layers for s in stretches)])[:-1].tolist()
        assert all(len(pattern) <= LONGEST_PERIOD for _, pattern, _ in stretches)
        assert sum(runs_of(pattern) for _, pattern, _ in stretches) <= runs_of(kinds)


@pytest.mark.parametrize(
    ("kinds", "shapes"),
    [
        (("full",) * 32, [(1, 32)]),
        (("window", "full") * 13, [(2, 13)]),
        ((("window",) * 5 + ("full",)) * 10 + ("window",) * 2, [(6, 10), (1, 2)]),
        (("full",) + ("window",) * 31, [(1, 1), (1, 31)]),
        (("window", "full") * 3 + ("full",) * 9, [(2, 3), (1, 9)]),
    ],
)
def test_as_few_layers_as_possible_are_compiled(kinds: tuple[str, ...], shapes: list[tuple[int, int]]):
    assert [(len(s.pattern), s.repeats) for s in stretches_of(kinds)] == shapes


# ---------------------------------------------------------------- meshes


@functools.cache
def loss_and_grads(model: DecoderConfig, mesh_shape: tuple[int, int, int], remat: str) -> tuple[float, Any]:
    """Weighted sum of the loss and its gradients on a mesh of fsdp x tensor x context devices, as in a step."""
    mesh = make_mesh(MeshConfig(1, *mesh_shape), jax.devices()[: math.prod(mesh_shape)])
    check_model_divides(mesh, model)
    made, specs, rows = build(model), specs_of(build(model).axes), PartitionSpec(BATCH_AXES, "context")

    def local(params: Params, batch: dict[str, jax.Array]) -> Any:
        given = Inputs(batch["tokens"], batch["positions"], batch["segments"])

        def loss(params: Params) -> jax.Array:
            return made.merge(params).losses(
                given, batch["targets"], batch["weights"], "float32", remat, Kernel(), parallel_of(mesh, "float32")
            )[0]

        value, grads = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(lambda grad, spec: sum_over(grad, axes_beside(mesh, spec)), grads, specs)
        return jax.lax.psum(value, ROW_AXES), grads

    spread = shard_map(local, mesh, (specs, rows), (PartitionSpec(), specs))
    value, grads = jax.device_get(jax.jit(spread)(params_of(model), batch()))
    return float(value), grads


ONE = (1, 1, 1)
MESHES = [(2, 2, 2), (2, 2, 1), (1, 1, 2), (1, 4, 1)]
QUICK = [("triples", (2, 2, 2)), ("pairs", (1, 4, 1))]  # seconds each
LATER = [(name, mesh) for name in ALL for mesh in MESHES if (name, mesh) not in QUICK]


@pytest.mark.parametrize(
    ("name", "mesh_shape"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in LATER)],
)
def test_meshes_change_neither_loss_nor_gradients(name: str, mesh_shape: tuple[int, int, int]):
    loss, grads = loss_and_grads(ALL[name], mesh_shape, "full")
    expected_loss, expected = loss_and_grads(ALL[name], ONE, "full")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_near(grads, expected, 2e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_microbatches_add_up_to_those_of_all_rows(name: str):
    model = ALL[name]

    def loss(params: Params, rows: dict[str, jax.Array]) -> tuple[jax.Array, tuple[()]]:
        given = Inputs(rows["tokens"], rows["positions"], rows["segments"])
        weights_BT = jnp.ones(given.tokens_BT.shape)
        return build(model).merge(params).losses(given, rows["targets"], weights_BT, "float32", "full", Kernel())[0], ()

    sums = jax.jit(accumulate, static_argnums=(0, 3))
    rows = {name: jnp.asarray(batch()[name]) for name in ("tokens", "positions", "segments", "targets")}
    (whole, _), expected = sums(loss, params_of(model), rows, 1)
    (parts, _), found = sums(loss, params_of(model), rows, 2)
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)
    assert_near(found, expected)


@pytest.mark.parametrize("name", ["pairs", "triples"])
def test_padded_rows_get_no_gradient_and_all_else_gets_some(name: str):
    _, grads = loss_and_grads(ALL[name], ONE, "full")
    tables = [grads["embed_VD"]] + ([] if ALL[name].tie_embeddings else [grads["head_DV"].T])
    for table in tables:
        assert not table[57:].any()
        assert table[:57].any()
    for path, grad in jax.tree.leaves_with_path(grads):
        constant = path[-1].key in ("beta", "eps")  # xIELU's are no parameters
        assert np.abs(grad).reshape(len(grad), -1).max(1).min() > 0 or "embed" in str(path) or constant, path


@pytest.mark.parametrize(
    "remat",
    ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in REMAT_POLICIES if name not in ("none", "full"))],
)
def test_remat_changes_no_gradient_of_layers_in_patterns(remat: str):
    (loss, grads), (expected_loss, expected) = (loss_and_grads(PAIRS, ONE, name) for name in (remat, "none"))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_near(grads, expected, 1e-5)


@pytest.mark.parametrize(
    ("kinds", "barriers"), [(("full",) * 4, 0), (("window", "full") * 2, 2), (("full",) * 2 + ("window",), 1)]
)
def test_layers_that_share_the_body_of_a_loop_are_recomputed_one_at_a_time(kinds: tuple[str, ...], barriers: int):
    """A barrier before each: XLA may otherwise recompute all first, or nothing, and keep what remat should free."""
    made = build(config(kinds))

    def total(params: Params) -> jax.Array:
        return made.merge(params).hidden(inputs(), "float32", "full").sum()

    program = jax.jit(jax.grad(total)).lower(made.shapes).as_text()
    assert program.count("stablehlo.optimization_barrier") == barriers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "module", "calls"),
    [
        ("v5e-4", "libtpu", (" %splash_mha_fwd_segmented_residuals", " %splash_mha_dkv_segmented_no_residuals")),
        ("h100-1", "jax_cuda13_plugin", ('"__cudnn$fmhaSoftmax"', '"__cudnn$fmhaSoftmaxBackward"')),
        (
            "a100-80g-1",
            "jax_cuda13_plugin",
            ('"__cudnn$fmhaScaleBiasSoftmax"', '"__cudnn$fmhaScaleBiasSoftmaxBackward"'),
        ),
    ],
)
def test_a_step_of_two_kinds_of_layers_compiles_for_accelerators(machine: str, module: str, calls: tuple[str, str]):
    """With a kernel of its own for each kind: forward once, as its output is saved, and backward."""
    pytest.importorskip(module, reason="the extra `plan` is not installed")
    topology = parse_topology(machine)
    mesh = make_mesh(MeshConfig(), compile_devices(topology))
    model = DecoderConfig(
        1001, 256, 512, 6, 4, 2, head_dim=64, max_length=512, window=200, layer_kinds=("window", "full") * 3,
        score_cap=50.0 if module == "libtpu" else None, logit_cap=30.0, vocab_padding=23, qk_norm="head",
        post_norm=True,
    )  # fmt: skip
    settings = TrainConfig(
        data=DataConfig(row_length=512),
        batch=BatchConfig(2 * topology.count, 1),
        compute=ComputeConfig(remat="attention"),
    )
    kernel = choose_kernel(settings, mesh, model)
    compiled, refusal = compile_step(settings, build(model), mesh, kernel, 100)
    assert not refusal
    lines = [line for line in compiled.as_text().splitlines() if "custom-call(" in line]
    assert [sum(call in line for line in lines) for call in calls] == [2, 2]
    if kernel.name == "cudnn_packed":
        windows = [re.findall(r'"sliding_window_length": (\d+)', line)[0] for line in lines if "fmha" in line]
        assert sorted(windows) == ["0", "0", "200", "200"]


# ---------------------------------------------------------------- generation and sizes


@pytest.mark.parametrize("name", ["pairs", pytest.param("triples", marks=pytest.mark.slow)])
def test_decoding_token_by_token_gives_the_logits_of_the_whole_text(name: str):
    model, params = ALL[name], params_of(ALL[name])
    tokens = np.random.default_rng(3).integers(0, 57, (2, LENGTH))
    positions = np.broadcast_to(np.arange(LENGTH), (2, LENGTH))
    whole = jax.jit(lambda params: build(model).merge(params)(tokens, positions, positions * 0 + 1, "float32"))(params)
    assert whole.shape == (2, LENGTH, 57)

    @jax.jit
    def step(params: Params, tokens_B1: jax.Array, positions_B1: jax.Array, cache: Any) -> Any:
        decoder = build(model).merge(params)
        x_B1D, cache = decoder.decode(tokens_B1, positions_B1, cache, "float32")
        return decoder.logits(x_B1D), cache

    cache = cache_for(model, 2, LENGTH + 3)
    for t in range(LENGTH):
        logits, cache = step(params, tokens[:, t : t + 1], positions[:, t : t + 1], cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=1e-5 * np.abs(whole).max())


def test_the_number_of_parameters_is_that_of_the_arrays_without_padding():
    random = np.random.default_rng(4)
    for _ in range(12):
        features: dict[str, Any] = {
            name: bool(random.integers(2))
            for name in ("qkv_bias", "out_bias", "mlp_bias", "pre_norm", "post_norm", "gated", "tie_embeddings")
        }
        features["qk_norm"] = str(random.choice(["none", "head", "whole"]))
        features["activation"] = str(random.choice(["silu", "gelu", "xielu"]))
        model = config(tuple(random.choice(KINDS, 3).tolist()), **features)
        padding = 7 * model.embed_dim * (1 if model.tie_embeddings else 2)
        sizes = sum(shape.size for shape in jax.tree.leaves(build(model).shapes))
        assert sizes - padding == model.num_params, features


def test_padded_rows_begin_as_zeros_and_others_do_not():
    params = jax.jit(lambda: init_params(TRIPLES, 0))()
    for table in (params["embed_VD"], params["head_DV"].T):
        assert not table[57:].any()
        assert np.abs(table[:57]).max(1).min() > 0
