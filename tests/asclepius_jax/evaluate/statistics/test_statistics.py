"""Tests of differences equal independent computations, err at their level, and refuse what they cannot say."""

import math

import numpy as np
import pytest
import statsmodels.stats.api as sms
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower

from asclepius_jax.evaluate.statistics import comparisons, estimates, power
from asclepius_jax.evaluate.statistics.estimates import SCALE
from asclepius_jax.evaluate.statistics.joined import majority, mean_score
from asclepius_jax.evaluate.statistics.power import Components, Design
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.drawn_scores import KINDS, clusters_of, drawn

# Two models on 24 questions, three on each of eight notes.
FIRST = [4, 3, 4, 2, 4, 1, 3, 4, 4, 2, 3, 3, 4, 4, 1, 3, 2, 4, 4, 3, 4, 2, 3, 4]
SECOND = [3, 3, 2, 1, 4, 1, 2, 4, 3, 2, 1, 3, 4, 2, 1, 1, 2, 3, 4, 4, 3, 1, 3, 2]
NOTES = [f"note-{row // 3}" for row in range(24)]
OWN = list(range(24))  # every question on a note of its own
CLOSE = 1e-6


def test_signs_flip_by_note_in_every_way():
    result = comparisons.compare(FIRST, SECOND, NOTES)
    sums = (np.asarray(FIRST) - np.asarray(SECOND)).reshape(8, 3).sum(1)
    signs = 1 - 2 * ((np.arange(2**8)[:, None] >> np.arange(8)) & 1)
    as_far = np.abs(signs @ sums) >= abs(sums.sum())
    assert result.sign_flip.p == pytest.approx(as_far.mean(), abs=CLOSE)
    assert result.difference.value == pytest.approx(np.mean(FIRST) - np.mean(SECOND), abs=CLOSE)
    assert (result.difference.n, result.difference.clusters, result.difference.missing) == (24, 8, 0)


def test_random_sign_flips_are_near_the_t_test_and_repeat():
    random = np.random.default_rng(1)
    first = random.normal(0.15, 1, 120)
    results = [comparisons.compare(first, np.zeros(120), range(120), seed=seed) for seed in (3, 3, 4)]
    assert results[0] == results[1] != results[2]
    assert results[0].sign_flip.p == pytest.approx(stats.ttest_1samp(first, 0).pvalue, abs=0.02)


def test_the_order_of_the_answers_changes_no_sign_flip():
    """Nor do differences of nothing that summation leaves."""
    random = np.random.default_rng(4)
    differences = random.choice([-1, -1 / 3, 1 / 3, 1 / 3, 1], 60)
    names, order = [f"n{n // 2}" for n in range(60)], random.permutation(60)
    told = comparisons.flipped(differences, names)
    assert comparisons.flipped(differences[order], [names[row] for row in order]).p == told.p
    nothing = np.array([0.1, 0.2, -0.3])  # whose sum is not 0
    exact = comparisons.flipped(np.concatenate([nothing, [1, 1, 1]]), ["x", "x", "x", "a", "b", "c"])
    assert exact.p == comparisons.flipped(np.ones(3), ["a", "b", "c"]).p


def test_equal_thirds_are_equal_in_every_order():
    """Or the ranks of two answers depend on which vote was read first."""
    votes = ([4, 3, 1, 2, 4, 4, 1], [1, 4, 4, 2, 1, 3, 4])
    assert len({mean_score(v / 3 for v in given) for given in votes}) == 1


def test_the_sign_flip_of_unacceptable_answers_is_mcnemars_exact_test():
    """With one question per note; with several, a note counts once."""
    first, second = [float(score == 1) for score in FIRST], [float(score == 1) for score in SECOND]
    found = comparisons.compare(first, second, OWN)
    assert found.sign_flip.p == pytest.approx(mcnemar([[2, 0], [4, 18]], exact=True).pvalue, abs=CLOSE)
    tenfold = comparisons.compare(first * 10, second * 10, OWN * 10)
    assert tenfold.sign_flip.p == pytest.approx(found.sign_flip.p, abs=CLOSE)


