"""The methods that merge models, for one tensor of all models, which is read block by block as float32.

    linear            sum of w_i x_i, with weights that sum to 1
    slerp             sin((1 - t) a) / sin(a) x_0 + sin(t a) / sin(a) x_1; a is the angle between the two tensors as
                      vectors (Shoemake, SIGGRAPH 1985)
    task-arithmetic   base + sum of w_i (x_i - base) (Ilharco et al., arXiv 2212.04089)
    ties              base + what `disjoint_merge` makes of the differences (Yadav et al., arXiv 2306.01708)

A matrix that a family stores fused with others, such as gate and up, counts as a tensor of its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Method = Literal["linear", "slerp", "task-arithmetic", "ties"]
# Read a block of one model, as a new float32 array.
Read = Callable[[Any], np.ndarray]

# Magnitude of the cosine above which two tensors are merged linearly, as in most implementations. The weights of nearly
# equal directions then differ from the linear ones by less than 2e-4 of themselves; between opposed directions there is
# no one arc, and sin(a) in the denominator is nearly zero.
PARALLEL = 0.9995
# Bits of a float32 without its sign, of which the upper ones are counted first: magnitudes are in the order of their
# bits.
MAGNITUDE, LOW_BITS = np.uint32(0x7FFFFFFF), 16
# Elements at a time in the steps of ties: their arrays stay in a core's cache, which makes it four times as fast.
CACHED = 2**17


@dataclass(frozen=True)
class Recipe:
    """A method with its settings."""

    method: Method
    weights: tuple[float, ...]  # one for each model, in their order
    density: float = 1.0  # fraction of each difference that ties keeps


def merged(recipe: Recipe, blocks: Sequence[Any], models: Sequence[Read], base: Read | None) -> Iterator[np.ndarray]:
    """The merged values of each block of a tensor, as float32. Methods that need them read the blocks several times."""
    weights: Sequence[float] = recipe.weights
    if recipe.method == "slerp":
        first, second = models
        weights = spherical_weights(weights[1], ((first(block), second(block)) for block in blocks))
    if base is None:
        for block in blocks:
            yield weighted_sum(weights, (read(block) for read in models))
    elif recipe.method == "task-arithmetic":
        for block in blocks:
            yield add_differences(base(block), weights, (read(block) for read in models))
    else:
        least = least_kept(blocks, models, base, recipe.density)
        for block in blocks:
            result, values = base(block), [read(block) for read in models]
            for start, *parts in stretches([result, *values]):
                start[...] = disjoint_merge(start, weights, least, parts)
            yield result


def stretches(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Arrays of one size in stretches of CACHED elements, as views."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, CACHED):
        yield [array[start : start + CACHED] for array in flat]


# ---------------------------------------------------------------- linear, slerp, task arithmetic


def weighted_sum(weights: Sequence[float], values: Iterable[np.ndarray]) -> np.ndarray:
    """Sum of w_i x_i in the order of the models: products and sums of float32, each rounded."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        value *= np.float32(weight)
        total = value if total is None else np.add(total, value, out=total)
    assert total is not None, "there is at least one model"
    return total


