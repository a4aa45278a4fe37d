"""What a set of scores says, and how sure that is: means, rates and their intervals.

Scores on one note are not independent, so that every interval resamples notes (clusters), never single scores. A score
that is missing (None, nan, and 0 on the rubric's scale) is left out and counted; what cannot be computed is None, with
the reason beside it, and never a nan.
"""
# C clusters, R resamples, K columns that are summed.

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError

CONFIDENCE = 0.95
RESAMPLES = 10_000
# A resample may lack what a ratio divides by. Where more than this share does, the others are a selection.
MOST_UNDEFINED = 0.05
GATHERED = 4_000_000  # numbers held at once while resampling: 32 MB

Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; in the unit of what was given."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # that the figure rests on
    clusters: int
    missing: int  # left out
    undefined: str = ""  # why value, or low and high, are None


@dataclass(frozen=True)
class Rate:
    """A share with its Wilson interval."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    n: int
    missing: int
    undefined: str = ""


# ---------------------------------------------------------------- what comes in


def numbers(values: Column, what: str = "values") -> np.ndarray:
    """A float array, nan where a value is None or nan. UserError for anything that is no finite number."""
    try:
        array = np.asarray([math.nan if value is None else float(value) for value in values], dtype=float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: {error}; give numbers, and None for what is missing") from error
    if np.isinf(array).any():
        raise UserError(f"{what} holds an infinite number in row {int(np.argmax(np.isinf(array)))}")
    return array


def scores(values: Column, what: str = "scores") -> np.ndarray:
    """The rubric's 1 to 4 as floats; nan for 0, None and nan, which all say "missing". UserError off the scale."""
    array = numbers(values, what)
    array[array == 0] = math.nan
    off = ~np.isnan(array) & ~np.isin(array, (1, 2, 3, 4))
    if off.any():
        row = int(np.argmax(off))
        raise UserError(f"{what}: row {row} is {array[row]:g}; the scale is 1 to 4, and 0 for missing")
    return array


def same_length(**columns: Column) -> int:
    """Their length; UserError where columns that belong together differ in it."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UserError(f"columns of one table must be of one length, not {told}")
    return next(iter(lengths.values()))


def cluster_index(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """A number from 0 for each row's cluster, in the order of first appearance, and how many there are."""
    place: dict[Hashable, int] = {}
    index = np.asarray([place.setdefault(cluster, len(place)) for cluster in clusters], dtype=np.intp)
    return index, len(place)


# ---------------------------------------------------------------- intervals


def percentiles(clusters: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentiles of resampled figures that bound an interval over so many clusters.

    The percentile interval is kept, and not BCa: it needs no jackknife of figures such as F1, is the same for every
    figure here, and scores bounded on both sides show little of the skew that BCa mends. Its fault is that it is too
    narrow where clusters are few, and BCa shares it; the percentiles are therefore moved outwards to where a t interval
    would lie: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), section 5.3, the expanded percentile.
    """
    from scipy import stats

    tail = (1 - confidence) / 2
    reach = math.sqrt(clusters / (clusters - 1)) * stats.t.ppf(tail, clusters - 1)
    low = float(stats.norm.cdf(reach))
    return low, 1 - low


def interval_of(figures_R: np.ndarray, clusters: int, confidence: float) -> tuple[float | None, float | None, str]:
    """Low, high, and why there is none."""
    defined = figures_R[~np.isnan(figures_R)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(figures_R):
        return None, None, f"undefined in {len(figures_R) - len(defined)} of {len(figures_R)} resamples"
    if np.ptp(defined) == 0:
        return None, None, "no variation"
    low, high = np.quantile(defined, percentiles(clusters, confidence))
    return float(low), float(high), ""


def resampled_sums(sums_CK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums over clusters drawn with replacement: (resamples, K)."""
    random = np.random.default_rng(seed)
    clusters = len(sums_CK)
    step = max(1, GATHERED // (clusters * sums_CK.shape[1]))
    return np.concatenate(
        [
            sums_CK[random.integers(0, clusters, (min(step, resamples - start), clusters))].sum(1)
            for start in range(0, resamples, step)
        ]
    )


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and nan where there is nothing below."""
    return np.divide(above, below, out=np.full(np.shape(below), math.nan), where=below != 0)


def estimate_of_sums(
    columns: np.ndarray,
    clusters: Sequence[Hashable],
    figure: Callable[[np.ndarray], np.ndarray],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """A figure that follows from column sums, such as a mean or an F1, with its note-clustered interval.

    columns: (rows, K), a row with any nan in it is missing; clusters: one for each row; figure: sums (..., K) to
    figures (...), nan where it is undefined. The interval is that of `percentiles`.
    """
    same_length(rows=columns, clusters=clusters)
    present = ~np.isnan(columns).any(axis=1)
    missing = int((~present).sum())
    kept = columns[present].astype(float)
    index, count = cluster_index([cluster for cluster, there in zip(clusters, present, strict=True) if there])
    if not count:
        return Estimate(None, None, None, 0, 0, missing, "nothing to compute it from")
    sums_CK = np.zeros((count, columns.shape[1]))
    np.add.at(sums_CK, index, kept)
    value = float(figure(sums_CK.sum(0)[None])[0])
    if math.isnan(value):
        return Estimate(None, None, None, len(kept), count, missing, "nothing to divide by")
    if count == 1:
        return Estimate(value, None, None, len(kept), 1, missing, "no interval: one note only")
    low, high, why = interval_of(figure(resampled_sums(sums_CK, resamples, seed)), count, confidence)
    return Estimate(value, low, high, len(kept), count, missing, f"no interval: {why}" if why else "")


def mean(
    values: Column,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """The mean of the values that are there, each counting the same, with its note-clustered bootstrap interval.

    None and nan are missing; a 0 is a 0 (see `scores`). UserError for columns of unequal length.
    """
    array = numbers(values)
    columns = np.stack([array, np.where(np.isnan(array), math.nan, 1.0)], axis=1)

    def figure(sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    return estimate_of_sums(columns, clusters, figure, resamples, confidence, seed)


def means_by(
    groups: Sequence[Hashable],
    values: Column,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[Hashable, Estimate]:
    """`mean` of each group, such as a (model, task), in the order of first appearance."""
    same_length(groups=groups, values=values, clusters=clusters)
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return {
        group: mean([values[r] for r in members], [clusters[r] for r in members], resamples, confidence, seed)
        for group, members in rows.items()
    }


# ---------------------------------------------------------------- rates


def rate(events: Sequence[bool | None], confidence: float = CONFIDENCE) -> Rate:
    """The share of events among those that are known (None is not), with Wilson's interval (statsmodels).

    Wilson's interval takes events as independent: where notes carry several, give them to `mean` as 0 and 1 too.
    """
    from statsmodels.stats.proportion import proportion_confint

    known = [bool(event) for event in events if event is not None]
    missing = len(events) - len(known)
    if not known:
        return Rate(None, None, None, 0, 0, missing, "nothing to compute it from")
    low, high = proportion_confint(sum(known), len(known), alpha=1 - confidence, method="wilson")
    return Rate(sum(known) / len(known), float(low), float(high), sum(known), len(known), missing)


def unacceptable_rate(values: Column, confidence: float = CONFIDENCE) -> Rate:
    """The share of score 1, which stands in for answers with a hallucination; missing scores are left out."""
    return rate([None if math.isnan(score) else score == 1 for score in scores(values)], confidence)
