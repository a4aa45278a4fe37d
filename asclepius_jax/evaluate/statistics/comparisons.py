"""Two models on the same questions: is one better, are they the same, and what could have been seen at all.

"p = 0.18" does not say that two models are the same: `equivalent` tests that, within a margin that is stated first.
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
    """A two-sided test, or a reason why there is none."""

    statistic: float | None
    p: float | None
    undefined: str = ""


@dataclass(frozen=True)
class Comparison:
    """The first model's scores less the second's, pair by pair."""

    difference: Estimate  # its mean, note-clustered; `missing` counts pairs in which either score is
    t: Outcome  # paired; takes pairs as independent
    t_clustered: Outcome  # the same, with the standard error of notes; equal to `t` where each note has one pair
    wilcoxon: Outcome  # signed rank; takes pairs as independent
    sign_flip: Outcome  # permutation of signs, a note's all together; the statistic is the mean difference


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: `p` is that of the claim that the difference lies within the margin."""

    margin: float
    difference: float | None
    low: float | None  # the interval of 1 - 2 x LEVEL: equivalent where it lies within the margin
    high: float | None
    p: float | None
    equivalent: bool | None
    n: int
    missing: int
    undefined: str = ""


@dataclass(frozen=True)
class McNemar:
    """How two models' unacceptable answers fall together."""

    first_only: int  # unacceptable of the first model alone
    second_only: int
    both: int
    neither: int
    p: float | None
    missing: int
    undefined: str = ""


def paired(first: Column, second: Column, clusters: Sequence[Hashable]) -> tuple[np.ndarray, list, int]:
    """The differences of pairs that have both values, the clusters of these, and how many pairs lack one."""
    same_length(first=first, second=second, clusters=clusters)
    differences = numbers(first, "first") - numbers(second, "second")
    present = ~np.isnan(differences)
    kept = [cluster for cluster, there in zip(clusters, present, strict=True) if there]
    return differences[present], kept, int((~present).sum())


def why_untestable(differences: np.ndarray, clusters: Sequence[Hashable]) -> str:
    """Empty where the differences can be tested."""
    if len(differences) < 2:
        return f"{len(differences)} pairs: a test needs two"
    if len(set(clusters)) < 2:
        return "one note only"
    if np.ptp(differences) == 0:
        return f"no variation: every pair differs by {differences[0]:g}"
    return ""


def clustered_error(differences: np.ndarray, clusters: Sequence[Hashable]) -> tuple[float, int]:
    """The standard error of the mean difference when notes are the units, and its degrees of freedom, notes less one.

    The cluster-robust covariance of statsmodels, small-sample correction included; it is s / √n where every note has
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
    """First less second, of values of the same questions in the same order; None and nan are missing.

    Give `scores(...)` of rubric scores. t and Wilcoxon are scipy's (zero differences dropped, as Wilcoxon did); the
    signs are flipped by scipy's permutation test, in every way where that is at most `resamples`, else in so many
    random ones. UserError for columns of unequal length.
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
        clustered = Outcome(None, None, "no variation between notes")
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
    """Whether the mean difference lies within ±margin, in the unit of the scores, by two one-sided t tests (TOST).

    Schuirmann (1987), with `clustered_error`; equal to statsmodels' ttost_paired where each note has one pair. The
    margin is a clinical judgement that must be made before the scores are seen. UserError for one that is not positive.
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
        why = "no variation between notes"
        return Equivalence(margin, difference, None, None, None, None, len(differences), missing, why)
    above = stats.t.sf((difference + margin) / error, freedom)
    below = stats.t.cdf((difference - margin) / error, freedom)
    p = float(max(above, below))
    reach = float(stats.t.isf(level, freedom)) * error
    bounds = (difference - reach, difference + reach)
    return Equivalence(margin, difference, *bounds, p, p < level, len(differences), missing)


def mcnemar(first: Column, second: Column) -> McNemar:
    """Whether two models give unacceptable answers (score 1) equally often to the same questions: the exact test.

    Rubric scores in the same order, missing ones (0, None, nan) left out with their pair. It takes questions as
    independent, whatever note they are on.
    """
    from statsmodels.stats import contingency_tables

    same_length(first=first, second=second)
    a, b = scores(first, "first"), scores(second, "second")
    present = ~(np.isnan(a) | np.isnan(b))
    bad_a, bad_b = a[present] == 1, b[present] == 1
    both, first_only = int((bad_a & bad_b).sum()), int((bad_a & ~bad_b).sum())
    second_only, neither = int((~bad_a & bad_b).sum()), int((~bad_a & ~bad_b).sum())
    p, why = None, "the two models are never unacceptable apart"
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
    """The smallest true mean difference that a paired two-sided t test would show with this power, in score points.

    From the spread of the differences at hand: statsmodels' power of the t test, with notes as the units; what a study
    of this size could not have seen is not shown to be absent. It has no interval.
    """
    from statsmodels.stats.power import TTestPower

    if not (level < power < 1 and 0 < level < 1):
        raise UserError(f"power {power:g} at level {level:g}: give a power between the level and 1")
    differences, kept, missing = paired(first, second, clusters)
    count = len(set(kept))
    why = why_untestable(differences, kept)
    if not why:
        error, _ = clustered_error(differences, kept)
        why = "" if error > 0 else "no variation between notes"
    if why:
        return Estimate(None, None, None, len(differences), count, missing, why)
    effect = TTestPower().solve_power(nobs=count, alpha=level, power=power, alternative="two-sided")
    value = float(np.squeeze(effect)) * error * math.sqrt(count)
    return Estimate(value, None, None, len(differences), count, missing, "no interval: planned from the spread")


def by_holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values adjusted by Holm's step-down for all of them being tested at once, such as one for each task.

    An undefined one (None) was no test: it stays None and does not count.
    """
    from statsmodels.stats.multitest import multipletests

    tested = {name: p for name, p in p_values.items() if p is not None}
    if any(not 0 <= p <= 1 for p in tested.values()):
        raise UserError(f"p values must lie in 0 to 1, not {', '.join(f'{n} {p:g}' for n, p in tested.items())}")
    adjusted = multipletests(list(tested.values()), method="holm")[1] if tested else []
    known = dict(zip(tested, map(float, adjusted), strict=True))
    return {name: known.get(name) for name in p_values}
