"""Shares and means that are corrected for the errors of a judge.

- From a calibration on planted errors: the share of answers that are incorrect, by Rogan and Gladen's formula.
- From answers that clinicians rated, a random part of those that the judge scored: means by prediction-powered
  inference, and the judge's errors by model.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import (
    SHARE,
    Column,
    Estimate,
    Rate,
    mean,
    numbers,
    rate,
    same_length,
)
from asclepius_jax.evaluate.statistics.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    Spread,
    spread_of,
    t_interval,
    wilson_interval,
)

# A judge whose sensitivity + specificity - 1 is smaller knows too little: the correction would divide by almost 0.
LEAST_YOUDEN = 0.1
FOLDS = 5
ROGAN_GLADEN = "Rogan and Gladen, interval of Lang and Reiczigel"
POWERED = "prediction-powered, CR2, t"
POWERED_SHARE = "prediction-powered, CR2, Wilson with t"


# ---------------------------------------------------------------- Rogan and Gladen


def effective_number(share: Rate, confidence: float = CONFIDENCE) -> float:
    """Number of independent answers whose Wilson interval would be as wide as this clustered one.

    Wilson's width w of n answers with share p solves, in u = 1 / n,
    z⁴ (1 - w²) u² + 4 z² (p (1 - p) - w² / 2) u = w².
    """
    from scipy import stats

    assert share.value is not None
    assert share.low is not None
    assert share.high is not None
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    width2 = (share.high - share.low) ** 2
    square, linear = z2**2 * (1 - width2), 4 * z2 * (share.value * (1 - share.value) - width2 / 2)
    return 2 * square / (math.sqrt(linear**2 + 4 * square * width2) - linear)


def rogan_gladen(
    apparent: Rate, sensitivity: Rate, specificity: Rate, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """True share of incorrect answers from the share that the judge calls incorrect; fields of an Estimate.

    (apparent + specificity - 1) / (sensitivity + specificity - 1) (Rogan and Gladen, Am. J. Epidemiol. 107, 1978), cut
    to 0 and 1. The interval is that of Lang and Reiczigel (Prev. Vet. Med. 113, 2014), which contains the uncertainty
    of all three shares. It assumes that the judge errs on real errors as on planted ones.
    """
    from scipy import stats

    shares = (apparent, sensitivity, specificity)
    clusters = apparent.n if apparent.clusters is None else apparent.clusters
    bare = Estimate(None, None, None, apparent.n, clusters, apparent.missing)
    if any(each.value is None for each in shares):
        return asdict(replace(bare, undefined="no data"))
    p, se, sp = (float(each.value or 0.0) for each in shares)
    if se + sp - 1 < LEAST_YOUDEN:
        return asdict(replace(bare, undefined="the judge hardly tells wrong answers from right ones"))
    bare = replace(bare, value=min(1.0, max(0.0, (p + sp - 1) / (se + sp - 1))))
    if any(each.low is None for each in shares):
        why = next(each.undefined for each in shares if each.low is None)
        return asdict(replace(bare, undefined=why))
    z = float(stats.norm.ppf((1 + confidence) / 2))
    n, n_se, n_sp = (effective_number(each, confidence) for each in shares)
    # Shrunken shares, as in Agresti and Coull's interval, whose error is defined at 0 and 1 as well.
    p_near = (n * p + z * z / 2) / (n + z * z)
    se_near, sp_near = (n_se * se + 1) / (n_se + 2), (n_sp * sp + 1) / (n_sp + 2)
    youden = se_near + sp_near - 1
    if youden <= 0:
        return asdict(replace(bare, value=None, undefined="too few answers with known errors"))
    true_near = (p_near + sp_near - 1) / youden
    of_se, of_sp = se_near * (1 - se_near) / (n_se + 2), sp_near * (1 - sp_near) / (n_sp + 2)
    shift = 2 * z * z * (true_near * of_se - (1 - true_near) * of_sp)
    error = (
        math.sqrt(p_near * (1 - p_near) / (n + z * z) + (1 - true_near) ** 2 * of_sp + true_near**2 * of_se) / youden
    )
    low, high = (min(1.0, max(0.0, each)) for each in (true_near + shift - z * error, true_near + shift + z * error))
    # The mark of the share in this evaluation; those of the calibration stand beside its own figures.
    return asdict(replace(bare, low=low, high=high, method=ROGAN_GLADEN, mark=apparent.mark))


# ---------------------------------------------------------------- clinicians' ratings of a part


@dataclass(frozen=True)
class Powered:
    """A prediction-powered mean."""

    value: float
    spread: Spread
    n: int  # rated answers
    clusters: int  # of rated answers
    missing: int  # answers without a readable verdict

    def estimate(self, value: float, bounds: tuple[float, float], method: str) -> Estimate:
        return Estimate(
            value, *bounds, self.n, self.clusters, self.missing, "", method, self.spread.freedom, self.spread.mark
        )


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
    found = powered(judge, clinicians, clusters)
    if isinstance(found, Estimate):
        return found
    if found.spread.variance == 0:
        reason = "no interval: no variation"
        return Estimate(found.value, None, None, found.n, found.clusters, found.missing, reason)
    return found.estimate(found.value, t_interval(replace(found.spread, value=found.value), confidence), POWERED)


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
    units = found.spread.effective_clusters
    value, least = min(1.0, max(0.0, found.value)), 0.5 / units
    near = min(1 - least, max(least, value))
    spread = replace(
        found.spread, value=near, variance=found.spread.variance + 0.5 / units**2, row_variance=near * (1 - near)
    )
    low, high = wilson_interval(spread, SHARE, confidence)
    return found.estimate(value, (min(low, value), max(high, value)), POWERED_SHARE)


def powered(judge: Column, clinicians: Column, clusters: Sequence[Hashable]) -> Powered | Estimate:
    """The mean and its error, or an undefined Estimate if there are too few ratings."""
    same_length(judge=judge, clinicians=clinicians, clusters=clusters)
    scored, truth = numbers(judge, "judge"), numbers(clinicians, "clinicians")
    rated = ~np.isnan(truth)
    # By name, not by appearance: the folds of the weights must not depend on the order of the rows.
    index = np.unique([repr(cluster) for cluster in clusters], return_inverse=True)[1]
    n, rest, missing = int(rated.sum()), int((~rated).sum()), int(np.isnan(scored).sum())
    groups = len(set(index[rated]))
    if groups < FEWEST_CLUSTERS:
        reason = f"clinicians rated answers of {groups} independent units: at least {FEWEST_CLUSTERS} are needed"
        return Estimate(None, None, None, n, groups, missing, reason)
    # Any prediction gives an unbiased estimate; the least informative one replaces verdicts that are missing.
    scored = np.where(np.isnan(scored), np.nanmean(scored) if missing < len(scored) else 0.0, scored)
    weights = power_weights(scored, truth, index, rated)
    corrected = truth[rated] - weights * scored[rated]
    value, spread = float(corrected.mean()), spread_of(corrected, np.ones(n), index[rated])
    if rest and weights.any():
        predicted = weights.mean() * scored[~rated]
        value += float(predicted.mean())
        spread = joint_spread((corrected, index[rated]), (predicted, index[~rated]), spread)
    return Powered(value, spread, n, groups, missing)


def joint_spread(
    rated: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], of_rated: Spread
) -> Spread:
    """Spread of the sum of two means of values in clusters, which may share clusters.

    Welch's degrees of freedom, or the effective number of rated clusters - 1 (Carter, Schnepel and Steigerwald 2017)
    if that is smaller: where one cluster has most ratings, Welch's trust the variance between few.
    """
    of_others = spread_of(others[0], np.ones(len(others[0])), others[1])
    size = int(max(rated[1].max(), others[1].max())) + 1
    sums = [np.bincount(index, (values - values.mean()) / len(values), size) for values, index in (rated, others)]
    separate = of_rated.variance + of_others.variance
    variance = max(separate + 2 * float(sums[0] @ sums[1]), of_rated.variance)
    squares = sum(each.variance**2 / each.freedom for each in (of_rated, of_others) if each.variance)
    most = max(1.0, of_rated.effective_clusters - 1)
    freedom = min(separate**2 / squares, most) if squares else of_rated.freedom
    return replace(of_rated, variance=variance, freedom=freedom)


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
    other models on the same question. If its interval excludes 0, the judge errs differently on this model, and
    differences between models contain its error.
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
            excess[key] - (math.fsum(of_question[key[1]]) - excess[key]) / (len(of_question[key[1]]) - 1)
            if len(of_question[key[1]]) > 1
            else None
            for key in keys
        ]
        figures[model] = {
            "sensitivity": asdict(rate([judge[key] for key in wrong], [units[key[1]] for key in wrong])),
            "specificity": asdict(rate([1 - judge[key] for key in right], [units[key[1]] for key in right])),
            "excess": asdict(mean([excess[key] for key in keys], clusters, (-1.0, 1.0))),
            "against_others": asdict(mean(compared, clusters)),
        }
    return figures
