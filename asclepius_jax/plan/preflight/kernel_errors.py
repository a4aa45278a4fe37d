"""Every kernel that the run will use, forward and backward, on each device against NumPy in float64.

Inputs are rounded to the run's type before both compute with them. Rows are packed with documents of several lengths,
one of them a single token, and padding. Shape suffixes: T position, N query heads, K key/value heads, H head width,
C tokens, D model width, V vocabulary, F columns.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from asclepius_jax.model import attention, output_loss
from asclepius_jax.model.decoder import ALONE
from asclepius_jax.model.kernels import matmul
from asclepius_jax.plan.preflight.float64_reference import loss_reference, product_reference, reference
from asclepius_jax.plan.preflight.records import Measure, Row, Run, name_of
from asclepius_jax.train.step import shard_map

# Largest error of a vector (a token's, or one of a weight's) relative to its norm, or to the root mean square of all
# norms where that is larger. bfloat16 rounds by 2**-9, several times in a backward pass. float32 products are computed
# in TF32 on GPUs and in bfloat16 on TPUs unless JAX's matmul precision is raised.
TOLERANCES = {
    ("bfloat16", "cpu"): 2**-5,
    ("bfloat16", "gpu"): 2**-5,
    ("bfloat16", "tpu"): 2**-5,
    ("float32", "cpu"): 2**-13,
    ("float32", "gpu"): 2**-7,
    ("float32", "tpu"): 2**-5,
}
PARTS = ("forward", "backward")
SMALL_LENGTH, LONGEST_ROW = 256, 4096
SMALL_WIDTH = {"xla": 16}  # of a head; the fused kernels' smallest tiles are wider
CHECKED_VOCABULARY, CHECKED_COLUMNS, CHECKED_TOKENS = 1024, 1024, 64
# Scores and logits are drawn with a standard deviation of about 1, so that a cap of 30 or 50 would change nothing.
MOST_CHECKED_CAP = 2.0


class Case(NamedTuple):
    name: str
    function: Callable[..., Any]  # (inputs) -> (result, gradients)
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]


def measure_kernels(run: Run) -> Measure:
    errors: dict[str, dict[str, list[float]]] = {}
    for case in cases(run):
        errors[case.name] = {}
        for device, results in on_each(run.devices, case).items():
            each = [vector_error(*pair) for pair in zip(results, case.expected, strict=True)]
            errors[case.name][device] = [each[0], max(each[1:])]
    return {"errors": errors}


def cases(run: Run) -> Iterator[Case]:
    model, dtype = run.model.config, run.config.compute.dtype
    length = run.config.data.row_length
    narrow = min(model.head_dim, SMALL_WIDTH.get(run.kernel.name, 64))
    sizes = dict.fromkeys([(min(length, SMALL_LENGTH), narrow), (min(length, LONGEST_ROW), model.head_dim)])
    windows = dict.fromkeys(attention.narrower(model.window_of(kind), length) for kind in model.kinds)
    for (T, H), window in itertools.product(sizes, windows):
        yield attention_case(run, T, H, attention.Scores(window, model.score_cap))
    D, used = model.embed_dim, min(model.vocab_size, CHECKED_VOCABULARY)
    # The padding of a vocabulary is zeros; what is checked is that it has no probability.
    V, padded = used + min(model.vocab_padding, CHECKED_VOCABULARY), model.vocab_padding > 0
    axis, cap = 1 if model.tie_embeddings else 0, checked_cap(model.logit_cap)
    # More than a chunk of the loss, so that one is cut and padded.
    yield loss_case(output_loss.CHUNK_TOKENS + 6, D, V, output_loss.Logits(axis, used if padded else None, cap), dtype)
    yield product_case(CHECKED_TOKENS, D, min(model.mlp_dim, CHECKED_COLUMNS), dtype)


def checked_cap(cap: float | None) -> float | None:
    """A cap that the numbers drawn here come near to."""
    return None if cap is None else min(cap, MOST_CHECKED_CAP)


def attention_case(run: Run, T: int, H: int, scores: attention.Scores) -> Case:
    model, kernel, dtype = run.model.config, run.kernel, run.config.compute.dtype
    K = 2 if T <= SMALL_LENGTH else 1
    N = K * min(model.num_heads // model.num_kv_heads, 2)
    q, d_out = drawn((1, T, N, H), dtype, H**-0.5), drawn((1, T, N, H), dtype, seed=1)
    k, v = drawn((1, T, K, H), dtype, seed=2), drawn((1, T, K, H), dtype, seed=3)
    segments = packed_segments(T, max(kernel.max_segments - 1, 1) if kernel.name == "cudnn_packed" else 5)
    scores = attention.Scores(checked_window(scores.window, segments), checked_cap(scores.cap))

    def attend(q: Any, k: Any, v: Any, segments: Any, d_out: Any) -> Any:
        documents = attention.prepare(kernel, segments, scores.window)
        out, pull = jax.vjp(lambda q, k, v: attention.attend(kernel, q, k, v, documents, scores), q, k, v)
        return out, *pull(d_out)

    out, grads = reference(q, k, v, segments, d_out, scores)
    name = f"attention {kernel.name} {dtype}, head width {H}, {T} tokens"
    name += f", window {scores.window}" if scores.window else ""
    name += ", capped" if scores.cap else ""
    return Case(name, attend, (q, k, v, segments, d_out), (out, *grads))


def checked_window(window: int | None, segments_BT: np.ndarray) -> int | None:
    """The window, or, where no document is longer, half of the longest document, so that it hides something."""
    longest = int(np.bincount(segments_BT.ravel()).max())
    return window if window is None or window < longest else max(longest // 2, 1)


def packed_segments(T: int, documents: int) -> np.ndarray:
    """(1, T): at most so many documents, the second of one token, and padding."""
    used = T - max(T // 16, 1)
    shares = np.array([0.4, 0.0, 0.3, 0.2, 0.1][:documents])
    lengths = np.maximum((shares / shares.sum() * used).astype(int), 1)
    lengths[0] += used - lengths.sum()
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(ids, (0, T - used))[None].astype(np.int32)


def loss_case(C: int, D: int, V: int, logits: output_loss.Logits, dtype: str) -> Case:
    x_CD = drawn((C, D), dtype)
    head_DV = drawn((D, V), dtype, D**-0.5, seed=1).astype(np.float32)
    targets_C = np.random.default_rng(2).integers(0, logits.vocab_size or V, C).astype(np.int32)
    weights_C = (np.random.default_rng(3).random(C) < 0.7).astype(np.float32)

    def loss(x_CD: Any, head_DV: Any, targets_C: Any, weights_C: Any) -> Any:
        def summed(x_CD: Any, head_DV: Any) -> Any:
            head = head_DV if logits.axis == 0 else head_DV.T
            return output_loss.loss_sum(x_CD[None], head, targets_C[None], weights_C[None], ALONE, logits)

        value, grads = jax.value_and_grad(summed, (0, 1))(x_CD, head_DV)
        return value[None], *grads

    inputs = (x_CD, head_DV, targets_C, weights_C)
    name = f"output loss {dtype}, width {D}" + (", capped" if logits.cap else "")
    return Case(name, loss, inputs, loss_reference(*inputs, logits))


def product_case(C: int, D: int, F: int, dtype: str) -> Case:
    inputs = drawn((C, D), dtype), drawn((D, F), dtype, D**-0.5, seed=1), drawn((C, F), dtype, seed=2)

    def product(x_CD: Any, weight_DF: Any, d_out_CF: Any) -> Any:
        out, pull = jax.vjp(lambda x, weight: matmul.product("CD,DF->CF", x, weight), x_CD, weight_DF)
        return out, *pull(d_out_CF)

    return Case(f"product {dtype}, {D} x {F}", product, inputs, product_reference(*inputs))


def drawn(shape: tuple[int, ...], dtype: str, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Normally distributed numbers, rounded to the type."""
    return np.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.dtype(dtype))


