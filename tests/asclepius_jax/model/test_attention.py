"""Every attention kernel against one document at a time in float64: outputs and gradients."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.model.attention import PLAIN_SCORES, Kernel, Scores, attend, prepare
from asclepius_jax.model.kernels import cudnn, splash
from asclepius_jax.plan.preflight.float64_reference import reference, runs_of

# Rows of documents' lengths; what is left is padding. Two documents in one block, one over several, one token alone.
ROWS = {
    37: [[5, 1, 20], [37], [12, 12]],
    128: [[100, 28], [1, 126], [64]],
    256: [[200, 40], [127, 2, 127], [1, 255]],
    384: [[130, 200, 3], [384], [127, 1, 128, 100]],
}
HEADS = [(4, 4), (4, 2), (4, 1)]
# A sum of products in bfloat16 inputs is exact to float32, and rounds once at the end, as do the probabilities:
# 2**-9 each, of the largest value that takes part.
TOLERANCE = {"float32": 3e-6, "bfloat16": 3 * 2**-8}


def segments(row_length: int) -> np.ndarray:
    rows = []
    for lengths in ROWS[row_length]:
        ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        rows.append(np.pad(ids, (0, row_length - len(ids))))
    rows.append(np.zeros(row_length, np.int64))  # a row of padding alone, as in the last batch of an evaluation
    return np.stack(rows).astype(np.int32)


def inputs(row_length: int, N: int, K: int, H: int, dtype: str) -> tuple[Any, ...]:
    """q, k, v and the gradient of the output, as the kernel gets them: rounded to `dtype`."""
    random = np.random.default_rng(row_length + N + K)
    shape = (len(ROWS[row_length]) + 1, row_length)
    made = [random.normal(size=(*shape, heads, H)) for heads in (N, K, K, N)]
    made[0] *= H**-0.5
    return tuple(jnp.asarray(x, dtype) for x in made)


def check(kernel: Kernel, row_length: int, N: int, K: int, H: int, dtype: str, scores: Scores = PLAIN_SCORES) -> None:
    q, k, v, d_out = inputs(row_length, N, K, H, dtype)
    segments_BT = segments(row_length)

    def run(q, k, v):
        return attend(kernel, q, k, v, prepare(kernel, jnp.asarray(segments_BT), scores.window), scores)

    @jax.jit
    def run_and_pull(q, k, v, d_out):
        out, pull = jax.vjp(run, q, k, v)
        return out, pull(d_out)

    out, grads = run_and_pull(q, k, v, d_out)
    expected_out, expected_grads = reference(q, k, v, segments_BT, d_out, scores)
    assert out.dtype == q.dtype
    for name, ours, theirs in zip("o q k v".split(), (out, *grads), (expected_out, *expected_grads), strict=True):
        error = np.abs(np.asarray(ours, np.float64) - theirs).max()
        # In a window of one token, q and k have no gradient but the rounding of two equal products of d_out and v.
        scale = np.abs(theirs).max() or np.abs(d_out).max() * np.abs(v).max()
        assert error <= TOLERANCE[dtype] * scale, (name, error, scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("N", "K"), HEADS)
@pytest.mark.parametrize("row_length", [37, 128])
def test_plain(row_length: int, N: int, K: int, dtype: str):
    check(Kernel("xla"), row_length, N, K, 16, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("row_length", "N", "K", "H"), [(128, 2, 2, 128), (256, 2, 1, 64), (384, 4, 2, 64)])
def test_splash(row_length: int, N: int, K: int, H: int, dtype: str):
    check(Kernel("splash", interpret=True), row_length, N, K, H, dtype)


# Of one token, within documents, as long as one, longer than most, all but one token of a row, a row, and more.
@pytest.mark.parametrize("window", [1, 2, 5, 20, 36, 37, 50])
def test_plain_in_a_window(window: int):
    check(Kernel("xla"), 37, 4, 2, 16, "float32", Scores(window))


# Scores have a standard deviation of 1. The second cap changes little of them, as those of real models do.
@pytest.mark.parametrize("scores", [Scores(None, 0.7), Scores(None, 30.0), Scores(9, 0.7)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_with_capped_scores(dtype: str, scores: Scores):
    check(Kernel("xla"), 37, 4, 2, 16, dtype, scores)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of 128, so that rows have several, some of which are beyond a window."""
    sizes = splash.block_sizes(128, 64)
    monkeypatch.setattr(splash, "block_sizes", lambda *_: sizes)


