"""Whether raters, or a judge and clinicians, agree.

One rater agrees with nobody: that is refused. Intervals resample items, or the notes that items are on.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import (
    CONFIDENCE,
    Column,
    Estimate,
    cluster_index,
    interval_of,
    numbers,
    same_length,
    scores,
)
from data_prep.contract.errors import UserError

# Each draw computes alpha or a rank correlation anew; 2,000 settle the bounds to about 0.01.
RESAMPLES = 2_000
LEVELS = ("nominal", "ordinal", "interval", "ratio")


@dataclass(frozen=True)
class Correlations:
    """Between two columns of scores of the same items."""

    pearson: Estimate
    spearman: Estimate
    kendall: Estimate  # tau-b


def resampled(
    figure: Callable[[np.ndarray], float], clusters: Sequence[Hashable], missing: int, resamples: int, seed: int
) -> Estimate:
    """`figure` of all rows, with the interval of its values on rows of clusters drawn with replacement.

    figure: row numbers to a number, nan where it is undefined.
    """
    index, count = cluster_index(clusters)
    rows = np.arange(len(index))
    value = figure(rows) if count else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, len(rows), count, missing, "no variation, or too few items")
    if count == 1:
        return Estimate(value, None, None, len(rows), 1, missing, "no interval: one note only")
    members = [rows[index == cluster] for cluster in range(count)]
    random = np.random.default_rng(seed)
    figures = np.asarray(
        [
            figure(np.concatenate([members[drawn] for drawn in random.integers(0, count, count)]))
            for _ in range(resamples)
        ]
    )
    low, high, why = interval_of(figures, count, CONFIDENCE)
    return Estimate(value, low, high, len(rows), count, missing, f"no interval: {why}" if why else "")


def krippendorff_alpha(
    ratings: Sequence[Column] | np.ndarray,
    level: str = "ordinal",
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha: 1 agreement, 0 chance; the figure of the `krippendorff` package.

    ratings: a row for each rater, a column for each item, None or nan where a rater gave none (give `scores(...)` of
    rubric scores, whose 0 is missing). Items with fewer than two ratings say nothing: they are left out, and `missing`
    counts them. clusters: the note of each item; items are their own where it is left out. UserError for fewer than
    two raters, rows of unequal length, or an unknown level.
    """
    import krippendorff

    if level not in LEVELS:
        raise UserError(f"level {level!r}: one of {', '.join(LEVELS)}")
    data = [numbers(row, f"rater {number}") for number, row in enumerate(ratings)]
    if sum(bool((~np.isnan(row)).any()) for row in data) < 2:
        raise UserError("agreement needs ratings of at least two raters: one rater agrees with nobody")
    same_length(**{f"of rater {number}": row for number, row in enumerate(data)})
    table = np.stack(data)
    clusters = list(range(table.shape[1])) if clusters is None else clusters
    same_length(items=table[0], clusters=clusters)
    compared = (~np.isnan(table)).sum(0) >= 2
    kept = table[:, compared]
    domain = np.unique(kept[~np.isnan(kept)])
    # (items, values): how many raters gave an item each value; resampling its rows is resampling items.
    counts = np.stack([(kept == value).sum(0) for value in domain], axis=1) if len(domain) else np.zeros((0, 0))

    def figure(rows: np.ndarray) -> float:
        if np.count_nonzero(counts[rows].sum(0)) < 2:
            return math.nan
        return float(krippendorff.alpha(value_counts=counts[rows], value_domain=domain, level_of_measurement=level))

    of_kept = [cluster for cluster, there in zip(clusters, compared, strict=True) if there]
    return resampled(figure, of_kept, int((~compared).sum()), resamples, seed)


def pairs_of(
    first: Column, second: Column, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray, list[Hashable], int]:
    """The items that both columns have a number for, their clusters, and how many items lack one."""
    clusters = list(range(len(first))) if clusters is None else clusters
    same_length(first=first, second=second, clusters=clusters)
    a, b = numbers(first, "first"), numbers(second, "second")
    present = ~(np.isnan(a) | np.isnan(b))
    if not present.any() and len(present):
        raise UserError("agreement needs items that both have scored: there is none")
    kept = [cluster for cluster, there in zip(clusters, present, strict=True) if there]
    return a[present], b[present], kept, int((~present).sum())


def quadratic_kappa(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Cohen's kappa of two raters on the rubric's scale, a disagreement weighing its square (Cohen 1968; statsmodels).

    Missing scores (0, None, nan) are left out with their item. UserError for no item in common.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    a, b, kept, missing = pairs_of(scores(first, "first"), scores(second, "second"), clusters)

    def figure(rows: np.ndarray) -> float:
        table = np.zeros((4, 4))
        np.add.at(table, (a[rows].astype(int) - 1, b[rows].astype(int) - 1), 1)
        if np.count_nonzero(table.sum(0) + table.sum(1)) < 2:  # one value throughout: 0 / 0
            return math.nan
        return float(cohens_kappa(table, wt="quadratic", return_results=False))

    return resampled(figure, kept, missing, resamples, seed)


def correlations(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlations:
    """Pearson's r, Spearman's rho and Kendall's tau-b (scipy) of two columns of scores, such as a judge's and the
    clinicians' mean.

    None and nan are left out with their item. A column that never varies gives no figure. UserError for no item in
    common.
    """
    from scipy import stats

    a, b, kept, missing = pairs_of(first, second, clusters)

    def estimate(test: Callable[[np.ndarray, np.ndarray], Any]) -> Estimate:
        def figure(rows: np.ndarray) -> float:
            x, y = a[rows], b[rows]
            if len(rows) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                return math.nan
            return float(test(x, y).statistic)

        return resampled(figure, kept, missing, resamples, seed)

    return Correlations(estimate(stats.pearsonr), estimate(stats.spearmanr), estimate(stats.kendalltau))
