"""What a mean score hides: missing verdicts, failed answers, models that decline, and length."""

import math
from dataclasses import replace

import numpy as np
import pytest

from asclepius_jax.evaluate.judge.fairness import declined, length_adjusted, readings
from asclepius_jax.evaluate.records import Answer
from tests.helpers.evaluation.made_evaluation import question

ABSENT = "This is not stated in the note."
ASKED = {
    f"q{n}": question(n, note_id=f"n{n}", reference=ABSENT if n % 10 == 9 else "Aspirin 100 mg.") for n in range(100)
}


def answers(text, finish_reason="stop"):
    return {name: Answer(name, "m", text, finish_reason) for name in ASKED}


def test_bounds_hold_the_truth_that_missing_verdicts_hide():
    """Verdicts on a third of the answers are missing, all of them on bad ones."""
    random = np.random.default_rng(0)
    truth = {name: float(random.choice([1, 1, 1, 3, 4])) for name in ASKED}
    shown = {name: math.nan if score == 1 and n % 2 else score for n, (name, score) in enumerate(truth.items())}
    figures = readings(shown, {}, answers("Aspirin."), ASKED)
    mean = sum(truth.values()) / 100
    assert figures["as_judged"]["value"] > mean + 0.3
    assert figures["worst"]["value"] == pytest.approx(mean), "the missing ones are all bad"
    assert figures["worst"]["value"] <= mean <= figures["best"]["value"]
    assert figures["missing"] == sum(map(math.isnan, shown.values()))


def test_bounds_hold_the_truth_that_missing_votes_hide():
    """Two votes on each answer, of which the lower one is lost on half of the answers: no answer lacks a verdict."""
    random = np.random.default_rng(0)
    votes = {name: sorted(random.choice([1.0, 2.0, 3.0, 4.0], 2)) for name in ASKED}
    lost = {name: 0.5 * (n % 2) for n, name in enumerate(ASKED)}
    shown = {name: given[1] if lost[name] else sum(given) / 2 for name, given in votes.items()}
    figures = readings(shown, lost, answers("Aspirin."), ASKED)
    mean = sum(map(sum, votes.values())) / 200
    assert figures["as_judged"]["value"] > mean + 0.2
    assert figures["worst"]["value"] <= mean <= figures["best"]["value"]
    assert figures["best"]["value"] - figures["worst"]["value"] == pytest.approx(0.25 * 3)
    assert (figures["missing"], figures["votes_missing"]) == (0, 0.25)


def test_failed_cut_and_too_long_answers_are_unacceptable_in_the_second_reading():
    given = answers("Aspirin 100 mg.")
    for number, reason in enumerate(["error", "too_long", "length", "unfinished"]):
        given[f"q{number}"] = Answer(f"q{number}", "m", "…", reason)
    scores = {name: 0.0 if name in ("q0", "q1") else 4.0 for name in ASKED}
    figures = readings(scores, {}, given, ASKED)
    assert (figures["as_judged"]["value"], figures["missing"], figures["failed"]) == (4.0, 2, 4)
    assert figures["failed_as_1"]["value"] == pytest.approx((96 * 4 + 4) / 100)


def test_a_model_that_always_declines_is_shown_beside_one_that_answers_with_slips():
    """Ten claims of which 15 % are wrong leave 20 % of the answers without a slip: by the rubric 1.59, and "not stated"
    2.0 where the note has the answer."""
    random = np.random.default_rng(1)
    slips = {name: 4.0 if random.random() < 0.85**10 else 1.0 for name in ASKED}
    refusals = {name: 4.0 if n % 10 == 9 else 2.0 for n, name in enumerate(ASKED)}
    lazy, busy = declined(refusals, answers(ABSENT), ASKED), declined(slips, answers("Aspirin 100 mg."), ASKED)
    assert lazy["declined"]["value"] == lazy["declined_answerable"]["value"] == 1.0
    assert lazy["declined_unanswerable"]["n"] == 10
    assert lazy["answerable"]["value"] == 2.0
    assert lazy["answered"]["value"] is None
    assert busy["declined"]["value"] == 0.0
    assert busy["answered"]["value"] == pytest.approx(np.mean(list(slips.values())))
    long = "The note says aspirin 100 mg; the time is not stated. " + "It also says much else. " * 10
    assert declined(refusals, answers(long), ASKED)["declined"]["value"] == 0.0


def test_a_model_that_only_writes_more_is_not_better_at_equal_length():
    """A judge that gives half a point for twice the words; "short" is as good as "base", "good" half a point better."""
    random = np.random.default_rng(2)
    words = {"base": 60, "short": 15, "good": 60}
    given, scores = {}, {}
    for model, usual in words.items():
        lengths = {name: max(2, round(usual * 2 ** random.normal(0, 0.7))) for name in ASKED}
        given[model] = {name: Answer(name, model, "word " * length, "stop") for name, length in lengths.items()}
        noise = dict(zip(ASKED, random.normal(0, 0.3, 100), strict=True))
        scores[model] = {
            name: 0.5 * math.log2(1 + length) + (0.5 if model == "good" else 0) + noise[name]
            for name, length in lengths.items()
        }
    figures = length_adjusted(scores, given, ASKED, "base")
    plain = np.mean([scores["short"][name] - scores["base"][name] for name in ASKED])
    assert plain < -0.9
    assert figures["short"]["low"] < 0 < figures["short"]["high"]
    assert figures["short"]["value"] == pytest.approx(0, abs=0.2)
    assert figures["good"]["value"] == pytest.approx(0.5, abs=0.15)
    assert figures["per_doubling"]["value"] == pytest.approx(0.5, abs=0.08)
    for name, answer in given["good"].items():
        given["good"][name] = replace(answer, text=f"{answer.text.strip()} [1, 2, 3, 4].")
    assert length_adjusted(scores, given, ASKED, "base") == figures, "citations are no words"


def test_the_interval_at_equal_length_covers_for_answers_on_shared_notes():
    random, inside = np.random.default_rng(3), 0
    asked = {f"q{n}": question(n, note_id=f"n{n // 3}") for n in range(90)}
    for _ in range(200):
        note = random.normal(0, 0.5, (2, 30))
        given, scores = {}, {}
        for number, model in enumerate(("base", "other")):
            lengths = dict(zip(asked, random.integers(5, 80, 90), strict=True))
            given[model] = {name: Answer(name, model, "word " * int(k), "stop") for name, k in lengths.items()}
            scores[model] = {
                name: 0.3 * math.log2(1 + k) + note[number, n // 3] + random.normal(0, 0.5)
                for n, (name, k) in enumerate(lengths.items())
            }
        figure = length_adjusted(scores, given, asked, "base")["other"]
        inside += figure["low"] <= 0 <= figure["high"]
    assert inside / 200 >= 0.915, "95 % less two standard errors of 200 draws"


def test_answers_of_one_length_cannot_be_adjusted():
    given = {model: answers("Aspirin 100 mg.") for model in ("base", "other")}
    scores = {model: dict.fromkeys(ASKED, 3.0) for model in given}
    assert length_adjusted(scores, given, ASKED, "base")["other"]["value"] is None