LATER = [Scores(100), Scores(128), Scores(383), Scores(384), Scores(999), Scores(None, 0.7)]


@pytest.mark.parametrize(
    "scores",
    [Scores(1), Scores(129), Scores(130, 0.7)] + [pytest.param(scores, marks=pytest.mark.slow) for scores in LATER],
)
def test_splash_in_a_window_and_with_capped_scores(small_blocks, scores: Scores):
    check(Kernel("splash", interpret=True), 384, 2, 1, 64, "float32", scores)


@pytest.mark.slow
def test_splash_in_bfloat16_in_a_window():
    check(Kernel("splash", interpret=True), 256, 2, 1, 64, "bfloat16", Scores(70, 0.7))


def test_a_query_sees_itself_and_the_tokens_before_it_window_in_all():
    """By values that name their position: the mean over what is seen, of scores that are all alike."""
    T, window = 6, 3
    q, k = jnp.zeros((1, T, 1, 8)), jnp.ones((1, T, 1, 8))
    v = jnp.broadcast_to(jnp.arange(T, dtype=jnp.float32)[None, :, None, None], (1, T, 1, 8))
    kernel, segments_BT = Kernel(), jnp.array([[1, 1, 1, 1, 2, 2]])
    out = attend(kernel, q, k, v, prepare(kernel, segments_BT, window), Scores(window))
    np.testing.assert_allclose(out[0, :, 0, 0], [0, 0.5, 1, 2, 4, 4.5], rtol=1e-6)


@pytest.mark.parametrize("row_length", [128, 384, 2048, 8192, 640, 1152])
def test_blocks_of_splash_divide_the_row(row_length: int):
    sizes = splash.block_sizes(row_length, 128)
    for block in (sizes.block_q, sizes.block_kv, sizes.block_q_dkv, sizes.block_kv_dkv):
        assert row_length % block == 0
    assert sizes.block_kv % sizes.block_kv_compute == 0
    assert sizes.block_kv_dkv % sizes.block_kv_dkv_compute == 0
    assert splash.fits(row_length)
    assert not splash.fits(row_length + 8)


# ---------------------------------------------------------------- cuDNN, which no machine without a GPU can run


