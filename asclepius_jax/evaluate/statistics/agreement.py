"""Agreement of raters with each other and of a judge with clinicians.

Agreement needs at least two raters; fewer are an error. Intervals leave out one cluster of items at a time.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean as mean
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
)
from data_prep.contract.errors import UserError

LEVELS = ("nominal", "ordinal", "interval", "ratio")
JACKKNIFE = "cluster jackknife, inverted t test"
FEWEST_EFFECTIVE = 3.0  # clusters: below, one has nearly all rows, and how rows of a cluster resemble cannot be seen
# Clusters in which each of two raters gives a score other than the rater's most frequent; in five, one of them does.
FEWEST_VARIED = 4
# Clusters that agree as far from the mean as the one that varies most, which the variance counts in addition: where
# nearly all scores are 4, a sample without a shared low score looks far too certain.
PSEUDO_CLUSTERS = 0.4
TRIALS = 801  # coefficients tried from -1 to 1; the ends of an interval are interpolated between them
Part = tuple[float, float]  # coefficient and its denominator
UNDEFINED: Part = (math.nan, 0.0)


@dataclass(frozen=True)
class Correlations:
    """Correlations between two columns of scores of the same items."""

    pearson: Estimate
    spearman: Estimate
    kendall: Estimate  # tau-b


def jackknifed(
    figure: Callable[[np.ndarray], Part], columns: np.ndarray, clusters: Sequence[Hashable], missing: int
) -> Estimate:
    """`figure` of all rows, with an interval from leaving out one whole cluster at a time.

    The interval holds every coefficient c that a test of "numerator - c x denominator = 0" does not reject (Fieller
    1954), with jackknifed variance (Efron and Tibshirani 1993, chapter 11): where scores hardly vary, the error of the
    denominator counts too, and so does how agreement would vary if it were c.
    figure: function from row numbers to the coefficient, at most 1, and its denominator. columns: scores by rater.
    """
    index, count = cluster_index(clusters)
    rows = np.arange(len(index))
    value, below = figure(rows) if count else UNDEFINED
    if math.isnan(value):
        return Estimate(None, None, None, len(rows), count, missing, "no variation, or too few items")
    bare = Estimate(value, None, None, len(rows), count, missing)
    share_G = np.bincount(index) / len(rows)
    if why := why_no_interval(columns, index, share_G):
        return replace(bare, undefined=f"no interval: {why}")
    without_GP = np.asarray([figure(rows[index != cluster]) for cluster in range(count)])
    if np.isnan(without_GP).any():
        return replace(bare, undefined="no interval: undefined without one of the clusters")
    above_G, below_G = value * below - without_GP.prod(1), below - without_GP[:, 1]
    if float(((above_G - value * below_G) ** 2).sum()) <= NOTHING * below**2 or abs(value) >= 1 - NOTHING:
        return replace(bare, undefined="no interval: no variation")
    most = min(count - 1.0, effective_number(share_G))
    low, high, freedom = not_rejected(value, below, above_G, below_G, most)
    if (low, high) == (-1.0, 1.0):
        return replace(bare, undefined="no interval: the scores exclude no value")
    return replace(bare, low=low, high=high, method=JACKKNIFE, freedom=freedom, mark=mark_of(count, share_G.max()))


def effective_number(share_G: np.ndarray) -> float:
    """Number of clusters of equal size that tell as much (Kish 1965; Carter, Schnepel and Steigerwald 2017)."""
    return float(1 / (share_G**2).sum())


def why_no_interval(columns: np.ndarray, index: np.ndarray, share_G: np.ndarray) -> str:
    """Reason why agreement has no interval; empty if it may have one."""
    if len(share_G) < FEWEST_CLUSTERS:
        return f"{few(len(share_G))}, fewer than {FEWEST_CLUSTERS}"
    if effective_number(share_G) < FEWEST_EFFECTIVE:
        return f"one of {len(share_G)} clusters has {share_G.max():.0%} of the rows"
    varied = [clusters_that_vary(column, index) for column in columns]
    second, together = sorted(map(len, varied))[-2], set[int]().union(*varied)
    if second >= FEWEST_VARIED and len(together) >= FEWEST_CLUSTERS:
        return ""
    return f"two raters gave a score other than their most frequent in {few(second)}"


def clusters_that_vary(column: np.ndarray, index: np.ndarray) -> set[int]:
    """Clusters with a score other than the rater's most frequent one."""
    present = ~np.isnan(column)
    kinds, counts = np.unique(column[present], return_counts=True)
    return set(index[present & (column != kinds[counts.argmax()])].tolist()) if len(kinds) else set()


def not_rejected(
    value: float, below: float, above_G: np.ndarray, below_G: np.ndarray, most: float
) -> tuple[float, float, float]:
    """Smallest and largest coefficient that is not rejected, and the degrees of freedom at `value`.

    above, below: what the numerator and the denominator lose without each cluster. most: largest degrees of freedom.
    """
    from scipy import stats

    trial_T = np.union1d(np.linspace(-1, 1, TRIALS), [value])
    parts_TG = (above_G - trial_T[:, None] * below_G) ** 2 * (len(above_G) - 1) / len(above_G)
    unseen_T = PSEUDO_CLUSTERS * ((1 - trial_T) * np.abs(below_G).max()) ** 2
    freedom_T = fewer_degrees(most, parts_TG)
    reach_T = stats.t.isf((1 - CONFIDENCE) / 2, freedom_T) * np.sqrt(parts_TG.sum(1) + unseen_T)
    excess_T = np.abs(value - trial_T) * below - reach_T  # not rejected if negative
    inside = np.flatnonzero(excess_T <= 0)
    low, high = (end_of(trial_T, excess_T, inside[at], outwards) for at, outwards in ((0, -1), (-1, 1)))
    return low, high, float(freedom_T[trial_T == value][0])


