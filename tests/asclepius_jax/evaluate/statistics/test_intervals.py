"""Intervals equal an independent computation of CR2 and Wilson, and contain the truth at their rate."""

import math

import numpy as np
import pytest
from scipy import linalg, stats
from statsmodels.stats.proportion import proportion_confint

from asclepius_jax.evaluate.statistics import estimates
from asclepius_jax.evaluate.statistics.estimates import SCALE, SHARE, mean, rate, ratio_of_sums
from asclepius_jax.evaluate.statistics.intervals import spread_of
from tests.helpers.evaluation.drawn_scores import KINDS, clusters_of, drawn, events, truth

CLOSE = 1e-9


def cr2(values: np.ndarray, cluster_N: np.ndarray) -> tuple[float, float, float]:
    """Variance of the mean, and degrees of freedom by model and by moments, from Bell and McCaffrey's matrices."""
    count = len(values)
    ones = np.ones((count, 1))
    residual_maker = np.eye(count) - ones @ ones.T / count
    residuals, parts, columns = residual_maker @ values, [], []
    for cluster in np.unique(cluster_N):
        rows = np.flatnonzero(cluster_N == cluster)
        inverse = linalg.fractional_matrix_power(residual_maker[np.ix_(rows, rows)], -0.5)
        weights = ones[rows].T @ inverse / count
        parts.append((weights @ residuals[rows]).item() ** 2)
        columns.append((weights @ residual_maker[rows]).ravel())
    inner = np.asarray(columns) @ np.asarray(columns).T
    satterthwaite = np.trace(inner) ** 2 / np.trace(inner @ inner)
    observed = 2 * sum(parts) ** 2 / (np.square(parts).sum() - sum(parts) ** 2 / len(parts))
    return sum(parts), float(satterthwaite), float(observed)


def test_the_closed_form_is_cr2_with_satterthwaites_degrees_of_freedom():
    random = np.random.default_rng(0)
    cluster_N = np.repeat(np.arange(7), [1, 9, 2, 3, 1, 4, 6])
    fewer = []
    for _ in range(20):
        values = random.normal(size=len(cluster_N)) + 0.3 * random.normal(size=7)[cluster_N]
        variance, satterthwaite, observed = cr2(values, cluster_N)
        spread = spread_of(values, np.ones(len(values)), cluster_N)
        assert spread.variance == pytest.approx(variance, rel=1e-7)
        assert spread.freedom == pytest.approx(min(satterthwaite, observed), rel=1e-7)
        fewer.append(observed < satterthwaite)
    assert {True, False} == set(fewer)
    assert spread.value == pytest.approx(values.mean(), abs=CLOSE)
    single = spread_of(values, np.ones(len(values)), np.arange(len(values)))
    assert single.variance == pytest.approx(values.var(ddof=1) / len(values), rel=CLOSE)
    assert single.freedom <= len(values) - 1


def test_a_difference_has_students_interval_if_every_note_has_one_question():
    values = [0.5, -1.0, 2.0, 0.0, 1.0, -0.5, 1.5, 0.25]
    found = mean(values, range(8))
    expected = stats.t.interval(0.95, 7, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=CLOSE)
    assert found.method == "CR2, t"
    assert found.freedom == pytest.approx(7)


def test_a_clustered_share_is_near_wilson_if_every_note_has_one_answer():
    flags = [True] * 12 + [False] * 188
    low, high = proportion_confint(12, 200, method="wilson")
    alone, clustered = rate(flags), rate(flags, list(range(200)))
    assert (alone.low, alone.high) == pytest.approx((low, high), abs=CLOSE)
    assert (clustered.low, clustered.high) == pytest.approx((low, high), abs=0.005)
    assert (alone.method, clustered.method) == ("Wilson, independent events", "CR2, Wilson with t")
    # Every answer ten times on its note is no more evidence.
    tenfold = rate([flag for flag in flags for _ in range(10)], [note for note in range(200) for _ in range(10)])
    assert (tenfold.low, tenfold.high) == pytest.approx((clustered.low, clustered.high), abs=CLOSE)