def spherical_weights(t: float, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """The weights of slerp for a tensor of two models, from all of its blocks; t is the share of the second one.

    Those of the linear method if the tensors are nearly parallel or opposed, or if one is zero and has no direction.
    """
    first, second, product = np.zeros((3,), np.float64)
    for x, y in pairs:
        first, second, product = first + dot(x, x), second + dot(y, y), product + dot(x, y)
    norms = math.sqrt(first) * math.sqrt(second)
    cosine = product / norms if norms else 1.0
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """The product of two blocks as vectors, accumulated in float64."""
    return float(np.einsum("i,i->", x.reshape(-1), y.reshape(-1), dtype=np.float64))


def add_differences(base: np.ndarray, weights: Sequence[float], values: Iterable[np.ndarray]) -> np.ndarray:
    """Base + sum of w_i (x_i - base), in the order of the models and in float32."""
    total = base.copy()
    for weight, value in zip(weights, values, strict=True):
        value -= base
        value *= np.float32(weight)
        total += value
    return total


# ---------------------------------------------------------------- ties


def disjoint_merge(
    base: np.ndarray, weights: Sequence[float], least: Sequence[np.uint32], values: Sequence[np.ndarray]
) -> np.ndarray:
    """Base + the task vector that TIES merges from those of the models, with scale 1.

    With d_i = x_i - base, the steps of Algorithm 1 of the paper are, for each tensor:

    1. Trim: keep the elements of d_i of at least the k-th largest magnitude, `least`, and set the others to zero. All
       elements of exactly that magnitude are kept.
    2. Elect: the sign of an element is that of its total mass, the sum of w_i d_i. Without one, because the sum is
       zero, the element stays that of the base.
    3. Disjoint merge: the mean of the d_i with that sign, weighted by w_i. Trimmed elements do not count.

    Computed in float64 and rounded to float32 once, so that rounding elects no sign.
    """
    trimmed, mass = [], np.zeros(base.shape)
    for weight, value, smallest in zip(weights, values, least, strict=True):
        value -= base
        value[magnitudes(value) < smallest] = 0
        mass += weight * value.astype(np.float64)
        trimmed.append(value)
    elected = np.sign(mass, out=mass)
    total, share = np.zeros(base.shape), np.zeros(base.shape)
    for weight, value in zip(weights, trimmed, strict=True):
        agrees = (np.sign(value) == elected) & (value != 0)
        total += weight * np.where(agrees, value, 0).astype(np.float64)
        share += weight * agrees
    np.divide(total, share, out=total, where=share > 0)
    return (base + total).astype(np.float32)


def magnitudes(x: np.ndarray) -> np.ndarray:
    """The bits of |x|, as uint32."""
    return x.view(np.uint32) & MAGNITUDE


def least_kept(blocks: Sequence[Any], models: Sequence[Read], base: Read, density: float) -> list[np.uint32]:
    """For each model, the k-th largest magnitude of its difference to the base, as bits.

    k is `density` of the tensor's elements, rounded to the nearest integer and at least 1. The magnitude is found
    exactly, in two passes over the blocks that count the upper and then the lower bits, without sorting the tensor.
    """
    counts = count_bits(blocks, models, base, [None] * len(models))
    kept = max(1, round(density * int(counts[0].sum())))
    upper = [from_top(each, kept) for each in counts]
    counts = count_bits(blocks, models, base, [digit for digit, _ in upper])
    lower = [from_top(each, rank) for each, (_, rank) in zip(counts, upper, strict=True)]
    return [np.uint32(high << LOW_BITS | low) for (high, _), (low, _) in zip(upper, lower, strict=True)]


def count_bits(
    blocks: Sequence[Any], models: Sequence[Read], base: Read, upper: Sequence[int | None]
) -> list[np.ndarray]:
    """Counts of each value of the upper bits in a model's difference to the base.

    For a model with a value in `upper`, counts of each value of the lower bits that occurs together with it.
    """
    counts = [np.zeros(2**LOW_BITS, np.int64) for _ in models]
    for block in blocks:
        values = base(block)
        for read, wanted, count in zip(models, upper, counts, strict=True):
            for start, part in stretches([values, read(block)]):
                bits = magnitudes(part - start)
                high = bits >> LOW_BITS
                found = high if wanted is None else bits[high == wanted] & np.uint32(2**LOW_BITS - 1)
                # Of unsigned integers, bincount takes three times as long.
                count += np.bincount(found.astype(np.int64), minlength=2**LOW_BITS)
    return counts


def from_top(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The value of the element at a rank, 1 for the largest, and its rank among those of the same value."""
    reached = np.cumsum(counts[::-1])
    place = int(np.searchsorted(reached, rank))
    return len(counts) - 1 - place, rank - int(reached[place] - counts[::-1][place])
