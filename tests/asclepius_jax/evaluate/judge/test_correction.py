"""Corrected shares and means are unbiased, and their intervals contain the truth as often as they say."""

import math

import numpy as np
import pytest

from asclepius_jax.evaluate.judge.correction import (
    effective_number,
    errors_by_model,
    prediction_powered,
    prediction_powered_share,
    rogan_gladen,
)
from asclepius_jax.evaluate.statistics.estimates import rate

DRAWS = 1000


def flags(random, truth, sensitivity, specificity):
    return (random.random(len(truth)) < np.where(truth, sensitivity, 1 - specificity)).astype(float)


@pytest.mark.parametrize("true_share", [0.05, 0.15, 0.4])
def test_rogan_and_gladen_undo_a_judges_errors(true_share):
    """A judge with sensitivity 0.8 and specificity 0.9, known from 80 wrong and 80 right answers, judges 200."""
    random, inside, values, apparent = np.random.default_rng(1), 0, [], []
    for _ in range(DRAWS):
        judged = flags(random, random.random(200) < true_share, 0.8, 0.9)
        sensitivity = rate(flags(random, np.ones(80, bool), 0.8, 0.9), range(80))
        specificity = rate(1 - flags(random, np.zeros(80, bool), 0.8, 0.9), range(80))
        share = rate(judged, range(200))
        corrected = rogan_gladen(share, sensitivity, specificity)
        inside += corrected["low"] <= true_share <= corrected["high"]
        values.append(corrected["value"])
        apparent.append(share.value)
    assert np.mean(values) == pytest.approx(true_share, abs=0.01)
    assert abs(np.mean(apparent) - true_share) > 0.05 or true_share == 0.4, "the apparent share is not"
    assert inside / DRAWS >= 0.93


def test_a_judge_that_knows_nothing_corrects_nothing():
    coin = rate([0, 1] * 40, range(80))
    corrected = rogan_gladen(coin, coin, coin)
    assert corrected["value"] is None
    assert corrected["undefined"] == "the judge hardly tells wrong answers from right ones"
    nothing = rate([], [])
    assert rogan_gladen(nothing, coin, coin)["undefined"] == "no data"


@pytest.mark.parametrize(("rated", "noise"), [(30, 0.3), (30, 3.0), (80, 0.8)])
def test_prediction_powered_means_are_unbiased_whatever_the_judge_is_worth(rated, noise):
    """A judge that scores 0.6 too high, with more or less noise; clinicians rate 30 or 80 of 300 answers."""
    random, inside, values, widths, alone = np.random.default_rng(2), 0, [], [], []
    expected = 0.15 * 1 + 0.25 * 2 + 0.25 * 3 + 0.35 * 4
    for _ in range(DRAWS):
        truth = random.choice([1.0, 2, 3, 4], 300, p=[0.15, 0.25, 0.25, 0.35])
        judge = truth + 0.6 + random.normal(0, noise, 300)
        clinicians = np.where(np.arange(300) < rated, truth, math.nan)
        estimate = prediction_powered(judge, clinicians, range(300))
        inside += estimate.low <= expected <= estimate.high
        values.append(estimate.value)
        widths.append(estimate.high - estimate.low)
        alone.append(2 * 2.0 * truth[:rated].std(ddof=1) / math.sqrt(rated))
    assert np.mean(values) == pytest.approx(expected, abs=0.02)
    assert inside / DRAWS >= 0.93
    # A good judge narrows the interval of the clinicians' ratings alone, and a bad one hardly widens it.
    assert np.mean(widths) < (0.75 if noise < 1 else 1.06) * np.mean(alone)


@pytest.mark.parametrize(
    ("share", "sensitivity", "specificity"), [(0.05, 0.8, 0.9), (0.1, 0.97, 0.98), (0.3, 0.5, 0.5)]
)
def test_prediction_powered_shares_hold_near_zero_and_for_good_and_useless_judges(share, sensitivity, specificity):
    """Clinicians rate 25 of 300 answers. The t interval of a mean would cover 60 to 90 %."""
    random, inside, of_mean, values = np.random.default_rng(6), 0, 0, []
    for _ in range(DRAWS):
        truth = random.random(300) < share
        judge, rated = flags(random, truth, sensitivity, specificity), np.where(np.arange(300) < 25, truth, math.nan)
        estimate, as_mean = (each(judge, rated, range(300)) for each in (prediction_powered_share, prediction_powered))
        inside += estimate.low <= share <= estimate.high
        of_mean += as_mean.low is not None and as_mean.low <= share <= as_mean.high
        values.append(as_mean.value)
    assert np.mean(values) == pytest.approx(share, abs=0.01)
    assert inside / DRAWS >= 0.93
    assert of_mean < inside


