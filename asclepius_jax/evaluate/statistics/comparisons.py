"""Compare two models on the same questions: difference, test and equivalence.

"p = 0.18" does not show that two models are equivalent. `equivalent` tests that, within a margin chosen beforehand.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
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
)
from asclepius_jax.evaluate.statistics.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    NOTHING,
    Spread,
    T,
    quantile,
    spread_of,
    t_interval,
)
from data_prep.contract.errors import UserError

LEVEL = 0.05
RESAMPLES = 10_000  # of the signs; all ways of flipping are tried if these are fewer
TWO_GROUPS = "CR2 of two groups, t"
UNSCALED = (-math.inf, math.inf)
IDENTICAL = "the two are identical on all {} pairs"


@dataclass(frozen=True)
class Outcome:
    """Result of a two-sided test, or the reason why it is undefined."""

    statistic: float | None
    p: float | None
    undefined: str = ""


@dataclass(frozen=True)
class Comparison:
    """The first model's values minus the second's, paired by question."""

    difference: Estimate  # mean difference; `missing` counts pairs without two values
    sign_flip: Outcome  # permutation test that flips all signs of a cluster together; the statistic is the difference


@dataclass(frozen=True)
class Interaction:
    """How a mean difference differs between two groups of clusters."""

    difference: Estimate  # of the differences; `missing` counts rows without a value
    test: Outcome  # t test on the clustered errors of both groups; the statistic is t


@dataclass(frozen=True)
class Equivalence:
    """Result of two one-sided tests; a small `p` supports the claim that the difference lies within the margin."""

    margin: float
    difference: float | None
    low: float | None  # bounds of the 1 - 2 x LEVEL interval; equivalent if it lies within the margin
    high: float | None
    p: float | None
    equivalent: bool | None
    n: int
    missing: int
    undefined: str = ""  # reason why it cannot be tested, or why no test was needed
    method: str = ""


def paired(first: Column, second: Column, clusters: Sequence[Hashable]) -> tuple[np.ndarray, list, int]:
    """Differences and clusters of the pairs with two values, and the number of pairs without."""
    same_length(first=first, second=second, clusters=clusters)
    differences = numbers(first, "first") - numbers(second, "second")
    present = ~np.isnan(differences)
    kept = [cluster for cluster, is_present in zip(clusters, present, strict=True) if is_present]
    return differences[present], kept, int((~present).sum())


def spread_of_differences(differences: np.ndarray, clusters: Sequence[Hashable]) -> Spread:
    return spread_of(differences, np.ones(len(differences)), cluster_index(clusters)[0])


def why_no_difference_interval(differences: np.ndarray, clusters: Sequence[Hashable]) -> str:
    """Reason why the mean difference has no interval and no equivalence test; empty if it has."""
    if len(set(clusters)) < FEWEST_CLUSTERS:
        return f"{few(len(set(clusters)))}, fewer than {FEWEST_CLUSTERS}"
    if np.ptp(differences) == 0:
        same = differences[0] == 0
        return IDENTICAL.format(len(differences)) if same else f"no variation: every pair differs by {differences[0]:g}"
    if spread_of_differences(differences, clusters).variance <= NOTHING * float(np.abs(differences).max()) ** 2:
        return "no variation between clusters"
    return ""


def compare(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable],
    scale: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """First minus second, which are values of the same questions in the same order, None or nan if missing.

    Pass rubric scores through `scores(...)`. scale: ends of the scale of the values, at which the difference's interval
    is cut. The test flips the signs of the clusters' sums: exact if two equal models' differences are
    symmetric, whatever the number and size of clusters. With one pair per cluster and differences of -1, 0 and 1 it is
    McNemar's exact test. Raises UserError for columns of unequal length.
    """
    differences, kept, missing = paired(first, second, clusters)
    ends = (scale[0] - scale[1], scale[1] - scale[0]) if scale else UNSCALED
    return Comparison(difference_of(differences, kept, missing, ends, confidence), flipped(differences, kept, seed))


def difference_of(
    differences: np.ndarray, clusters: Sequence[Hashable], missing: int, ends: tuple[float, float], confidence: float
) -> Estimate:
    """Mean difference with its interval, which is [0, 0] if all differences are 0."""
    count, units = len(differences), len(set(clusters))
    if not count:
        return Estimate(None, None, None, 0, 0, missing, "no data")
    why = why_no_difference_interval(differences, clusters)
    if why == IDENTICAL.format(count):
        return Estimate(0.0, 0.0, 0.0, count, units, missing, why, "identical")
    if why:
        return Estimate(float(differences.mean()), None, None, count, units, missing, f"no interval: {why}")
    spread = spread_of_differences(differences, clusters)
    low, high = t_interval(spread, confidence, ends)
    return Estimate(spread.value, low, high, count, units, missing, "", T, spread.freedom, spread.mark)


def flipped(differences: np.ndarray, clusters: Sequence[Hashable], seed: int = 0) -> Outcome:
    """The sign-flip test of the mean difference, two-sided.

    In all ways if these are at most RESAMPLES, otherwise in RESAMPLES random ways, of which the observed one is counted
    as another (Phipson and Smyth 2010)."""
    # In the order of the clusters' names, so that the random flips do not depend on the order of the rows.
    names, index = np.unique([repr(cluster) for cluster in clusters], return_inverse=True)
    if len(names) < 2:
        return Outcome(None, None, f"{few(len(names))}: a test needs at least two")
    sums_G = np.bincount(index, differences, len(names))
    sums_G = sums_G[np.abs(sums_G) > NOTHING]  # the sign of the others changes nothing
    observed = float(sums_G.sum())
    exact = 2 ** len(sums_G) <= RESAMPLES
    if exact:
        signs_RG = 1 - 2 * ((np.arange(2 ** len(sums_G))[:, None] >> np.arange(len(sums_G))) & 1)
    else:
        signs_RG = 1 - 2 * np.random.default_rng(seed).integers(0, 2, (RESAMPLES, len(sums_G)), dtype=np.int8)
    # Sums of thirds differ in their last digits between orders of summation.
    as_far = int((np.abs(signs_RG @ sums_G) >= abs(observed) - 1e-9 * np.abs(sums_G).sum()).sum())
    p = as_far / len(signs_RG) if exact else (1 + as_far) / (1 + RESAMPLES)
    return Outcome(observed / len(differences), p)


def interaction(
    inside: Column, inside_clusters: Sequence[Hashable], rest: Column, rest_clusters: Sequence[Hashable]
) -> Interaction:
    """Mean of the differences of two models inside a group minus that in the rest, with a t interval and test.

    Both errors are clustered (CR2); the degrees of freedom are those of the group that has fewer. A
    cluster with rows on both sides makes the test conservative. Without five clusters on each side there is no test.
    """
    from scipy import stats

    sides = []
    for values, clusters in ((inside, inside_clusters), (rest, rest_clusters)):
        same_length(values=values, clusters=clusters)
        array = numbers(values)
        known = ~np.isnan(array)
        sides.append((array[known], [c for c, is_known in zip(clusters, known, strict=True) if is_known]))
    (a, a_units), (b, b_units) = sides
    missing, units = len(inside) + len(rest) - len(a) - len(b), len(set(a_units) | set(b_units))
    value = float(a.mean() - b.mean()) if len(a) and len(b) else None
    bare = Estimate(value, None, None, len(a) + len(b), units, missing)
    fewest = min(len(set(a_units)), len(set(b_units)))
    if fewest < FEWEST_CLUSTERS:
        why = f"{few(fewest)} on one side, fewer than {FEWEST_CLUSTERS}"
        return Interaction(replace(bare, undefined=f"no interval: {why}"), Outcome(None, None, why))
    spreads = [spread_of_differences(*side) for side in sides]
    variance = spreads[0].variance + spreads[1].variance
    if value is None or variance <= NOTHING:
        return Interaction(replace(bare, undefined="no interval: no variation"), Outcome(None, None, "no variation"))
    # Welch's formula trusts the observed variances: with one dominant cluster of five it rejects 11.8 % falsely.
    freedom = min(each.freedom for each in spreads if each.variance)
    statistic, reach = value / math.sqrt(variance), quantile(freedom, CONFIDENCE) * math.sqrt(variance)
    mark = next((each.mark for each in sorted(spreads, key=lambda each: each.clusters) if each.mark), "")
    estimate = replace(bare, low=value - reach, high=value + reach, method=TWO_GROUPS, freedom=freedom, mark=mark)
    return Interaction(estimate, Outcome(statistic, float(2 * stats.t.sf(abs(statistic), freedom))))


def equivalent(
    first: Column, second: Column, clusters: Sequence[Hashable], margin: float, level: float = LEVEL
) -> Equivalence:
    """Two one-sided t tests (TOST, Schuirmann 1987) that the mean difference lies within ±margin, in its unit.

    The models are equivalent if the 1 - 2 x level interval, computed as that of `compare`, lies within the margin. The
    margin is a clinical judgement to make before seeing the scores. Raises UserError unless it is positive.
    """
    from scipy import stats

    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin:g}: give a positive difference of scores that would not matter")
    differences, kept, missing = paired(first, second, clusters)
    count = len(differences)
    value = float(differences.mean()) if count else None
    if why := why_no_difference_interval(differences, kept):
        if why == IDENTICAL.format(count):
            return Equivalence(margin, 0.0, 0.0, 0.0, 0.0, True, count, missing, why, "identical")
        return Equivalence(margin, value, None, None, None, None, count, missing, why)
    spread = spread_of_differences(differences, kept)
    above = stats.t.sf((spread.value + margin) / spread.error, spread.freedom)
    below = stats.t.cdf((spread.value - margin) / spread.error, spread.freedom)
    p = float(max(above, below))
    low, high = t_interval(spread, 1 - 2 * level)
    return Equivalence(margin, value, low, high, p, p < level, count, missing, method=T)


def by_holm(p_values: Mapping[Any, float | None]) -> dict[Any, float | None]:
    """p values of a family of tests, such as one per model and task, adjusted by Holm's step-down procedure.

    An undefined p value (None) stays None and does not count as a test.
    """
    tested = {name: p for name, p in p_values.items() if p is not None}
    if any(not 0 <= p <= 1 for p in tested.values()):
        raise UserError(f"p values must lie between 0 and 1, not {', '.join(f'{n} {p:g}' for n, p in tested.items())}")
    known: dict[Any, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(tested, key=lambda name: tested[name])):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[name]))
        known[name] = largest
    return {name: known.get(name) for name in p_values}
