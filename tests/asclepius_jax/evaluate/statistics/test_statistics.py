"""Means, rates and tests equal independent computations, cover at their rate, and refuse what they cannot say."""

import math

import numpy as np
import pytest
import statsmodels.stats.api as sms
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from asclepius_jax.evaluate.statistics import comparisons, estimates
from data_prep.contract.errors import UserError

# Two models on 24 questions, three on each of eight notes.
FIRST = [4, 3, 4, 2, 4, 1, 3, 4, 4, 2, 3, 3, 4, 4, 1, 3, 2, 4, 4, 3, 4, 2, 3, 4]
SECOND = [3, 3, 2, 1, 4, 1, 2, 4, 3, 2, 1, 3, 4, 2, 1, 1, 2, 3, 4, 4, 3, 1, 3, 2]
NOTES = [f"note-{row // 3}" for row in range(24)]
OWN = list(range(24))  # every question on a note of its own
CLOSE = 1e-6


def test_paired_tests_equal_scipy():
    result = comparisons.compare(FIRST, SECOND, NOTES)
    t = stats.ttest_rel(FIRST, SECOND)
    wilcoxon = stats.wilcoxon(FIRST, SECOND)
    assert result.t.statistic == pytest.approx(t.statistic, abs=CLOSE)
    assert result.t.p == pytest.approx(t.pvalue, abs=CLOSE)
    assert result.wilcoxon.statistic == pytest.approx(wilcoxon.statistic, abs=CLOSE)
    assert result.wilcoxon.p == pytest.approx(wilcoxon.pvalue, abs=CLOSE)
    assert result.difference.value == pytest.approx(np.mean(FIRST) - np.mean(SECOND), abs=CLOSE)
    assert (result.difference.n, result.difference.clusters, result.difference.missing) == (24, 8, 0)


def test_the_clustered_t_is_the_plain_one_where_every_note_has_one_pair():
    own = comparisons.compare(FIRST, SECOND, OWN)
    assert own.t_clustered.statistic == pytest.approx(own.t.statistic, abs=CLOSE)
    assert own.t_clustered.p == pytest.approx(own.t.p, abs=CLOSE)
    # Every pair twice on one note is no more evidence; the plain test believes that it is.
    twice = comparisons.compare(FIRST * 2, SECOND * 2, OWN * 2)
    assert twice.t.p < own.t.p / 10
    assert twice.t_clustered.p == pytest.approx(own.t_clustered.p, rel=0.2)


def test_signs_flip_by_note_in_every_way():
    result = comparisons.compare(FIRST, SECOND, NOTES)
    sums = (np.asarray(FIRST) - np.asarray(SECOND)).reshape(8, 3).sum(1)
    signs = 1 - 2 * ((np.arange(2**8)[:, None] >> np.arange(8)) & 1)
    as_far = np.abs(signs @ sums) >= abs(sums.sum())
    assert result.sign_flip.p == pytest.approx(as_far.mean(), abs=CLOSE)


def test_random_sign_flips_are_near_the_t_test_and_repeat():
    random = np.random.default_rng(1)
    first = random.normal(0.15, 1, 120)
    results = [comparisons.compare(first, np.zeros(120), range(120), 5_000, seed=seed) for seed in (3, 3, 4)]
    assert results[0] == results[1] != results[2]
    assert results[0].sign_flip.p == pytest.approx(results[0].t.p, abs=0.02)


def test_equivalence_equals_statsmodels_and_needs_more_than_a_large_p():
    p, _, _ = sms.ttost_paired(np.asarray(FIRST), np.asarray(SECOND), -1.0, 1.0)
    result = comparisons.equivalent(FIRST, SECOND, OWN, 1.0)
    assert result.p == pytest.approx(p, abs=CLOSE)
    assert result.equivalent
    assert -1 < result.low < result.high < 1
    few = comparisons.compare(FIRST[:6], SECOND[:6], OWN[:6])
    assert few.t.p > 0.05
    assert comparisons.equivalent(FIRST[:6], SECOND[:6], OWN[:6], 0.3).equivalent is False
    with pytest.raises(UserError, match="margin 0"):
        comparisons.equivalent(FIRST, SECOND, OWN, 0)