def test_prediction_powered_intervals_hold_for_answers_on_shared_notes_and_missing_verdicts():
    """Four answers to each of 60 notes, of which 20 are rated; the judge gives no verdict on a third of the worst."""
    random, inside, values = np.random.default_rng(3), 0, []
    notes = np.repeat(np.arange(60), 4)
    for _ in range(DRAWS):
        truth = 2.5 + random.normal(0, 0.6, 60)[notes] + random.normal(0, 0.6, 240)
        judge = 0.7 * truth + random.normal(0, 0.4, 240)
        judge[(truth < 2) & (random.random(240) < 1 / 3)] = math.nan
        estimate = prediction_powered(judge, np.where(notes < 20, truth, math.nan), notes)
        inside += estimate.low <= 2.5 <= estimate.high
        values.append(estimate.value)
    assert np.mean(values) == pytest.approx(2.5, abs=0.02)
    assert inside / DRAWS >= 0.93


def test_prediction_powered_intervals_hold_if_one_note_has_most_ratings():
    """Eight rated notes, one with 20 answers; the degrees of freedom are fewer than the effective number of notes."""
    random, inside = np.random.default_rng(5), 0
    notes = np.concatenate([np.repeat(np.arange(8), [20, 1, 2, 3, 4, 5, 1, 3]), np.repeat(np.arange(8, 40), 3)])
    for _ in range(DRAWS):
        truth = 2.5 + random.normal(0, 0.5, 40)[notes] + random.normal(0, 0.6, len(notes))
        judge = 0.8 * truth + random.normal(0, 0.4, len(notes))
        estimate = prediction_powered(judge, np.where(notes < 8, truth, math.nan), notes)
        inside += estimate.low <= 2.5 <= estimate.high
        assert estimate.freedom <= 39**2 / (20**2 + 1 + 2**2 + 3**2 + 4**2 + 5**2 + 1 + 3**2) - 1 + 1e-9
    assert inside / DRAWS >= 0.94


def test_the_order_of_the_answers_changes_no_corrected_mean():
    random = np.random.default_rng(8)
    judge = random.choice([1.0, 2, 3, 4], 120)
    clinicians = np.where(random.random(120) < 0.3, random.choice([1.0, 2, 3, 4], 120), math.nan)
    clusters = [f"n{n // 2}" for n in range(120)]
    order = random.permutation(120)
    told = prediction_powered(judge, clinicians, clusters)
    again = prediction_powered(judge[order], clinicians[order], [clusters[row] for row in order])
    assert (told.value, told.low, told.high) == pytest.approx((again.value, again.low, again.high), abs=1e-12)


def test_too_few_ratings_have_no_interval_and_ratings_of_all_answers_need_no_judge():
    few = prediction_powered([1.0] * 9, [2.0] * 4 + [None] * 5, range(9))
    assert (few.value, few.n) == (None, 4)
    truth = [1.0, 2, 3, 4, 4, 4]
    every = prediction_powered([4.0] * 6, truth, range(6))
    assert every.value == pytest.approx(3.0)


def test_the_interval_of_a_share_holds_where_answers_share_notes():
    random, inside, naive = np.random.default_rng(4), 0, 0
    notes = np.repeat(np.arange(20), 6)
    for _ in range(DRAWS):
        events = (random.random(120) < random.beta(2, 3, 20)[notes]).astype(float)
        share, single = rate(events, notes), rate(events, range(120))
        inside += share.low <= 0.4 <= share.high
        naive += single.low <= 0.4 <= single.high
    assert naive / DRAWS < 0.9, "as if answers were independent"
    assert inside / DRAWS >= 0.93


def test_an_effective_number_is_that_of_independent_answers_with_the_same_interval():
    for count, n in ((0, 12), (9, 30), (80, 160), (40, 40)):
        assert effective_number(rate([1.0] * count + [0.0] * (n - count))) == pytest.approx(n)
    notes = [number // 8 for number in range(40)]
    always = rate([1.0] * 40, notes)
    assert 2 < effective_number(always) < 5, "five notes without variation count at most once each"
    assert always.low < 0.6


def test_a_calibration_on_few_notes_corrects_the_share_without_an_interval():
    corrected = rogan_gladen(rate([1, 0] * 20), rate([1.0] * 40), rate([1.0] * 40, [n // 10 for n in range(40)]))
    assert (corrected["value"], corrected["low"]) == (0.5, None)
    assert "4 clusters only" in corrected["undefined"]


def test_a_judge_that_is_harsher_on_one_model_is_shown():
    random = np.random.default_rng(5)
    clinicians = {(m, f"q{n}"): float(random.random() < 0.3) for m in "abc" for n in range(80)}
    judge = {(m, name): float(flag or (m == "b" and random.random() < 0.4)) for (m, name), flag in clinicians.items()}
    figures = errors_by_model(judge, clinicians, {f"q{n}": n for n in range(80)})
    assert figures["a"]["specificity"]["value"] == figures["c"]["specificity"]["value"] == 1.0
    assert figures["b"]["specificity"]["value"] == pytest.approx(0.6, abs=0.12)
    assert figures["b"]["against_others"]["low"] > 0.05
    assert figures["a"]["against_others"]["high"] < 0
    harsh, others = figures["b"]["excess"]["value"], [figures[m]["excess"]["value"] for m in "ac"]
    assert figures["b"]["against_others"]["value"] == pytest.approx(harsh - sum(others) / 2)
    even = errors_by_model(clinicians, clinicians, {f"q{n}": n for n in range(80)})
    assert {even[m]["excess"]["value"] for m in "abc"} == {0.0}
