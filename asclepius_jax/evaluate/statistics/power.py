"""Power: the smallest difference that questions detect, and how many patients and raters a study needs.

Power is that of a two-sided test at LEVEL of the mean difference of two models, computed from the noncentral t
distribution of the difference over its standard error.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from asclepius_jax.evaluate.statistics.comparisons import (
    LEVEL,
    RESAMPLES,
    paired,
    spread_of_differences,
    why_no_difference_interval,
)
from asclepius_jax.evaluate.statistics.estimates import Column, Estimate, few
from data_prep.contract.errors import UserError

POWER = 0.8
# Five clusters can never be significant, and the t distribution overstates what six and seven detect by 9 and 3 points.
FEWEST = 8
# With fewer of both, the power of the two-way test is up to 5 points less, or 8 points more, than stated.
FEWEST_PATIENTS, FEWEST_RATERS = 20, 4  # for a conclusion about all raters
METHOD = "noncentral t"


@dataclass(frozen=True)
class Components:
    """Standard deviations of the difference between two models' scores of one answer each, in points."""

    patient: float  # between patients: of some, one model understands more
    rater: float  # between raters: some prefer one model
    residual: float  # the rest


@dataclass(frozen=True)
class Design:
    """Size of a study in which both models answer the same questions and the same raters score both answers."""

    patients: int
    raters: int
    raters_per_patient: int = 0  # drawn evenly from the raters; 0 for all
    questions_per_patient: int = 1
    random_raters: bool = False
    """True if the conclusion is about all raters like these. Otherwise it is about these raters."""


def attainable(level: float, clusters: int) -> float:
    """Highest level up to `level` at which a sign-flip test of so many clusters can reject.

    Its p values are multiples of 2 ^ (1 - clusters)."""
    if 2**clusters > RESAMPLES:
        return level
    return math.floor(level * 2 ** (clusters - 1)) / 2 ** (clusters - 1)


def power_of(difference: float, error: float, freedom: float, level: float = LEVEL) -> float:
    """Power of the t test for a true difference with this standard error."""
    from scipy import stats

    critical, shift = stats.t.isf(level / 2, freedom), abs(difference) / error
    other_side = float(stats.nct.cdf(-critical, freedom, shift))  # nan where it is negligible
    return float(stats.nct.sf(critical, freedom, shift)) + (0.0 if math.isnan(other_side) else other_side)


def difference_with(power: float, error: float, freedom: float, level: float = LEVEL) -> float:
    """Smallest difference that is detected with this power. Raises UserError for a power outside (level, 1)."""
    from scipy import optimize

    if not (0 < level < power < 1):
        raise UserError(f"power {power:g} at level {level:g}: give a power between the level and 1")
    high = error
    while power_of(high, error, freedom, level) < power:
        high *= 2
    return float(optimize.brentq(lambda x: power_of(x, error, freedom, level) - power, 0.0, high))


def detectable_difference(
    first: Column,
    second: Column,
    clusters: Sequence[Hashable],
    power: float = POWER,
    level: float = LEVEL,
) -> Estimate:
    """Smallest true mean difference that the sign-flip test of `compare` would detect with this power.

    Computed from the observed clustered standard error. Not finding a smaller difference does not show that there is
    none. The estimate has no interval. Raises UserError if the power does not lie between the level and 1.
    """
    if not (0 < level < power < 1):
        raise UserError(f"power {power:g} at level {level:g}: give a power between the level and 1")
    differences, kept, missing = paired(first, second, clusters)
    count = len(set(kept))
    bare = Estimate(None, None, None, len(differences), count, missing)
    if why := why_no_difference_interval(differences, kept):
        return replace(bare, undefined=why)
    if count < FEWEST:
        return replace(bare, undefined=f"{few(count)}: too few to say what a sign-flip test detects")
    spread = spread_of_differences(differences, kept)
    value = difference_with(power, spread.error, spread.freedom, attainable(level, count))
    why = "no interval: computed from the spread"
    return replace(bare, value=value, undefined=why, method=METHOD, freedom=spread.freedom, mark=spread.mark)


def planned_error(components: Components, design: Design) -> tuple[float, float]:
    """Standard error of the mean difference in a planned study, and its degrees of freedom.

    These raters: patients are the clusters. Raters like these: the two-way test with random patients and random raters,
    variance (MS patients + MS raters - MS residual) / (patients x raters), whose degrees of freedom are Satterthwaite's
    (Obuchowski and Rockette 1995, Hillis 2007). Raises UserError for a design without a test.
    """
    patients, raters = design.patients, design.raters
    each = design.raters_per_patient or raters
    fewest = FEWEST_PATIENTS if design.random_raters else FEWEST
    if not (patients >= fewest and 1 <= each <= raters and design.questions_per_patient >= 1):
        raise UserError(f"{design}: give at least {fewest} patients, 1 question, and 1 to {raters} raters per patient")
    patient, rater = components.patient**2, components.rater**2
    residual = components.residual**2 / design.questions_per_patient
    if not design.random_raters:
        drawn = rater / each * (1 - each / raters)  # none if every rater sees every patient
        return math.sqrt((patient + drawn + residual / each) / patients), patients - 1
    if raters < FEWEST_RATERS or each < raters:
        raise UserError(
            f"{each} of {raters} raters per patient: a conclusion about all raters needs {FEWEST_RATERS} or "
            "more, who score every patient"
        )
    squares = (raters * patient + residual, patients * rater + residual, residual)
    total = squares[0] + squares[1] - squares[2]
    freedoms = (patients - 1, raters - 1, (patients - 1) * (raters - 1))
    freedom = total**2 / sum(square**2 / count for square, count in zip(squares, freedoms, strict=True))
    return math.sqrt(total / patients / raters), freedom


def planned_power(difference: float, components: Components, design: Design, level: float = LEVEL) -> float:
    """Power of a planned study to detect this mean difference, in points."""
    error, freedom = planned_error(components, design)
    return power_of(difference, error, freedom, level if design.random_raters else attainable(level, design.patients))


def planned_detectable(components: Components, design: Design, power: float = POWER, level: float = LEVEL) -> float:
    """Smallest mean difference, in points, that a planned study detects with this power.

    Raises UserError if the power does not lie between the level and 1."""
    error, freedom = planned_error(components, design)
    reachable = level if design.random_raters else attainable(level, design.patients)
    return difference_with(power, error, freedom, reachable)