@pytest.mark.parametrize("event", [False, True])
def test_none_of_n_and_all_of_n_have_a_one_sided_interval(event: bool):
    notes = [number // 5 for number in range(200)]
    found = rate([event] * 200, notes)
    low, high = proportion_confint(40 * event, 40, method="wilson")  # as if the five answers of a note were alike
    assert found.value == float(event)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_below_five_notes_there_is_no_interval_and_below_twenty_a_mark():
    def of(notes: int) -> estimates.Estimate:
        return mean([1, 2, 3, 4] * notes, [note for note in range(notes) for _ in range(4)], SCALE)

    for notes in (1, 2, 4):
        assert of(notes).low is None
        assert f"{notes} cluster" in of(notes).undefined
        assert "fewer than 5" in of(notes).undefined
    assert of(5).low is not None
    assert of(5).mark == "5 clusters"
    assert of(20).mark == ""
    dominated = mean([1.0, 4.0] * 50, [*range(40), *[40] * 60], SCALE)
    assert dominated.mark == "41 clusters, one with 60% of the rows"
    assert dominated.freedom < 4
    assert rate([True, False] * 2, [1, 2, 3, 4]).low is None


def test_intervals_stay_on_their_scale():
    random = np.random.default_rng(1)
    for _ in range(50):
        cluster_N = clusters_of(random, 6, dominated=False)
        found = mean(drawn(random, cluster_N, 0.5, KINDS["mostly 4"]), cluster_N, SCALE)
        assert 1 <= found.low <= found.value <= found.high <= 4


def test_a_ratio_of_sums_is_linearised():
    """Bits per byte of texts of different length: the variance is that of the sums' deviations from the ratio."""
    random = np.random.default_rng(2)
    below = random.integers(50, 500, 30).astype(float)
    above = below * random.normal(1.2, 0.1, 30)
    found = ratio_of_sums(above, below, range(30))
    deviations = (above - found.value * below) / below.sum()
    naive = math.sqrt(30 / 29 * (deviations**2).sum())
    half = (found.high - found.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 29) * naive, rel=0.05)
    assert ratio_of_sums([0.0, 0.0], [0.0, 0.0], [1, 2]).undefined == "division by zero"


def test_a_tie_counts_half():
    found = rate([1.0, 0.5, 0.0, None], [1, 2, 3, 4])
    assert (found.count, found.n, found.missing, found.value) == (1.5, 3, 1, 0.5)


# ---------------------------------------------------------------- coverage; benchmarks/intervals has the whole grid


def covered(kind: str, clusters: int, dominated: bool, correlation: float, draws: int) -> float:
    random, inside = np.random.default_rng(3), 0
    for _ in range(draws):
        cluster_N = clusters_of(random, clusters, dominated)
        found = mean(drawn(random, cluster_N, correlation, KINDS[kind]), cluster_N, SCALE)
        inside += found.low <= truth(KINDS[kind]) <= found.high
    return inside / draws


@pytest.mark.parametrize("dominated", [False, True])
@pytest.mark.parametrize("clusters", [5, 8, 20, 100])
@pytest.mark.parametrize("kind", ["spread", "mostly 4"])
def test_mean_scores_are_covered(kind: str, clusters: int, dominated: bool):
    # 400 draws have a standard error of 1.1 points.
    assert covered(kind, clusters, dominated, 0.3, 400) >= 0.93


@pytest.mark.parametrize("share", [0.02, 0.3, 0.98])
@pytest.mark.parametrize("clusters", [20, 100])
def test_shares_of_answers_on_shared_notes_are_covered(share: float, clusters: int):
    random, inside = np.random.default_rng(4), 0
    for _ in range(400):
        cluster_N = clusters_of(random, clusters, dominated=False)
        found = estimates.rate(list(events(random, cluster_N, 0.8, share)), list(cluster_N))
        inside += found.low <= share <= found.high
    assert inside / 400 >= 0.93


def test_an_f1_is_covered():
    random, inside = np.random.default_rng(5), 0
    for _ in range(400):
        cluster_N = clusters_of(random, 20, dominated=False)
        size = random.integers(1, 9, len(cluster_N))
        right = random.binomial(size, 0.7)
        found = ratio_of_sums(2.0 * right, right + size, cluster_N, SHARE)
        inside += found.low <= 2 * 0.7 / 1.7 <= found.high
    assert 0.93 <= inside / 400 <= 0.985


def test_intervals_that_ignore_the_notes_would_not_cover():
    random, inside = np.random.default_rng(40), 0
    for _ in range(200):
        cluster_N = clusters_of(random, 40, dominated=False)
        found = mean(drawn(random, cluster_N, 0.8, KINDS["spread"]), range(len(cluster_N)), SCALE)
        inside += found.low <= truth(KINDS["spread"]) <= found.high
    assert inside / 200 < 0.9