def program(devices: list[jax.Device], case: Case) -> Any:
    """The jitted function of a case, all of which each device computes inside shard_map, as in a step."""
    mesh, whole = Mesh(np.array(devices), ("device",)), PartitionSpec()

    def function(*inputs: Any) -> Any:
        return jax.tree.map(lambda x: x[None], case.function(*inputs))

    spread = shard_map(function, mesh, (whole,) * len(case.inputs), PartitionSpec("device"))
    return jax.jit(spread, in_shardings=NamedSharding(mesh, whole))


def on_each(devices: list[jax.Device], case: Case) -> dict[str, list[np.ndarray]]:
    """Results of a case on each device."""
    results = [np.asarray(result) for result in program(devices, case)(*case.inputs)]
    return {name_of(device): [each[i] for each in results] for i, device in enumerate(devices)}


def vector_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a vector along the last axis; infinite for a result that is not finite."""
    if not np.all(np.isfinite(found)):
        return float("inf")
    norms = np.linalg.norm(expected, axis=-1)
    scale = np.maximum(norms, np.sqrt(np.mean(norms**2)))
    return float(np.max(np.linalg.norm(found.astype(np.float64) - expected, axis=-1) / np.maximum(scale, 1e-30)))


def judge_kernels(run: Run, measures: list[Measure]) -> list[Row]:
    limit = TOLERANCES[run.config.compute.dtype, run.platform]
    rows = []
    for case in measures[0]["errors"]:
        errors = [
            (max(parts), parts, f"{each['place']}, {device}")
            for each in measures
            for device, parts in each["errors"][case].items()
        ]
        wrong = [error for error in errors if not error[0] <= limit]
        told = f"errors at most {limit:.1e}"
        for _, parts, place in wrong:
            remedy = "do not train on it: replace the device, or choose another --compute.attention"
            rows.append(Row(case, "wrong", written(parts), told, place, remedy))
        if not wrong:
            rows.append(Row(case, "ok", written(max(errors)[1]), told, "all devices"))
    return rows


def written(errors: list[float]) -> str:
    return ", ".join(f"{part} {error:.1e}" for part, error in zip(PARTS, errors, strict=True))