class Emulated:
    """What cuDNN does with its operands, on flat memory: where it is told wrong places, it reads and writes them."""

    def __init__(self, target: str, results: Any, **options: Any):
        config = json.loads(options["legacy_backend_config"])["cudnn_fmha_backend_config"]
        assert config["fmha_scale"] == 1.0
        assert options["custom_call_api_version"] == 2
        self.target, self.results, self.options = target, results, options
        self.max_segments = config["max_seg_per_batch"]
        self.window = config["sliding_window_length"]
        assert config["mask_type"] == ("PADDING_CAUSAL" if self.max_segments > 1 else "CAUSAL")

    def __call__(self, *operands: Any) -> Any:
        # Heads are named outside of positions and lie inside.
        assert self.options["output_layouts"][0] == (0, 2, 1, 3)
        shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in self.results]
        return jax.pure_callback(self.run, shapes, *operands)

    def run(self, *operands: Any) -> Any:
        backward = self.target.endswith("Backward")
        q, k, v = (np.asarray(x, np.float64) for x in operands[:3])
        rest = list(map(np.asarray, operands[3:]))
        # (q, k, v, stats, d_out, bias?, out, lengths..., places...) or (q, k, v, bias?, lengths..., places...)
        d_out = rest.pop(1).astype(np.float64) if backward else np.zeros_like(q)
        stats = rest.pop(0) if backward else None
        biased = "Bias" in self.target
        bias = np.asarray(rest.pop(0), np.float64) if biased else None
        if backward:
            rest.pop(0)  # out
        results = [np.full(q.size, np.nan), np.full(k.size, np.nan), np.full(v.size, np.nan), np.full(q.size, np.nan)]
        if biased:
            assert bias is not None
            self.masked(q, k, v, d_out, bias, results)
        else:
            stats = self.packed(q, k, v, d_out, rest, results, stats)
        dq, dk, dv, out = results
        heads_out = [x.reshape(like.shape).swapaxes(1, 2) for x, like in ((dq, q), (dk, k), (dv, v), (out, q))]
        made = heads_out[:3] if backward else [heads_out[3], np.zeros(self.results[1].shape) if biased else stats]
        made.append(np.zeros(0))
        return [x.astype(each.dtype) for x, each in zip(made, self.results, strict=True)]

    def packed(self, q, k, v, d_out, rest, results, stats) -> Any:
        """Log-sum-exps of every document that there might be. The backward pass gets those of the forward pass, and
        elsewhere what makes a probability 0; what the forward pass leaves unwritten must not come back."""
        q_lengths, k_lengths, q_places, k_places = rest
        B, _, N, H = q.shape
        K = k.shape[2]
        assert q_lengths.shape == k_lengths.shape == (B * self.max_segments,)
        assert q_places.shape == k_places.shape == (B * self.max_segments + 1,)
        flat = [x.ravel() for x in (q, k, v, d_out)]
        dq, dk, dv, out = results
        log_sums = np.full((B * self.max_segments, N, q.shape[1]), np.nan if stats is None else np.inf)
        for i, length in enumerate(q_lengths):
            assert length == k_lengths[i]
            if length == 0:
                continue
            at_q = slice(q_places[i], q_places[i] + length * N * H)
            at_k = slice(k_places[i], k_places[i] + length * K * H)
            views = [x[at].reshape(1, length, -1, H) for x, at in zip(flat, (at_q, at_k, at_k, at_q), strict=True)]
            scores = Scores(self.window or None)
            one, grads = reference(*views[:3], np.ones((1, length), np.int64), views[3], scores)
            out[at_q], dq[at_q], dk[at_k], dv[at_k] = (x.ravel() for x in (one, *grads))
            log_sums[i, :, :length] = log_sums_of(*views[:2], scores)[0]
        if stats is not None:
            np.testing.assert_allclose(stats, log_sums, rtol=1e-4, atol=1e-4)
        return log_sums

    def masked(self, q, k, v, d_out, bias, results) -> None:
        B, T, N, _ = q.shape
        assert bias.shape == (B, 1, T, T)
        assert self.window == 0, "beside a bias, older versions of cuDNN take no window"
        # A bias far below zero hides a key; one that is not would be added.
        assert set(np.unique(bias)) <= {0.0, cudnn.MASKED}
        groups = N // k.shape[2]
        k, v = np.repeat(k, groups, axis=2), np.repeat(v, groups, axis=2)
        scores = np.einsum("BTNH,BSNH->BNTS", q, k)
        scores = np.where(np.tri(T, dtype=bool) & (bias == 0), scores, -np.inf)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        d_probs = np.einsum("BTNH,BSNH->BNTS", d_out, v)
        d_scores = probs * (d_probs - (d_probs * probs).sum(-1, keepdims=True))
        dk, dv = (np.einsum("BNTS,BTNH->BSNH", d, x) for d, x in ((d_scores, q), (probs, d_out)))
        dk, dv = (x.reshape(B, T, -1, groups, x.shape[-1]).sum(3) for x in (dk, dv))
        dq, out = (np.einsum("BNTS,BSNH->BTNH", p, x) for p, x in ((d_scores, k), (probs, v)))
        for into, x in zip(results, (dq, dk, dv, out), strict=True):
            into[:] = x.ravel()


