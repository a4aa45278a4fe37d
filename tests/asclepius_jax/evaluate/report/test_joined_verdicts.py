"""Several votes on one answer become one verdict, the same on every part of the page."""

import math

import pytest

from asclepius_jax.evaluate.records import Judgement, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.report import rendered
from asclepius_jax.evaluate.report.results import MISSING, Judged, Results, joined, jury_of, scores_of
from tests.helpers.evaluation.made_evaluation import question

QUESTIONS = {f"q{number}": question(number, note_id=f"n{number}") for number in range(20)}
ABOUT = dict.fromkeys(("mode", "votes", "prompt", "teacher", "warnings", "models")) | {"answers": ""}


def judged(name: str, votes: dict[str, list[list[int]]]) -> Judged:
    """`votes`: model -> for each question the scores of its votes."""
    made = [
        Judgement(f"q{number}", model, name, vote, score, incorrect=score == 1)
        for model, given in votes.items()
        for number, scores in enumerate(given)
        for vote, score in enumerate(scores)
    ]
    return Judged(name, ABOUT, made)


def test_votes_are_joined_by_mean_and_majority():
    assert joined([4, 0, 1]).score == 2.5
    assert joined([4, 0, 1]).unacceptable == 0.5
    assert joined([1, 1, 4]).unacceptable == 1
    assert joined([1, 1, 4]).shares == pytest.approx((2 / 3, 0, 0, 1 / 3))
    assert joined([0, 0]) == MISSING
    assert math.isnan(MISSING.score)


def test_a_jury_counts_each_judge_once():
    """However often it voted."""
    found = scores_of(
        Results(QUESTIONS, [judged("one", {"m": [[4, 4, 4]]}), judged("two", {"m": [[1]]}), judged("no", {"m": [[0]]})])
    )
    verdict = found["jury"]["m"]["q0"]
    assert (verdict.score, verdict.unacceptable, verdict.shares) == (2.5, 0.5, (0.5, 0, 0, 0.5))
    assert jury_of([MISSING]) == MISSING


def test_the_distribution_has_the_mean_of_the_scores():
    votes = [[1, 2], [4, 4], [3, 0], [0, 0], [1, 4]]
    told = figures_of(Results(QUESTIONS, [judged("j", {"m": votes})]), "", 0.3)["scores"]["j"]["m"]
    counts = told["distribution"]
    assert sum(counts.values()) == told["mean"]["n"] == 4
    assert sum(int(score) * count for score, count in counts.items()) / 4 == pytest.approx(told["mean"]["value"])
    assert told["unacceptable"]["count"] == 1.0  # two ties
    assert told["unacceptable"]["missing"] == 16


def test_a_page_never_says_unacceptable_and_not_incorrect_of_the_same_votes():
    """One of two clinicians finds every answer wrong: half are unacceptable, and on all the clinicians are divided."""
    ratings = [
        Rating(r, f"q{n}", "m", score, incorrect=score == 1) for n in range(20) for r, score in (("a", 1), ("b", 4))
    ]
    figures = figures_of(Results(QUESTIONS, [judged("j", {"m": [[1]] * 20})], ratings), "", 0.3)
    told = figures["scores"]["clinicians"]["m"]
    assert (told["mean"]["value"], told["unacceptable"]["value"]) == (2.5, 0.5)
    accuracy = figures["agreement"]["incorrect_by_clinicians"]["j"]
    assert (accuracy["sensitivity"]["n"], accuracy["specificity"]["n"], accuracy["clinicians_tie"]) == (0, 0, 20)


def test_a_second_rating_of_the_same_answer_has_no_second_vote():
    """One of three clinicians finds every answer wrong, and sees every answer twice."""
    ratings = [
        Rating(rater, f"q{n}", "m", score, repeat, incorrect=score == 1)
        for n in range(20)
        for rater, score, repeat in (("a", 1, 0), ("a", 1, 1), ("b", 4, 0), ("c", 4, 0))
    ]
    figures = figures_of(Results(QUESTIONS, [judged("j", {"m": [[4]] * 20})], ratings), "", 0.3)
    accuracy = figures["agreement"]["incorrect_by_clinicians"]["j"]
    assert (accuracy["sensitivity"]["n"], accuracy["specificity"]["count"]) == (0, 20)
    assert figures["scores"]["clinicians"]["m"]["unacceptable"]["value"] == 0
    assert figures["as_in_paper"]["scores"]["clinicians"]["m"]["verdicts"] == 60


def test_a_judge_whose_own_votes_tie_finds_half():
    ratings = [Rating("r", f"q{n}", "m", 1, incorrect=True) for n in range(20)]
    figures = figures_of(Results(QUESTIONS, [judged("j", {"m": [[1, 4]] * 20})], ratings), "", 0.3)
    found = figures["agreement"]["incorrect_by_clinicians"]["j"]["sensitivity"]
    assert (found["count"], found["n"], found["value"]) == (10, 20, 0.5)


def test_joined_scores_are_shown():
    votes = {"m": [[1, 2], [4, 4]] * 10, "n": [[3, 4]] * 20}
    figures = figures_of(Results(QUESTIONS, [judged("j", votes)]), "n", 0.3)
    assert figures["comparisons"]["j"]["m"]["difference"]["value"] == pytest.approx(-0.75)
    more = {"hallucination": {}, "calibration": {}, "measured": [], "other_answers": [], "claims": {}}
    for judge in figures["judges"].values():
        judge["warnings"] = []
    page = rendered("report.html", {**figures, **more})
    assert "a tie\ncounts half" in page
    assert "n 20<" in page