def test_equivalence_is_that_of_the_90_percent_interval():
    for clusters in (OWN, NOTES):
        shown = comparisons.compare(FIRST, SECOND, clusters, SCALE, confidence=0.9).difference
        result = comparisons.equivalent(FIRST, SECOND, clusters, 1.0)
        assert (result.low, result.high) == pytest.approx((shown.low, shown.high), abs=CLOSE)
        assert result.method == shown.method
        # p is 5 % exactly where the margin touches the interval.
        touching = comparisons.equivalent(FIRST, SECOND, clusters, result.high)
        assert touching.p == pytest.approx(0.05, abs=1e-4)
        assert comparisons.equivalent(FIRST, SECOND, clusters, 1.01 * result.high).equivalent
        assert not comparisons.equivalent(FIRST, SECOND, clusters, 0.99 * result.high).equivalent
    with pytest.raises(UserError, match="margin 0"):
        comparisons.equivalent(FIRST, SECOND, OWN, 0)


def test_equivalence_is_that_of_statsmodels_if_every_note_has_one_question():
    first, second = np.tile([1.0, 2.0, 3.0, 4.0], 6), np.tile([2.0, 1.0, 4.0, 3.0], 6)
    p, _, _ = sms.ttost_paired(first, second, -0.5, 0.5)
    assert comparisons.equivalent(first, second, OWN, 0.5).p == pytest.approx(p, abs=CLOSE)


# ---------------------------------------------------------------- the extremes


def test_total_separation_has_a_p_value_and_takes_part_in_holm():
    result = comparisons.compare([4] * 30, [1] * 30, range(30), SCALE)
    assert result.difference.value == 3
    assert result.difference.low is None
    assert "every pair differs by 3" in result.difference.undefined
    assert result.sign_flip.p <= 2 / comparisons.RESAMPLES
    few = comparisons.compare([4] * 10, [1] * 10, range(10), SCALE)
    assert few.sign_flip.p == pytest.approx(2**-9)
    assert comparisons.by_holm({"a": few.sign_flip.p, "b": 0.5})["a"] == pytest.approx(2**-8)


def test_identical_answers_are_equivalent_and_say_why():
    result = comparisons.compare(FIRST, FIRST, NOTES, SCALE)
    assert (result.difference.value, result.difference.low, result.difference.high) == (0, 0, 0)
    assert result.sign_flip.p == 1
    same = comparisons.equivalent(FIRST, FIRST, NOTES, 0.01)
    assert same.equivalent
    assert same.undefined == "the two are identical on all 24 pairs"
    assert comparisons.equivalent(FIRST[:12], FIRST[:12], NOTES[:12], 0.3).equivalent is None, "four notes are too few"


def test_holm_of_a_known_example():
    adjusted = comparisons.by_holm({"a": 0.01, "b": 0.04, "c": 0.03, ("d", "task"): 0.005, "e": None})
    assert adjusted == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": 0.06, ("d", "task"): 0.02, "e": None}
    assert comparisons.by_holm({}) == {}
    with pytest.raises(UserError, match="p values"):
        comparisons.by_holm({"a": 1.5})


def test_pairs_lacking_a_score_are_left_out_and_counted():
    first, second = estimates.scores([*FIRST, 0, 3]), estimates.scores([*SECOND, 2, None])
    result = comparisons.compare(first, second, [*NOTES, "x", "y"])
    assert (result.difference.n, result.difference.missing) == (24, 2)
    assert result.sign_flip == comparisons.compare(FIRST, SECOND, NOTES).sign_flip


