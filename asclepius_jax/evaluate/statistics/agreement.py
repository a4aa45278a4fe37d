"""Agreement of raters with each other and of a judge with clinicians.

Agreement needs at least two raters; fewer are an error. Intervals leave out one cluster of items at a time.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import (
    Column,
    Estimate,
    cluster_index,
    few,
    numbers,
    same_length,
    scores,
)
from asclepius_jax.evaluate.statistics.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    NOTHING,
    fewer_degrees,
    mark_of,
    quantile,
)
from data_prep.contract.errors import UserError

LEVELS = ("nominal", "ordinal", "interval", "ratio")
JACKKNIFE = "cluster jackknife, t on Fisher's z"


@dataclass(frozen=True)
class Correlations:
    """Correlations between two columns of scores of the same items."""

    pearson: Estimate
    spearman: Estimate
    kendall: Estimate  # tau-b


def jackknifed(figure: Callable[[np.ndarray], float], clusters: Sequence[Hashable], missing: int) -> Estimate:
    """`figure` of all rows, with an interval from leaving out one whole cluster at a time.

    The interval is a t interval on Fisher's z, because the figures end at 1 (Efron and Tibshirani 1993, chapter 11).
    figure: function from row numbers to a number of at most 1, which is nan where undefined.
    """
    index, count = cluster_index(clusters)
    rows = np.arange(len(index))
    value = figure(rows) if count else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, len(rows), count, missing, "no variation, or too few items")
    bare = Estimate(value, None, None, len(rows), count, missing)
    if count < FEWEST_CLUSTERS:
        return replace(bare, undefined=f"no interval: {few(count)}, fewer than {FEWEST_CLUSTERS}")
    without_G = np.asarray([figure(rows[index != cluster]) for cluster in range(count)])
    if np.isnan(without_G).any():
        return replace(bare, undefined="no interval: undefined without one of the clusters")
    parts_G = (value - without_G) ** 2 * (count - 1) / count
    variance = float(parts_G.sum())
    if variance <= NOTHING or abs(value) >= 1 - NOTHING:
        return replace(bare, undefined="no interval: no variation")
    freedom = fewer_degrees(count - 1, parts_G)
    reach = quantile(freedom, CONFIDENCE) * math.sqrt(variance) / (1 - value**2)
    low, high = math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
    mark = mark_of(count, float(np.bincount(index).max()) / len(rows))
    return replace(bare, low=low, high=high, method=JACKKNIFE, freedom=freedom, mark=mark)


def krippendorff_alpha(
    ratings: Sequence[Column] | np.ndarray,
    level: str = "ordinal",
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Krippendorff's alpha, computed by the `krippendorff` package: 1 is perfect agreement, 0 is chance.

    ratings: one row per rater and one column per item, None or nan if a rater gave none. Pass rubric scores through
    `scores(...)`, because their 0 means missing. Items with fewer than two ratings are left out and counted in
    `missing`. clusters: the note of each item; by default every item is its own cluster. Raises UserError for fewer
    than two raters, rows of unequal length or an unknown level.
    """
    import krippendorff

    if level not in LEVELS:
        raise UserError(f"level {level!r}: must be one of {', '.join(LEVELS)}")
    data = [numbers(row, f"rater {number}") for number, row in enumerate(ratings)]
    if sum(bool((~np.isnan(row)).any()) for row in data) < 2:
        raise UserError("agreement is undefined for fewer than two raters: give the ratings of at least two raters")
    same_length(**{f"of rater {number}": row for number, row in enumerate(data)})
    table = np.stack(data)
    clusters = list(range(table.shape[1])) if clusters is None else clusters
    same_length(items=table[0], clusters=clusters)
    compared = (~np.isnan(table)).sum(0) >= 2
    kept = table[:, compared]
    domain = np.unique(kept[~np.isnan(kept)])
    # (items, values): the number of raters who gave an item each value.
    counts = np.stack([(kept == value).sum(0) for value in domain], axis=1) if len(domain) else np.zeros((0, 0))

    def figure(rows: np.ndarray) -> float:
        if np.count_nonzero(counts[rows].sum(0)) < 2:
            return math.nan
        return float(krippendorff.alpha(value_counts=counts[rows], value_domain=domain, level_of_measurement=level))

    kept_clusters = [cluster for cluster, is_kept in zip(clusters, compared, strict=True) if is_kept]
    return jackknifed(figure, kept_clusters, int((~compared).sum()))


def pairs_of(
    first: Column, second: Column, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray, list[Hashable], int]:
    """Both columns and the clusters, reduced to items with two values, and the number of items without."""
    clusters = list(range(len(first))) if clusters is None else clusters
    same_length(first=first, second=second, clusters=clusters)
    a, b = numbers(first, "first"), numbers(second, "second")
    present = ~(np.isnan(a) | np.isnan(b))
    if not present.any() and len(present):
        raise UserError("agreement needs items that both have scored, and there are none")
    kept = [cluster for cluster, is_present in zip(clusters, present, strict=True) if is_present]
    return a[present], b[present], kept, int((~present).sum())


