"""Means, shares and ratios with their intervals.

Scores on one note, patient or article are not independent, so every interval is computed from these clusters, see
`intervals`. Missing scores (None, nan, and 0 on the rubric's scale) are left out and counted. An undefined statistic is
None, never nan, and comes with the reason.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    NOTHING,
    WILSON,
    Spread,
    T,
    spread_of,
    t_interval,
    wilson_interval,
)
from data_prep.contract.errors import UserError

Column = Sequence[Any] | np.ndarray
SCALE = (1.0, 4.0)  # of rubric scores
SHARE = (0.0, 1.0)
INDEPENDENT = "Wilson, independent events"
WOODRUFF = "quantiles at the ends of CR2, Wilson with t"


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
    method: str = ""  # how the interval was computed; empty without an interval
    freedom: float | None = None  # degrees of freedom of that method
    mark: str = ""  # what makes the interval doubtful, such as few clusters


@dataclass(frozen=True)
class Rate:
    """Share, from 0 to 1, with its interval."""

    value: float | None
    low: float | None
    high: float | None
    count: float  # not whole if some events are ties, which count half
    n: int
    missing: int
    undefined: str = ""
    clusters: int | None = None  # None if the events are independent
    method: str = ""
    freedom: float | None = None
    mark: str = ""


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
    """Rubric scores from 1 to 4, nan for missing ones (0, None, nan). A joined score need not be whole.

    Raises UserError for any other value."""
    array = numbers(values, name)
    array[array == 0] = math.nan
    off = (array < 1) | (array > 4)
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


# ---------------------------------------------------------------- estimates


def ratio_of_sums(
    above: Column,
    below: Column,
    clusters: Sequence[Hashable],
    scale: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """sum(above) / sum(below), such as a mean, an F1 or bits per byte of a corpus, with its clustered interval.

    scale: ends of the scale of the ratio, None if it has none. Rows with None or nan are missing. Raises UserError for
    columns of unequal length.
    """
    same_length(above=above, below=below, clusters=clusters)
    table = np.stack([numbers(above, "above"), numbers(below, "below")], axis=1)
    present = ~np.isnan(table).any(axis=1)
    missing = int((~present).sum())
    index, count = cluster_index([cluster for cluster, is_present in zip(clusters, present, strict=True) if is_present])
    kept = table[present]
    if not count:
        return Estimate(None, None, None, 0, 0, missing, "no data")
    if kept[:, 1].sum() == 0:
        return Estimate(None, None, None, len(kept), count, missing, "division by zero")
    spread = spread_of(kept[:, 0], kept[:, 1], index)
    bare = Estimate(spread.value, None, None, len(kept), spread.clusters, missing)
    if why := why_no_interval(spread, scale):
        return replace(bare, undefined=f"no interval: {why}")
    low, high = wilson_interval(spread, scale, confidence) if scale else t_interval(spread, confidence)
    method = WILSON if scale else T
    return replace(bare, low=low, high=high, method=method, freedom=spread.freedom, mark=spread.mark)


def why_no_interval(spread: Spread, scale: tuple[float, float] | None) -> str:
    """Reason why there is no interval; empty if there is one."""
    if spread.clusters < FEWEST_CLUSTERS:
        return f"{few(spread.clusters)}, fewer than {FEWEST_CLUSTERS}"
    return "no variation" if not scale and spread.variance <= NOTHING * spread.value**2 else ""


def few(clusters: int) -> str:
    return f"{clusters} cluster{'' if clusters == 1 else 's'} only"


def mean(
    values: Column,
    clusters: Sequence[Hashable],
    scale: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Unweighted mean of the values that are not missing, with its clustered interval.

    None and nan are missing, 0 is not (see `scores`). scale: ends of the scale of the values, None if it has none.
    Raises UserError for columns of unequal length.
    """
    return ratio_of_sums(values, np.ones(len(values)), clusters, scale, confidence)


def median(values: Column, clusters: Sequence[Hashable], confidence: float = CONFIDENCE) -> Estimate:
    """Median of the values that are not missing, with its clustered interval.

    The interval holds the quantiles at both ends of the interval of the share of values below the median (Woodruff,
    "Confidence intervals for medians and other position measures", 1952). A value equal to the median is half below.
    """
    column = numbers(values)
    known = column[~np.isnan(column)]
    if not len(known):
        return Estimate(None, None, None, 0, 0, len(column), "no data")
    value = float(np.median(known))
    below = np.where(np.isnan(column), math.nan, (column < value) + 0.5 * (column == value))
    share = mean(below, clusters, SHARE, confidence)
    if share.low is None or share.high is None:
        return replace(share, value=value)
    low, high = (float(np.quantile(known, end)) for end in (share.low, share.high))
    return replace(share, value=value, low=low, high=high, method=WOODRUFF)


def transformed(estimate: Estimate, change: Callable[[float], float]) -> Estimate:
    """An estimate on another scale; `change` must increase."""
    value, low, high = (None if x is None else change(x) for x in (estimate.value, estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)


def rate(
    events: Sequence[float | None], clusters: Sequence[Hashable] | None = None, confidence: float = CONFIDENCE
) -> Rate:
    """Share of true events among the known ones (not None), with its interval.

    A tie of votes is 0.5 and counts half. clusters: one per event; None only for independent events, which get plain
    Wilson (statsmodels). Raises UserError for columns of unequal length.
    """
    from statsmodels.stats.proportion import proportion_confint

    known = [float(event) for event in events if event is not None and not math.isnan(event)]
    missing = len(events) - len(known)
    if not known:
        return Rate(None, None, None, 0, 0, missing, "no data")
    total = math.fsum(known)
    count = int(total) if total.is_integer() else total
    if clusters is None:
        low, high = proportion_confint(count, len(known), alpha=1 - confidence, method="wilson")
        return Rate(total / len(known), float(low), float(high), count, len(known), missing, method=INDEPENDENT)
    found = mean(events, clusters, SHARE, confidence)
    return Rate(
        found.value, found.low, found.high, count, len(known), missing, found.undefined, found.clusters, found.method,
        found.freedom, found.mark,
    )  # fmt: skip