def test_nothing_is_invented():
    empty = estimates.mean([], [])
    assert (empty.value, empty.low, empty.n) == (None, None, 0)
    assert "no data" in empty.undefined
    one = estimates.mean([3], ["n"])
    assert (one.value, one.low) == (3.0, None)
    assert "1 cluster only" in one.undefined
    constant = estimates.mean([4] * 6, range(6))
    assert (constant.value, constant.low) == (4.0, None)
    assert "no variation" in constant.undefined
    assert estimates.mean([None, math.nan], [1, 2]).missing == 2
    for first, second, clusters, why in (
        ([], [], [], "0 clusters only"),
        ([3], [4], ["n"], "1 cluster only"),
        ([3, 4], [2, 2], ["n", "n"], "1 cluster only"),
        ([3] * 6, [2] * 6, range(6), "every pair differs by 1"),
    ):
        assert comparisons.equivalent(first, second, clusters, 1.0).equivalent is None
        assert why in comparisons.equivalent(first, second, clusters, 1.0).undefined
        assert power.detectable_difference(first, second, clusters).value is None
    assert comparisons.compare([3, 4], [2, 2], ["n", "n"]).sign_flip.p is None


def test_bad_columns_are_refused_in_one_line():
    with pytest.raises(UserError, match="3 first, 2 second, 3 clusters"):
        comparisons.compare([1, 2, 3], [1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="2 above, 2 below, 1 clusters"):
        estimates.mean([1, 2], [1])
    with pytest.raises(UserError, match="row 1 is 5; the scale is 1 to 4"):
        estimates.scores([1, 5])
    with pytest.raises(UserError, match="infinite number in row 1"):
        estimates.mean([1, math.inf], [1, 2])
    with pytest.raises(UserError, match="could not convert"):
        estimates.numbers(["good"])


# ---------------------------------------------------------------- error rates


@pytest.mark.parametrize(("clusters", "dominated"), [(5, False), (5, True), (8, False), (8, True), (12, True)])
def test_two_equal_models_differ_and_are_falsely_equivalent_at_the_level_only(clusters: int, dominated: bool):
    """Even where one note has 40 questions and the others one to three."""
    random, wrong = np.random.default_rng(7), np.zeros(3)
    for _ in range(400):
        cluster_N = clusters_of(random, clusters, dominated)
        first, second = (drawn(random, cluster_N, 0.5, KINDS["spread"]) for _ in range(2))
        result = comparisons.compare(first, second, cluster_N)
        same = comparisons.equivalent(first + 0.5, second, cluster_N, 0.5).equivalent  # a difference of the margin
        outside = not result.difference.low <= 0 <= result.difference.high
        wrong += outside, result.sign_flip.p < 0.05, bool(same)
    assert (wrong / 400 <= 0.07).all(), wrong / 400  # 400 draws have a standard error of 1.1 points


def test_losing_votes_changes_nothing():
    """Two equal models, of which one loses 30 % of the judge's three votes."""
    random, wrong, gaps = np.random.default_rng(8), 0, []
    cuts = stats.norm.ppf(KINDS["spread"])
    for _ in range(300):
        columns = []
        for lost in (0.0, 0.3):
            quality = math.sqrt(0.6) * random.normal(size=(60, 1))
            votes = 1 + np.searchsorted(cuts, quality + math.sqrt(0.4) * random.normal(size=(60, 3)))
            votes[random.random((60, 3)) < lost] = 0
            columns.append([mean_score(row) for row in votes.tolist()])
        result = comparisons.compare(*columns, [number // 6 for number in range(60)])
        wrong += result.sign_flip.p < 0.05
        gaps.append(result.difference.value)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / math.sqrt(300)
    assert wrong / 300 <= 0.07


def test_a_majority_of_ties_is_a_tie():
    assert [majority(flags) for flags in ([1, 1, 0], [1, 0], [0.5, 0.5], [1, 0.5], [])] == [
        1.0, 0.5, 0.5, 1.0, pytest.approx(math.nan, nan_ok=True)
    ]  # fmt: skip


# ---------------------------------------------------------------- power


def test_the_detectable_difference_equals_the_power_of_the_paired_t_test():
    random = np.random.default_rng(3)
    first = random.uniform(size=24)  # few extremes, so that the degrees of freedom are those of the t test
    effect = TTestPower().solve_power(nobs=24, alpha=0.05, power=0.8)
    result = power.detectable_difference(first, np.zeros(24), OWN)
    assert result.freedom == pytest.approx(23)
    assert result.value == pytest.approx(float(np.squeeze(effect)) * np.std(first, ddof=1), abs=1e-4)
    # And a simulation of that difference is significant in four of five studies.
    draws = random.normal(result.value, np.std(first, ddof=1), (4_000, 24))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_seven_notes_detect_nothing_that_could_be_said():
    """Flipping five signs gives p values from 1/16 on."""
    found = power.detectable_difference(FIRST[:21], SECOND[:21], NOTES[:21])
    assert found.value is None
    assert found.undefined == "7 clusters only: too few to say what a sign-flip test detects"
    assert [power.attainable(0.05, clusters) for clusters in (5, 6, 7, 100)] == [0, 1 / 32, 3 / 64, 0.05]


PARTS = Components(patient=0.5, rater=0.3, residual=0.8)


@pytest.mark.parametrize("design", [Design(8, 2), Design(10, 1), Design(30, 4, 2)])
def test_planned_power_about_these_raters_is_that_of_the_sign_flip(design: Design):
    difference = power.planned_detectable(PARTS, design)
    random, hits = np.random.default_rng(11), 0
    each = design.raters_per_patient or design.raters
    for _ in range(1_500):
        rater = random.normal(0, PARTS.rater, design.raters)
        table_PR = difference + random.normal(0, PARTS.patient, (design.patients, 1)) + rater - rater.mean()
        table_PR += random.normal(0, PARTS.residual, table_PR.shape)
        seen = [row[random.permutation(design.raters)[:each]].mean() for row in table_PR]
        hits += comparisons.flipped(np.asarray(seen), range(design.patients)).p < 0.05
    assert hits / 1_500 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("design", [Design(20, 4, random_raters=True), Design(40, 8, random_raters=True)])
def test_planned_power_about_all_raters_is_that_of_the_two_way_test(design: Design):
    difference = power.planned_detectable(PARTS, design)
    patients, raters = design.patients, design.raters
    random = np.random.default_rng(12)
    shape = (4_000, patients, raters)
    table = difference + random.normal(0, PARTS.patient, (4_000, patients, 1)) + random.normal(0, PARTS.residual, shape)
    table += random.normal(0, PARTS.rater, (4_000, 1, raters))
    by_patient, by_rater, grand = table.mean(2), table.mean(1), table.mean((1, 2))
    rest = table - by_patient[:, :, None] - by_rater[:, None, :] + grand[:, None, None]
    residual = (rest**2).sum((1, 2)) / (patients - 1) / (raters - 1)
    of_patients, of_raters = raters * by_patient.var(1, ddof=1), patients * by_rater.var(1, ddof=1)
    total = np.maximum(of_patients + of_raters - residual, of_raters)
    freedom = total**2 / (of_raters**2 / (raters - 1))  # Hillis (2007)
    p = 2 * stats.t.sf(np.abs(grand) / np.sqrt(total / patients / raters), freedom)
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_more_patients_or_raters_detect_less_and_impossible_plans_are_refused():
    sizes = [power.planned_detectable(PARTS, Design(patients, 2)) for patients in (10, 20, 40)]
    assert sizes == sorted(sizes, reverse=True)
    assert power.planned_detectable(PARTS, Design(20, 4)) < power.planned_detectable(PARTS, Design(20, 2))
    assert power.planned_power(0.4, PARTS, Design(50, 2)) > power.planned_power(0.4, PARTS, Design(25, 2))
    for design, why in ((Design(7, 2), "at least 8 patients"), (Design(20, 3, random_raters=True), "needs 4 or more")):
        with pytest.raises(UserError, match=why):
            power.planned_power(0.4, PARTS, design)
    with pytest.raises(UserError, match="power 1 at level"):
        power.planned_detectable(PARTS, Design(20, 2), power=1.0)
