"""Shares and means that are corrected for the errors of a judge.

- From a calibration on planted errors: the share of answers that are incorrect, by Rogan and Gladen's formula.
- From answers that clinicians rated, a random part of those that the judge scored: means by prediction-powered
  inference, and the judge's errors by model.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import (
    CONFIDENCE,
    Column,
    Estimate,
    cluster_index,
    mean,
    numbers,
    same_length,
)

# A judge whose sensitivity + specificity - 1 is smaller knows too little: the correction would divide by almost 0.
LEAST_YOUDEN = 0.1
FEWEST_RATED = 5  # clusters
FOLDS = 5


@dataclass(frozen=True)
class Share:
    """Share from 0 to 1 with Wilson's interval on its effective number of answers."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    n: int
    missing: int
    undefined: str = ""
    effective: float = 0.0  # number of independent answers whose interval would be as wide


@dataclass(frozen=True)
class Spread:
    """Variance of the mean of clustered values, its degrees of freedom, and the effective number of clusters."""

    variance: float
    freedom: float
    clusters: float  # Kish's: fewer than there are if their sizes differ


def spread_of(values: np.ndarray, clusters: np.ndarray) -> Spread:
    """CR2 variance of a mean, which also holds for few clusters and for one that dominates (Bell and McCaffrey 2002).

    Its degrees of freedom are Satterthwaite's, or those that the observed parts of the variance give if these are
    fewer. At least two clusters are needed.
    """
    index = np.unique(clusters, return_inverse=True)[1]
    share = np.bincount(index) / len(values)
    parts = (np.bincount(index, values - values.mean()) / len(values)) ** 2 / (1 - share)
    pull = share**2 / (1 - share)
    variance = float(parts.sum())
    freedom = float(1 / ((share**2).sum() + pull.sum() ** 2 - (pull**2).sum()))
    if variance > 0:
        excess = float(((parts / variance) ** 2).sum()) - 1 / len(parts)
        freedom = min(freedom, max(1.0, 2 / excess)) if excess > 0 else freedom
    return Spread(variance, freedom, float(1 / (share**2).sum()))


def wilson(value: float, variance: float, freedom: float, confidence: float) -> tuple[float, float, float]:
    """Bounds of a share between 0 and 1 and its effective number of answers (Korn and Graubard, Survey Methodol. 24).

    The effective number is that of independent answers with this variance, less what t needs over normal quantiles."""
    from scipy import stats
    from statsmodels.stats.proportion import proportion_confint

    tail = (1 - confidence) / 2
    effective = value * (1 - value) / variance * float(stats.norm.ppf(tail) / stats.t.ppf(tail, freedom)) ** 2
    low, high = proportion_confint(value * effective, effective, alpha=1 - confidence, method="wilson")
    return float(low), float(high), effective


def clustered_share(values: Column, clusters: Sequence[Hashable], confidence: float = CONFIDENCE) -> Share:
    """Mean of flags (0, 1, or 0.5 for a tie; None and nan are missing) with a clustered interval.

    Without variation, every cluster counts as one answer.
    """
    from statsmodels.stats.proportion import proportion_confint

    same_length(values=values, clusters=clusters)
    array = numbers(values)
    present = ~np.isnan(array)
    known, missing = array[present], int((~present).sum())
    index = cluster_index(clusters)[0][present]
    if not len(known):
        return Share(None, None, None, 0, 0, missing, "no data")
    value, count = float(known.mean()), round(float(known.sum()))
    if len(set(index)) == 1:
        return Share(value, None, None, count, len(known), missing, "no interval: one cluster only")
    spread = spread_of(known, index)
    if spread.variance > 0 and 0 < value < 1:
        # No more than as many independent answers: clusters that differ less than by chance do so by chance.
        variance = max(spread.variance, value * (1 - value) / len(known))
        low, high, effective = wilson(value, variance, spread.freedom, confidence)
    else:
        effective = spread.clusters
        low, high = proportion_confint(value * effective, effective, alpha=1 - confidence, method="wilson")
    return Share(value, float(low), float(high), count, len(known), missing, "", effective)


# ---------------------------------------------------------------- Rogan and Gladen