def quadratic_kappa(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Quadratically weighted kappa of two raters on the rubric's scale (Cohen 1968).

    Joined scores need not be whole. Items with a missing score (0, None, nan) are left out. Raises UserError if no item
    has two scores.
    """
    a, b, kept, missing = pairs_of(scores(first, "first"), scores(second, "second"), clusters)

    def figure(rows: np.ndarray) -> float:
        x, y = a[rows], b[rows]
        by_chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2  # mean squared difference of any x from any y
        return 1 - float(((x - y) ** 2).mean()) / by_chance if by_chance > 0 else math.nan

    return jackknifed(figure, kept, missing)


def correlations(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable] | None = None,
) -> Correlations:
    """Pearson's r, Spearman's rho and Kendall's tau-b (scipy) of two columns, such as judge and clinician scores.

    Items with a None or nan are left out. Correlations with a constant column are undefined. Raises UserError if no
    item has two values.
    """
    from scipy import stats

    a, b, kept, missing = pairs_of(first, second, clusters)

    def estimate(test: Callable[[np.ndarray, np.ndarray], Any]) -> Estimate:
        def figure(rows: np.ndarray) -> float:
            x, y = a[rows], b[rows]
            if len(rows) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                return math.nan
            return float(test(x, y).statistic)

        return jackknifed(figure, kept, missing)

    return Correlations(estimate(stats.pearsonr), estimate(stats.spearmanr), estimate(stats.kendalltau))


def within_groups(
    first: Column, second: Column, groups: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> dict[str, Estimate]:
    """Pearson's r and Spearman's rho within groups, such as the models whose answers were scored.

    Values (for rho their ranks within the group) are taken as deviations from the group's mean: a judge that knows
    nothing but which model it reads gets 0, whatever its correlation over all answers. Raises UserError if no item has
    two values.
    """
    from scipy import stats

    clusters = list(range(len(first))) if clusters is None else clusters
    same_length(first=first, groups=groups, clusters=clusters)
    a, b, kept, missing = pairs_of(first, second, clusters)
    group = cluster_index(pairs_of(first, second, groups)[2])[0]

    def deviations(values: np.ndarray, of_rows: np.ndarray, ranked: bool) -> np.ndarray:
        found = np.empty(len(values))
        for name in np.unique(of_rows):
            part = of_rows == name
            inside = stats.rankdata(values[part]) if ranked else values[part]
            found[part] = inside - inside.mean()
        return found

    def estimate(ranked: bool) -> Estimate:
        def figure(rows: np.ndarray) -> float:
            x, y = (deviations(values[rows], group[rows], ranked) for values in (a, b))
            scale = math.sqrt(float(x @ x) * float(y @ y))
            return float(x @ y) / scale if scale > NOTHING else math.nan

        return jackknifed(figure, kept, missing)

    return {"pearson": estimate(False), "spearman": estimate(True)}


def against_other_raters(
    judge: Column, raters: Sequence[Column], groups: Sequence[Hashable], clusters: Sequence[Hashable]
) -> dict[str, Estimate]:
    """Pearson's r with the mean of all raters but one: of the judge, and of the rater left out, on the same items.

    The raters' figure is the ceiling for a judge: agreement with a mean of so many raters that a further rater reaches.
    Each is the mean over the raters left out; `judge_within` and `rater_within` are within groups. Raises UserError for
    fewer than two raters.
    """
    table, scored = np.stack([numbers(row) for row in raters]), numbers(judge)
    if sum(bool((~np.isnan(row)).any()) for row in table) < 2:
        raise UserError("a ceiling needs the ratings of at least two raters")
    group, _ = cluster_index(groups)
    compared = ~np.isnan(scored) & ((~np.isnan(table)).sum(0) >= 2)
    table, scored, group = table[:, compared], scored[compared], group[compared]
    kept = [cluster for cluster, is_kept in zip(clusters, compared, strict=True) if is_kept]

    def correlation(x: np.ndarray, y: np.ndarray, of_rows: np.ndarray | None) -> float:
        if of_rows is None:
            of_rows = np.zeros(len(x), dtype=np.intp)
        counts = np.maximum(np.bincount(of_rows), 1)
        x, y = (values - (np.bincount(of_rows, values) / counts)[of_rows] for values in (x, y))
        scale = math.sqrt(float(x @ x) * float(y @ y))
        return float(x @ y) / scale if len(x) > 2 and scale > NOTHING else math.nan

    def estimate(is_judge: bool, within: bool) -> Estimate:
        def figure(rows: np.ndarray) -> float:
            found = []
            for left_out in range(len(table)):
                own, others = table[left_out][rows], np.delete(table, left_out, 0)[:, rows]
                present = ~np.isnan(own) & (~np.isnan(others)).any(0)
                if present.any():
                    mine = (scored[rows] if is_judge else own)[present]
                    of_rows = group[rows][present] if within else None
                    found.append(correlation(mine, np.nanmean(others[:, present], 0), of_rows))
            known = [value for value in found if not math.isnan(value)]
            return sum(known) / len(known) if known else math.nan

        return jackknifed(figure, kept, int((~compared).sum()))

    return {
        f"{name}{'_within' if within else ''}": estimate(name == "judge", within)
        for name in ("judge", "rater")
        for within in (False, True)
    }
