"""Compare two models on the same questions: difference, equivalence and the smallest detectable difference.

"p = 0.18" does not show that two models are equivalent. `equivalent` tests that, within a margin chosen beforehand.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import (
    RESAMPLES,
    Column,
    Estimate,
    cluster_index,
    mean,
    numbers,
    same_length,
    scores,
)
from data_prep.contract.errors import UserError

POWER = 0.8
LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """Result of a two-sided test, or the reason why it is undefined."""

    statistic: float | None
    p: float | None
    undefined: str = ""


@dataclass(frozen=True)
class Comparison:
    """Tests of the first model's scores minus the second's, paired by question."""

    difference: Estimate  # mean difference, clustered by note; `missing` counts pairs without two scores
    t: Outcome  # paired t test; assumes independent pairs
    t_clustered: Outcome  # t test with note-clustered standard error; equals `t` if each note has one pair
    wilcoxon: Outcome  # signed-rank test; assumes independent pairs
    sign_flip: Outcome  # permutation test that flips all signs of a note together; the statistic is the mean difference


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
    undefined: str = ""


@dataclass(frozen=True)
class McNemar:
    """Counts of questions by which of two models' answers are unacceptable, with McNemar's exact test."""

    first_only: int  # only the first model's answer is unacceptable
    second_only: int
    both: int
    neither: int
    p: float | None
    missing: int
    undefined: str = ""


def paired(first: Column, second: Column, clusters: Sequence[Hashable]) -> tuple[np.ndarray, list, int]:
    """Differences and clusters of the pairs with two values, and the number of pairs without."""
    same_length(first=first, second=second, clusters=clusters)
    differences = numbers(first, "first") - numbers(second, "second")
    present = ~np.isnan(differences)
    kept = [cluster for cluster, is_present in zip(clusters, present, strict=True) if is_present]
    return differences[present], kept, int((~present).sum())


def why_untestable(differences: np.ndarray, clusters: Sequence[Hashable]) -> str:
    """Reason why the differences cannot be tested; empty if they can."""
    if len(differences) < 2:
        return f"{len(differences)} pairs: a test needs at least two"
    if len(set(clusters)) < 2:
        return "one cluster only"
    if np.ptp(differences) == 0:
        return f"no variation: every pair differs by {differences[0]:g}"
    return ""


def clustered_error(differences: np.ndarray, clusters: Sequence[Hashable]) -> tuple[float, int]:
    """Standard error of the mean difference, clustered, and its degrees of freedom (clusters - 1).

    Uses the cluster-robust covariance of statsmodels with small-sample correction, which is s / √n if every note has
    one pair.
    """
    import statsmodels.api as sm

    index, count = cluster_index(clusters)
    model = sm.OLS(differences, np.ones(len(differences)))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": index}, use_t=True)
    return float(fit.bse[0]), count - 1


def compare(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Tests of first minus second, which are values of the same questions in the same order, None or nan if missing.

    Pass rubric scores through `scores(...)`. The t and Wilcoxon tests are scipy's (zero differences dropped, as
    Wilcoxon did). The signs are flipped by scipy's permutation test, in all ways if these are at most `resamples`,
    otherwise in `resamples` random ways. Raises UserError for columns of unequal length.
    """
    from scipy import stats

    differences, kept, missing = paired(first, second, clusters)
    estimate = mean(differences, kept, resamples, seed=seed)
    estimate = Estimate(**{**vars(estimate), "missing": missing})
    if why := why_untestable(differences, kept):
        none = Outcome(None, None, why)
        return Comparison(estimate, none, none, none, none)
    plain = stats.ttest_1samp(differences, 0)
    error, freedom = clustered_error(differences, kept)
    if error > 0:
        t = float(differences.mean() / error)
        clustered = Outcome(t, float(2 * stats.t.sf(abs(t), freedom)))
    else:
        clustered = Outcome(None, None, "no variation between clusters")
    signed = stats.wilcoxon(differences)
    index, count = cluster_index(kept)
    sums = np.bincount(index, differences, count)
    flips = stats.permutation_test(
        (sums,),
        lambda values, axis: values.sum(axis) / len(differences),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // count),
        rng=np.random.default_rng(seed),
    )
    return Comparison(
        estimate,
        Outcome(float(plain.statistic), float(plain.pvalue)),
        clustered,
        Outcome(float(signed.statistic), float(signed.pvalue)),
        Outcome(float(flips.statistic), float(flips.pvalue)),
    )