def rogan_gladen(
    apparent: Share, sensitivity: Share, specificity: Share, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """True share of incorrect answers from the share that the judge calls incorrect; fields of an Estimate.

    (apparent + specificity - 1) / (sensitivity + specificity - 1) (Rogan and Gladen, Am. J. Epidemiol. 107, 1978), cut
    to 0 and 1. The interval is that of Lang and Reiczigel (Prev. Vet. Med. 113, 2014), which contains the uncertainty
    of all three shares. It assumes that the judge errs on real errors as on planted ones.
    """
    from scipy import stats

    shares = (apparent, sensitivity, specificity)
    count, missing = apparent.n, apparent.missing
    if any(each.value is None for each in shares):
        return asdict(Estimate(None, None, None, count, count, missing, "no data"))
    p, se, sp = (float(each.value or 0.0) for each in shares)
    if se + sp - 1 < LEAST_YOUDEN:
        reason = "the judge hardly tells wrong answers from right ones"
        return asdict(Estimate(None, None, None, count, count, missing, reason))
    z = float(stats.norm.ppf((1 + confidence) / 2))
    n, n_se, n_sp = (each.effective for each in shares)
    # Shrunken shares, as in Agresti and Coull's interval, whose error is defined at 0 and 1 as well.
    p_near = (n * p + z * z / 2) / (n + z * z)
    se_near, sp_near = (n_se * se + 1) / (n_se + 2), (n_sp * sp + 1) / (n_sp + 2)
    youden = se_near + sp_near - 1
    if youden <= 0:
        return asdict(Estimate(None, None, None, count, count, missing, "too few answers with known errors"))
    true_near = (p_near + sp_near - 1) / youden
    of_se, of_sp = se_near * (1 - se_near) / (n_se + 2), sp_near * (1 - sp_near) / (n_sp + 2)
    shift = 2 * z * z * (true_near * of_se - (1 - true_near) * of_sp)
    error = (
        math.sqrt(p_near * (1 - p_near) / (n + z * z) + (1 - true_near) ** 2 * of_sp + true_near**2 * of_se) / youden
    )
    value, low, high = (
        min(1.0, max(0.0, each))
        for each in ((p + sp - 1) / (se + sp - 1), true_near + shift - z * error, true_near + shift + z * error)
    )
    return asdict(Estimate(value, low, high, count, round(n), missing))


# ---------------------------------------------------------------- clinicians' ratings of a part


@dataclass(frozen=True)
class Powered:
    """A prediction-powered mean."""

    value: float
    spread: Spread
    n: int  # rated answers
    clusters: int  # of rated answers
    missing: int  # answers without a readable verdict


def prediction_powered(
    judge: Column, clinicians: Column, clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Estimate:
    """Mean of the clinicians' scores of all answers, of which they rated a random part and the judge scored most.

    Prediction-powered inference for a mean (Angelopoulos et al., Science 382, 2023) with the weight of the judge's
    scores that minimizes the error (PPI++, arXiv 2311.01453), estimated on other answers: unbiased whatever the judge
    is worth, and narrower the better it is. The interval is Student's t on the clustered variance. One row per answer;
    None and nan are missing. `n` is the number of rated answers, `clusters` that of their clusters. For shares, use
    `prediction_powered_share`.
    """
    from scipy import stats

    found = powered(judge, clinicians, clusters)
    if isinstance(found, Estimate):
        return found
    if found.spread.variance == 0:
        reason = "no interval: no variation"
        return Estimate(found.value, None, None, found.n, found.clusters, found.missing, reason)
    reach = float(stats.t.ppf((1 + confidence) / 2, found.spread.freedom)) * math.sqrt(found.spread.variance)
    return Estimate(found.value, found.value - reach, found.value + reach, found.n, found.clusters, found.missing)


def prediction_powered_share(
    judge: Column, clinicians: Column, clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Estimate:
    """As `prediction_powered`, for flags (0, 0.5 for a tie, or 1), such as `incorrect`.

    Near 0 and 1 a t interval is far too narrow: of a share of 10 %, 20 rated answers cover 84 %. This one is Wilson's,
    for the number of independent answers that would have the same error. Two errors of the judge are added, one in each
    direction and each half a unit: no error among few rated answers does not mean that there is none.
    """
    found = powered(judge, clinicians, clusters)
    if isinstance(found, Estimate):
        return found
    least = 0.5 / found.spread.clusters
    value = min(1.0, max(0.0, found.value))
    variance = found.spread.variance + 0.5 / found.spread.clusters**2
    low, high, _ = wilson(min(1 - least, max(least, value)), variance, found.spread.freedom, confidence)
    return Estimate(value, min(low, value), max(high, value), found.n, found.clusters, found.missing)


def powered(judge: Column, clinicians: Column, clusters: Sequence[Hashable]) -> Powered | Estimate:
    """The mean and its error, or an undefined Estimate if there are too few ratings."""
    same_length(judge=judge, clinicians=clinicians, clusters=clusters)
    scored, truth = numbers(judge, "judge"), numbers(clinicians, "clinicians")
    rated = ~np.isnan(truth)
    index, _ = cluster_index(clusters)
    n, rest, missing = int(rated.sum()), int((~rated).sum()), int(np.isnan(scored).sum())
    groups = len(set(index[rated]))
    if groups < FEWEST_RATED:
        reason = f"clinicians rated answers of {groups} independent units: at least {FEWEST_RATED} are needed"
        return Estimate(None, None, None, n, groups, missing, reason)
    # Any prediction gives an unbiased estimate; the least informative one replaces verdicts that are missing.
    scored = np.where(np.isnan(scored), np.nanmean(scored) if missing < len(scored) else 0.0, scored)
    weights = power_weights(scored, truth, index, rated)
    corrected = truth[rated] - weights * scored[rated]
    value, spread = float(corrected.mean()), spread_of(corrected, index[rated])
    if rest and weights.any():
        predicted = weights.mean() * scored[~rated]
        value += float(predicted.mean())
        spread = joint_spread((corrected, index[rated]), (predicted, index[~rated]), spread)
    return Powered(value, spread, n, groups, missing)


def joint_spread(
    rated: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], of_rated: Spread
) -> Spread:
    """Spread of the sum of two means of values in clusters, which may share clusters."""
    of_others = spread_of(*others) if len(set(others[1])) > 1 else Spread(0.0, 1.0, 1.0)
    size = int(max(rated[1].max(), others[1].max())) + 1
    sums = [np.bincount(index, (values - values.mean()) / len(values), size) for values, index in (rated, others)]
    separate = of_rated.variance + of_others.variance
    variance = max(separate + 2 * float(sums[0] @ sums[1]), of_rated.variance)
    squares = of_rated.variance**2 / of_rated.freedom + of_others.variance**2 / of_others.freedom
    freedom = separate**2 / squares if squares else of_rated.freedom
    return Spread(variance, freedom, of_rated.clusters)


def power_weights(scored: np.ndarray, truth: np.ndarray, index: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """Weight of the judge's score of each rated answer, from 0 (ignored) to 1.

    The weight of a fold of clusters minimizes the error by the other folds. From all answers at once, it would be 0 in
    just those samples that happen to contain no error, and a share of 10 % would come out as 8.6 %.
    """
    rest, variance = int((~rated).sum()), float(np.var(scored))
    fold = np.unique(index[rated], return_inverse=True)[1] % FOLDS
    weights = np.zeros(int(rated.sum()))
    for number in range(FOLDS if rest and variance else 0):
        others = fold != number
        covariance = float(np.cov(truth[rated][others], scored[rated][others])[0, 1])
        weights[~others] = np.clip(covariance / ((1 + len(weights) / rest) * variance), 0.0, 1.0)
    return weights


def errors_by_model(
    judge: Mapping[tuple[str, str], float], clinicians: Mapping[tuple[str, str], float], units: Mapping[str, Hashable]
) -> dict[str, Any]:
    """Errors of a judge's `incorrect` flag against the clinicians', for each model.

    judge, clinicians: (model, question id) -> joined flag, 0, 0.5 for a tie, or 1. Answers without both are left out.
    For each model: `sensitivity` and `specificity` (without ties of the clinicians), `excess`: the share
    that the judge calls incorrect minus the clinicians', and `against_others`: the excess minus the mean excess of the
    models on the same question. If its interval excludes 0, the judge errs differently on this model, and differences
    between models contain its error.
    """
    both = [
        key for key in clinicians if key in judge and not math.isnan(clinicians[key]) and not math.isnan(judge[key])
    ]
    excess = {key: judge[key] - clinicians[key] for key in both}
    of_question: dict[str, list[float]] = {}
    for (_, question), value in excess.items():
        of_question.setdefault(question, []).append(value)
    figures = {}
    for model in sorted({model for model, _ in both}):
        keys = [key for key in both if key[0] == model]
        clusters = [units[question] for _, question in keys]
        wrong, right = ([key for key in keys if clinicians[key] == value] for value in (1, 0))
        compared = [
            excess[key] - sum(of_question[key[1]]) / len(of_question[key[1]]) if len(of_question[key[1]]) > 1 else None
            for key in keys
        ]
        figures[model] = {
            "sensitivity": asdict(clustered_share([judge[key] for key in wrong], [units[key[1]] for key in wrong])),
            "specificity": asdict(clustered_share([1 - judge[key] for key in right], [units[key[1]] for key in right])),
            "excess": asdict(mean([excess[key] for key in keys], clusters)),
            "against_others": asdict(mean(compared, clusters)),
        }
    return figures
