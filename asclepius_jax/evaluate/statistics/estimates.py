"""Means and rates of scores, with their confidence intervals.

Scores on one note, patient or article are not independent, so every bootstrap interval resamples these clusters, not
single scores.
Missing scores (None, nan, and 0 on the rubric's scale) are left out and counted. An undefined statistic is None, never
nan, and comes with the reason.
"""
# C clusters, R resamples, K summed columns.

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError

CONFIDENCE = 0.95
RESAMPLES = 10_000
# A ratio is undefined in resamples whose denominator is 0. If more than this share are undefined, the remaining
# resamples are a biased selection and give no interval.
MOST_UNDEFINED = 0.05
GATHERED = 4_000_000  # numbers in memory at once while resampling: 32 MB

Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Statistic with its interval, in the unit of the input."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # number of rows used
    clusters: int
    missing: int  # number of rows left out
    undefined: str = ""  # reason why value, or low and high, are None


@dataclass(frozen=True)
class Rate:
    """Share, from 0 to 1, with its Wilson interval."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    n: int
    missing: int
    undefined: str = ""


# ---------------------------------------------------------------- input


def numbers(values: Column, name: str = "values") -> np.ndarray:
    """Float array with nan for None and nan. Raises UserError for anything else that is not a finite number."""
    try:
        array = np.asarray([math.nan if value is None else float(value) for value in values], dtype=float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}; give numbers, and None for missing values") from error
    if np.isinf(array).any():
        raise UserError(f"{name} contains an infinite number in row {int(np.argmax(np.isinf(array)))}")
    return array


def scores(values: Column, name: str = "scores") -> np.ndarray:
    """Rubric scores 1 to 4 as floats, nan for missing ones (0, None, nan). Raises UserError for any other value."""
    array = numbers(values, name)
    array[array == 0] = math.nan
    off = ~np.isnan(array) & ~np.isin(array, (1, 2, 3, 4))
    if off.any():
        row = int(np.argmax(off))
        raise UserError(f"{name}: row {row} is {array[row]:g}; the scale is 1 to 4, or 0 for missing")
    return array


def same_length(**columns: Column) -> int:
    """Common length of the columns. Raises UserError if they differ in length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UserError(f"columns of one table must have the same length, not {listed}")
    return next(iter(lengths.values()))


def cluster_index(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Cluster number of each row, counted from 0 in order of first appearance, and the number of clusters."""
    place: dict[Hashable, int] = {}
    index = np.asarray([place.setdefault(cluster, len(place)) for cluster in clusters], dtype=np.intp)
    return index, len(place)


# ---------------------------------------------------------------- intervals


def percentiles(clusters: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentiles of the resampled statistics that bound the interval, for this number of clusters.

    This is the expanded percentile interval of Hesterberg, "What Teachers Should Know About the Bootstrap" (2015),
    section 5.3. Plain percentile intervals, and BCa as well, are too narrow for few clusters, so the percentiles are
    moved outwards to where a t interval would lie. BCa is not used: it needs a jackknife of statistics such as F1, and
    scores bounded on both sides have little of the skew that it corrects.
    """
    from scipy import stats

    tail = (1 - confidence) / 2
    reach = math.sqrt(clusters / (clusters - 1)) * stats.t.ppf(tail, clusters - 1)
    low = float(stats.norm.cdf(reach))
    return low, 1 - low


def interval_of(figures_R: np.ndarray, clusters: int, confidence: float) -> tuple[float | None, float | None, str]:
    """Low and high bound, or None and the reason why there is no interval."""
    defined = figures_R[~np.isnan(figures_R)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(figures_R):
        return None, None, f"undefined in {len(figures_R) - len(defined)} of {len(figures_R)} resamples"
    if np.ptp(defined) == 0:
        return None, None, "no variation"
    low, high = np.quantile(defined, percentiles(clusters, confidence))
    return float(low), float(high), ""


def resampled_sums(sums_CK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums over clusters drawn with replacement, shape (resamples, K)."""
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
    """above / below, with nan where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), math.nan), where=below != 0)


def estimate_of_sums(
    columns: np.ndarray,
    clusters: Sequence[Hashable],
    figure: Callable[[np.ndarray], np.ndarray],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Statistic of column sums, such as a mean or an F1, with its clustered bootstrap interval.

    columns: shape (rows, K); a row with any nan is missing. clusters: one per row. figure: function from sums (..., K)
    to statistics (...), nan where undefined. The interval lies between the `percentiles`.
    """
    same_length(rows=columns, clusters=clusters)
    present = ~np.isnan(columns).any(axis=1)
    missing = int((~present).sum())
    kept = columns[present].astype(float)
    index, count = cluster_index([cluster for cluster, is_present in zip(clusters, present, strict=True) if is_present])
    if not count:
        return Estimate(None, None, None, 0, 0, missing, "no data")
    sums_CK = np.zeros((count, columns.shape[1]))
    np.add.at(sums_CK, index, kept)
    value = float(figure(sums_CK.sum(0)[None])[0])
    if math.isnan(value):
        return Estimate(None, None, None, len(kept), count, missing, "division by zero")
    if count == 1:
        return Estimate(value, None, None, len(kept), 1, missing, "no interval: one cluster only")
    low, high, why = interval_of(figure(resampled_sums(sums_CK, resamples, seed)), count, confidence)
    return Estimate(value, low, high, len(kept), count, missing, f"no interval: {why}" if why else "")


def mean(
    values: Column,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Unweighted mean of the values that are not missing, with its clustered bootstrap interval.

    None and nan are missing, 0 is not (see `scores`). Raises UserError for columns of unequal length.
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
    """`mean` of each group, such as each (model, task), in order of first appearance."""
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
    """Share of true events among the known ones (not None), with Wilson's interval (statsmodels).

    Wilson's interval assumes independent events. If a cluster has several, also pass them to `mean` as 0 and 1.
    """
    from statsmodels.stats.proportion import proportion_confint

    known = [bool(event) for event in events if event is not None]
    missing = len(events) - len(known)
    if not known:
        return Rate(None, None, None, 0, 0, missing, "no data")
    low, high = proportion_confint(sum(known), len(known), alpha=1 - confidence, method="wilson")
    return Rate(sum(known) / len(known), float(low), float(high), sum(known), len(known), missing)


def unacceptable_rate(values: Column, confidence: float = CONFIDENCE) -> Rate:
    """Share of score 1, used as a proxy for answers with a hallucination. Missing scores are left out."""
    return rate([None if math.isnan(score) else score == 1 for score in scores(values)], confidence)