def equivalent(
    first: Column, second: Column, clusters: Sequence[Hashable], margin: float, level: float = LEVEL
) -> Equivalence:
    """Two one-sided t tests (TOST, Schuirmann 1987) that the mean difference lies within ±margin, in score points.

    The standard error is that of `clustered_error`; the result equals statsmodels' ttost_paired if each note has one
    pair. The margin is a clinical judgement to make before seeing the scores. Raises UserError unless it is positive.
    """
    from scipy import stats

    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin:g}: give a positive difference of scores that would not matter")
    differences, kept, missing = paired(first, second, clusters)
    if why := why_untestable(differences, kept):
        return Equivalence(margin, None, None, None, None, None, len(differences), missing, why)
    difference = float(differences.mean())
    error, freedom = clustered_error(differences, kept)
    if error == 0:
        why = "no variation between clusters"
        return Equivalence(margin, difference, None, None, None, None, len(differences), missing, why)
    above = stats.t.sf((difference + margin) / error, freedom)
    below = stats.t.cdf((difference - margin) / error, freedom)
    p = float(max(above, below))
    reach = float(stats.t.isf(level, freedom)) * error
    bounds = (difference - reach, difference + reach)
    return Equivalence(margin, difference, *bounds, p, p < level, len(differences), missing)


def mcnemar(first: Column, second: Column) -> McNemar:
    """McNemar's exact test that two models give unacceptable answers (score 1) equally often to the same questions.

    Takes rubric scores in the same order and leaves out pairs with a missing score (0, None, nan). The test assumes
    independent questions, even if they share a note.
    """
    from statsmodels.stats import contingency_tables

    same_length(first=first, second=second)
    a, b = scores(first, "first"), scores(second, "second")
    present = ~(np.isnan(a) | np.isnan(b))
    bad_a, bad_b = a[present] == 1, b[present] == 1
    both, first_only = int((bad_a & bad_b).sum()), int((bad_a & ~bad_b).sum())
    second_only, neither = int((~bad_a & bad_b).sum()), int((~bad_a & ~bad_b).sum())
    p, why = None, "no question on which only one of the two models is unacceptable"
    if first_only + second_only:
        table = [[both, first_only], [second_only, neither]]
        p, why = float(contingency_tables.mcnemar(table, exact=True).pvalue), ""
    return McNemar(first_only, second_only, both, neither, p, int((~present).sum()), why)


def detectable_difference(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable],
    power: float = POWER,
    level: float = LEVEL,
) -> Estimate:
    """Smallest true mean difference that a paired two-sided t test would detect with this power, in score points.

    Computed by statsmodels' power of the t test from the observed spread of the differences, with clusters as units.
    Not finding a smaller difference does not show that there is none. The estimate has no interval. Raises UserError if
    the power does not lie between the level and 1.
    """
    from statsmodels.stats.power import TTestPower

    if not (level < power < 1 and 0 < level < 1):
        raise UserError(f"power {power:g} at level {level:g}: give a power between the level and 1")
    differences, kept, missing = paired(first, second, clusters)
    count = len(set(kept))
    why = why_untestable(differences, kept)
    if not why:
        error, _ = clustered_error(differences, kept)
        why = "" if error > 0 else "no variation between clusters"
    if why:
        return Estimate(None, None, None, len(differences), count, missing, why)
    effect = TTestPower().solve_power(nobs=count, alpha=level, power=power, alternative="two-sided")
    value = float(np.squeeze(effect)) * error * math.sqrt(count)
    return Estimate(value, None, None, len(differences), count, missing, "no interval: computed from the spread")


def by_holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values adjusted for multiple tests, such as one per task, by Holm's step-down procedure.

    An undefined p value (None) stays None and does not count as a test.
    """
    from statsmodels.stats.multitest import multipletests

    tested = {name: p for name, p in p_values.items() if p is not None}
    if any(not 0 <= p <= 1 for p in tested.values()):
        raise UserError(f"p values must lie between 0 and 1, not {', '.join(f'{n} {p:g}' for n, p in tested.items())}")
    adjusted = multipletests(list(tested.values()), method="holm")[1] if tested else []
    known = dict(zip(tested, map(float, adjusted), strict=True))
    return {name: known.get(name) for name in p_values}