def test_the_unacceptable_rate_equals_wilson_of_statsmodels():
    low, high = proportion_confint(6, 24, method="wilson")
    rate = estimates.unacceptable_rate([*SECOND, 0, None, math.nan])
    assert (rate.count, rate.n, rate.missing) == (6, 24, 3)
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.25, low, high), abs=CLOSE)
    assert estimates.unacceptable_rate([4, 4]).low == 0
    assert estimates.unacceptable_rate([0]).value is None


def test_mcnemar_equals_statsmodels_and_the_binomial():
    result = comparisons.mcnemar([*FIRST, 0], [*SECOND, 1])
    assert (result.both, result.first_only, result.second_only, result.neither, result.missing) == (2, 0, 4, 18, 1)
    assert result.p == pytest.approx(reference_mcnemar([[2, 0], [4, 18]], exact=True).pvalue, abs=CLOSE)
    assert result.p == pytest.approx(stats.binomtest(0, 4).pvalue, abs=CLOSE)
    same = comparisons.mcnemar(FIRST, FIRST)
    assert same.p is None
    assert "only one of the two" in same.undefined


def test_holm_of_a_known_example():
    adjusted = comparisons.by_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert adjusted == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": 0.06, "d": 0.02, "e": None}
    assert comparisons.by_holm({}) == {}
    with pytest.raises(UserError, match="p values"):
        comparisons.by_holm({"a": 1.5})


def test_the_detectable_difference_equals_the_power_of_the_paired_t_test():
    spread = np.std(np.asarray(FIRST) - np.asarray(SECOND), ddof=1)
    effect = TTestPower().solve_power(nobs=24, alpha=0.05, power=0.8)
    result = comparisons.detectable_difference(FIRST, SECOND, OWN)
    assert result.value == pytest.approx(effect * spread, abs=CLOSE)
    # And a simulation of that difference is significant in four of five studies.
    random = np.random.default_rng(0)
    draws = random.normal(result.value, spread, (4_000, 24))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_means_by_group_leave_missing_scores_out_and_count_them():
    values = estimates.scores([4, 0, 2, None, 3, 1])
    groups = [("m", "a"), ("m", "a"), ("m", "a"), ("m", "b"), ("m", "b"), ("m", "b")]
    means = estimates.means_by(groups, values, [1, 1, 2, 2, 3, 4])
    assert list(means) == [("m", "a"), ("m", "b")]
    first = means["m", "a"]
    assert (first.value, first.n, first.clusters, first.missing) == (3.0, 2, 2, 1)
    assert means["m", "b"].value == 2.0
    again = estimates.means_by(groups, values, [1, 1, 2, 2, 3, 4])
    assert means == again


def test_pairs_lacking_a_score_are_left_out_and_counted():
    first, second = estimates.scores([*FIRST, 0, 3]), estimates.scores([*SECOND, 2, None])
    result = comparisons.compare(first, second, [*NOTES, "x", "y"])
    assert (result.difference.n, result.difference.missing) == (24, 2)
    assert result.t == comparisons.compare(FIRST, SECOND, NOTES).t


def test_nothing_is_invented():
    empty = estimates.mean([], [])
    assert (empty.value, empty.low, empty.n) == (None, None, 0)
    assert "no data" in empty.undefined
    one = estimates.mean([3], ["n"])
    assert (one.value, one.low) == (3.0, None)
    assert "one cluster" in one.undefined
    constant = estimates.mean([4, 4, 4], [1, 2, 3])
    assert (constant.value, constant.low) == (4.0, None)
    assert "no variation" in constant.undefined
    assert estimates.mean([None, math.nan], [1, 2]).missing == 2
    for first, second, clusters, why in (
        ([], [], [], "0 pairs"),
        ([3], [4], ["n"], "1 pairs"),
        ([3, 4], [2, 2], ["n", "n"], "one cluster only"),
        ([3, 4, 2], [2, 3, 1], [1, 2, 3], "every pair differs by 1"),
    ):
        result = comparisons.compare(first, second, clusters)
        for test in (result.t, result.t_clustered, result.wilcoxon, result.sign_flip):
            assert test.p is None
            assert why in test.undefined
        assert comparisons.equivalent(first, second, clusters, 1.0).equivalent is None
        assert comparisons.detectable_difference(first, second, clusters).value is None