def log_sums_of(q: np.ndarray, k: np.ndarray, scores: Scores) -> np.ndarray:
    """Log-sum-exps (B, N, T) of the scores that a causal window leaves."""
    T = q.shape[1]
    products = np.einsum("BTNH,BSNH->BNTS", q, np.repeat(k, q.shape[2] // k.shape[2], axis=2))
    seen = np.tri(T, dtype=bool) & ~np.tri(T, k=-(scores.window or T), dtype=bool)
    return np.log(np.sum(np.exp(products, where=seen, out=np.zeros_like(products)), axis=-1))


@pytest.fixture
def emulated(monkeypatch) -> None:
    monkeypatch.setattr(jax.ffi, "ffi_call", Emulated)


@pytest.mark.parametrize(("N", "K"), HEADS)
@pytest.mark.parametrize("row_length", [37, 128])
def test_cudnn_packed_finds_every_document_and_no_other(emulated, row_length: int, N: int, K: int):
    check(Kernel("cudnn_packed", max_segments=8), row_length, N, K, 16, "bfloat16")


def test_cudnn_packed_takes_as_many_documents_as_a_row_has(emulated):
    most = max(len(runs_of(row)) for row in segments(37))
    check(Kernel("cudnn_packed", max_segments=most), 37, 4, 2, 16, "bfloat16")


@pytest.mark.parametrize("row_length", [37, 128])
def test_cudnn_masked_masks_documents(emulated, row_length: int):
    check(Kernel("cudnn_mask"), row_length, 4, 2, 16, "bfloat16")


@pytest.mark.parametrize("window", [1, 5, 36, 50])
@pytest.mark.parametrize("kernel", [Kernel("cudnn_packed", max_segments=8), Kernel("cudnn_mask")], ids=lambda k: k.name)
def test_cudnn_in_a_window(emulated, kernel: Kernel, window: int):
    check(kernel, 37, 4, 2, 16, "bfloat16", Scores(window))


def test_keys_placed_by_the_number_of_query_heads_would_be_seen(emulated, monkeypatch):
    right = cudnn.packed_operands

    def wrong(q, k, starts, lengths):  # as jax 0.10's own wrapper does
        lengths, same, q_places, _ = right(q, k, starts, lengths)
        return lengths, same, q_places, q_places

    monkeypatch.setattr(cudnn, "packed_operands", wrong)
    with pytest.raises((AssertionError, ValueError, jax.errors.JaxRuntimeError)):
        check(Kernel("cudnn_packed", max_segments=8), 37, 4, 2, 16, "bfloat16")


def test_runs_are_documents_in_order_and_end_with_the_batch():
    segments_BT = segments(37)
    starts, lengths = jax.jit(cudnn.runs, static_argnums=1)(segments_BT, 5)
    expected = [
        slice(37 * b + run.start, 37 * b + run.stop) for b, row in enumerate(segments_BT) for run in runs_of(row)
    ]
    assert starts[: len(expected)].tolist() == [run.start for run in expected]
    assert lengths[: len(expected)].tolist() == [run.stop - run.start for run in expected]
    assert (starts[len(expected) :] == segments_BT.size).all()
    assert (lengths[len(expected) :] == 0).all()
    assert len(starts) == len(lengths) + 1 == 5 * len(segments_BT) + 1


def test_rows_full_of_documents_leave_no_place_empty():
    segments_BT = np.array([[1, 1, 2, 3, 3], [1, 2, 2, 2, 0]], np.int32)
    starts, lengths = cudnn.runs(segments_BT, 3)
    assert starts.tolist() == [0, 2, 3, 5, 6, 9, 10]
    assert lengths.tolist() == [2, 1, 2, 1, 3, 1]


@pytest.mark.parametrize(("packed", "window"), [(True, 0), (True, 9), (False, 0)], ids=["packed", "window", "masked"])
def test_the_calls_are_described_as_jax_describes_its_own(packed: bool, window: int):
    """Same targets, same attributes as JAX's private wrapper; operands and layouts are in test_cudnn_lowering.py."""
    theirs = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    B, T, N, K, H, M = 2, 64, 4, 2, 32, 3
    config = theirs.create_dot_product_attention_backend_config
    q = jax.ShapeDtypeStruct((B, T, N, H), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((B, T, K, H), jnp.bfloat16)
    kind = theirs.MaskType.PADDING_CAUSAL if packed else theirs.MaskType.CAUSAL
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    for products, is_backward in ((cudnn.FORWARD_PRODUCTS, False), (cudnn.BACKWARD_PRODUCTS, True)):
        with mlir.make_ir_context(), ir.Location.unknown():
            element = ir.BF16Type.get()
            layout = theirs.AttentionLayout.BTNH.value
            expected = json.loads(
                config(
                    B, N, T, T, element, 1.0, 0, 0.0, kind, layout, window or None, M if packed else 1, False,
                    is_backward,
                )
            )  # fmt: skip
        ours = json.loads(cudnn.backend_config(q, k, M if packed else 1, products, window))
        assert_within(ours, expected)
    for is_backward in (False, True):
        name = theirs.get_custom_call_name(not packed, False, is_backward)
        kind_of_ours = ("Softmax" if packed else "ScaleBiasSoftmax") + ("Backward" if is_backward else "")
        assert name == f"__cudnn$fmha{kind_of_ours}"


def assert_within(ours: Any, theirs: Any) -> None:
    """What is stated here is stated there; what is not is empty there."""
    if isinstance(ours, dict):
        assert ours.keys() <= theirs.keys(), ours.keys() - theirs.keys()
        for key, value in theirs.items():
            if key in ours:
                assert_within(ours[key], value)
            else:
                empty = value in ([], {}, "0", "PRIMITIVE_TYPE_INVALID")
                assert empty, f"{key} is {value} there and not stated here"
    else:
        assert ours == theirs