def end_of(trial_T: np.ndarray, excess_T: np.ndarray, last: int, outwards: int) -> float:
    """Where `excess` crosses 0 beyond the last trial inside, or the end of the trials."""
    beyond = last + outwards
    if not 0 <= beyond < len(trial_T):
        return float(trial_T[last])
    part = excess_T[last] / (excess_T[last] - excess_T[beyond])
    return float(trial_T[last] + part * (trial_T[beyond] - trial_T[last]))


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

    def figure(rows: np.ndarray) -> Part:
        if np.count_nonzero(counts[rows].sum(0)) < 2:
            return UNDEFINED
        found = krippendorff.alpha(value_counts=counts[rows], value_domain=domain, level_of_measurement=level)
        return float(found), by_chance(counts[rows].sum(0), domain, level)

    kept_clusters = [cluster for cluster, is_kept in zip(clusters, compared, strict=True) if is_kept]
    return jackknifed(figure, kept, kept_clusters, int((~compared).sum()))


def by_chance(counts_V: np.ndarray, domain_V: np.ndarray, level: str) -> float:
    """Mean squared distance of any two ratings, of which `counts` have each value; ranks are shares of all ratings."""
    share_V = counts_V / counts_V.sum()
    if level == "nominal":
        return float(1 - (share_V**2).sum())
    place_V = np.cumsum(share_V) - share_V / 2 if level == "ordinal" else domain_V
    apart_VV = place_V[:, None] - place_V
    if level == "ratio":
        total_VV = place_V[:, None] + place_V
        apart_VV = np.divide(apart_VV, total_VV, out=np.zeros_like(apart_VV), where=total_VV != 0)
    return float(share_V @ apart_VV**2 @ share_V)


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

    def figure(rows: np.ndarray) -> Part:
        x, y = a[rows], b[rows]
        below = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)  # mean squared difference of any x from any y
        return (1 - float(((x - y) ** 2).mean()) / below, below) if below > 0 else UNDEFINED

    return jackknifed(figure, np.stack([a, b]), kept, missing)


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

    def variance_of_ranks(x: np.ndarray) -> float:
        return float(np.var(stats.rankdata(x) / len(x)))

    def untied(x: np.ndarray) -> float:
        return by_chance(np.unique(x, return_counts=True)[1], x, "nominal")

    def estimate(test: Callable[..., Any], spread: Callable[..., Any]) -> Estimate:
        def figure(rows: np.ndarray) -> Part:
            x, y = a[rows], b[rows]
            if len(rows) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                return UNDEFINED
            return float(test(x, y).statistic), math.sqrt(spread(x) * spread(y))

        return jackknifed(figure, np.stack([a, b]), kept, missing)

    return Correlations(
        estimate(stats.pearsonr, np.var),
        estimate(stats.spearmanr, variance_of_ranks),
        estimate(stats.kendalltau, untied),
    )


def ratio(x: np.ndarray, y: np.ndarray, power: int = 0) -> Part:
    """Correlation of deviations and its denominator, per row and, for ranks, per `power` of the number of rows."""
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return (float(x @ y) / scale, scale / len(x) ** (1 + power)) if scale > NOTHING else UNDEFINED


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
        def figure(rows: np.ndarray) -> Part:
            x, y = (deviations(values[rows], group[rows], ranked) for values in (a, b))
            return ratio(x, y, 2 if ranked else 0)

        return jackknifed(figure, np.stack([a, b]), kept, missing)

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

    def correlation(x: np.ndarray, y: np.ndarray, of_rows: np.ndarray | None) -> Part:
        if of_rows is None:
            of_rows = np.zeros(len(x), dtype=np.intp)
        counts = np.maximum(np.bincount(of_rows), 1)
        x, y = (values - (np.bincount(of_rows, values) / counts)[of_rows] for values in (x, y))
        return ratio(x, y) if len(x) > 2 else UNDEFINED

    def estimate(is_judge: bool, within: bool) -> Estimate:
        def figure(rows: np.ndarray) -> Part:
            found = []
            for left_out in range(len(table)):
                own, others = table[left_out][rows], np.delete(table, left_out, 0)[:, rows]
                present = ~np.isnan(own) & (~np.isnan(others)).any(0)
                if present.any():
                    mine = (scored[rows] if is_judge else own)[present]
                    of_rows = group[rows][present] if within else None
                    found.append(correlation(mine, np.nanmean(others[:, present], 0), of_rows))
            known = [part for part in found if not math.isnan(part[0])]
            return (mean(part[0] for part in known), mean(part[1] for part in known)) if known else UNDEFINED

        columns = np.vstack([scored, table]) if is_judge else table
        return jackknifed(figure, columns, kept, int((~compared).sum()))

    return {
        f"{name}{'_within' if within else ''}": estimate(name == "judge", within)
        for name in ("judge", "rater")
        for within in (False, True)
    }