def test_bad_columns_are_refused_in_one_line():
    with pytest.raises(UserError, match="3 first, 2 second, 3 clusters"):
        comparisons.compare([1, 2, 3], [1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="2 values, 1 clusters"):
        estimates.means_by([1, 1], [1, 2], [1])
    with pytest.raises(UserError, match="row 1 is 5; the scale is 1 to 4"):
        estimates.scores([1, 5])
    with pytest.raises(UserError, match="infinite number in row 1"):
        estimates.mean([1, math.inf], [1, 2])
    with pytest.raises(UserError, match="could not convert"):
        estimates.numbers(["good"])


def test_percentiles_move_outwards_where_notes_are_few():
    # Ten notes: t of 9 degrees is 2.262157, times the root of 10/9 is 2.384527, below which 0.855 % of a normal lie.
    assert estimates.percentiles(10) == pytest.approx((0.0085510, 0.9914490), abs=CLOSE)
    assert estimates.percentiles(10**6) == pytest.approx((0.025, 0.975), abs=1e-5)


def test_a_ratio_that_most_resamples_lack_has_no_interval():
    columns = np.asarray([[1.0, 1.0], *[[0.0, 0.0]] * 9])

    def figure(sums: np.ndarray) -> np.ndarray:
        return estimates.ratio(sums[..., 0], sums[..., 1])

    result = estimates.estimate_of_sums(columns, range(10), figure)
    assert result.value == 1.0
    assert result.low is None
    assert "undefined in" in result.undefined


# ---------------------------------------------------------------- coverage


CUTS = stats.norm.ppf([0.1, 0.25, 0.55])  # of a standard normal: 10 % score 1, 15 % score 2, 30 % score 3, 45 % score 4
TRUTH = 1 + float(np.sum(1 - stats.norm.cdf(CUTS)))


def rated(random: np.random.Generator, notes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores 1 to 4, TRUTH on average, of one to six questions a note; half of the variance is the note's."""
    clusters = np.repeat(np.arange(notes), random.integers(1, 7, notes))
    latent = random.normal(0, math.sqrt(0.5), notes)[clusters] + random.normal(0, math.sqrt(0.5), len(clusters))
    return 1 + np.searchsorted(CUTS, latent), clusters


def coverage(notes: int, draws: int, resamples: int) -> float:
    random = np.random.default_rng(notes)
    inside = 0
    for draw in range(draws):
        values, clusters = rated(random, notes)
        estimate = estimates.mean(values, clusters, resamples, seed=draw)
        inside += estimate.low <= TRUTH <= estimate.high
    return inside / draws


def test_intervals_cover_at_their_rate_in_short():
    # 300 draws leave a standard error of 1.3 points.
    assert 0.91 <= coverage(40, 300, 1_000) <= 0.99


def test_intervals_that_ignore_the_notes_would_not():
    random = np.random.default_rng(40)
    inside = 0
    for draw in range(200):
        values, _ = rated(random, 40)
        estimate = estimates.mean(values, range(len(values)), 500, seed=draw)
        inside += estimate.low <= TRUTH <= estimate.high
    assert inside / 200 < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("notes", [20, 40, 100, 300])
def test_intervals_cover_at_their_rate(notes: int):
    assert coverage(notes, 1_000, 4_000) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_two_equal_models_are_told_apart_at_the_level():
    """The difference's interval and the tests that know of notes err in 5 % of studies; the plain t test in more."""
    random = np.random.default_rng(7)
    wrong = np.zeros(4)
    for draw in range(1_000):
        clusters = np.repeat(np.arange(60), random.integers(1, 7, 60))
        difference = random.normal(0, 1, 60)[clusters] + random.normal(0, 1, len(clusters))
        result = comparisons.compare(difference, np.zeros(len(clusters)), clusters, 999, seed=draw)
        outside = not result.difference.low <= 0 <= result.difference.high
        wrong += (outside, *(test.p < 0.05 for test in (result.t_clustered, result.sign_flip, result.t)))
    interval, clustered, flips, plain = wrong / 1_000
    assert (interval, clustered, flips) == pytest.approx((0.05, 0.05, 0.05), abs=0.02)
    assert plain > 0.1
