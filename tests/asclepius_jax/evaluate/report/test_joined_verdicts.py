"""Several votes on one answer become one verdict, the same on every part of the page."""

import math

import numpy as np
import pytest

from asclepius_jax.evaluate.records import Judgement, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.report import rendered
from asclepius_jax.evaluate.report.results import (
    MISSING,
    Judged,
    Results,
    check_ids,
    joined,
    jury_of,
    read_judged,
    scores_of,
)
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.made_evaluation import question, write_judgements

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
    assert jury_of({"no": MISSING}, {"no": 0.0}) == MISSING


def lenient_and_strict(count: int, lost: float) -> tuple[dict[str, list[list[int]]], dict[str, list[list[int]]]]:
    """Votes of two judges on two equal models; the strict one, a point below, loses a share of "loser"'s verdicts."""
    random = np.random.default_rng(3)
    truth = {model: random.choice([2, 3, 4], count) for model in ("base", "loser")}
    strict = {
        model: [[0 if model == "loser" and random.random() < lost else int(score) - 1] for score in scores]
        for model, scores in truth.items()
    }
    return {model: [[int(score)] for score in scores] for model, scores in truth.items()}, strict


def test_of_two_equal_models_the_one_that_a_strict_judge_skips_is_not_better():
    asked = {f"q{number}": question(number, note_id=f"n{number}") for number in range(400)}
    lenient, strict = lenient_and_strict(400, 0.3)
    truth = {model: sum(map(sum, given)) / 400 - 0.5 for model, given in lenient.items()}
    table = scores_of(Results(asked, [judged("lenient", lenient), judged("strict", strict)]))["jury"]
    for model, expected in truth.items():
        assert sum(v.score for v in table[model].values()) / 400 == pytest.approx(expected, abs=1e-9)
    raters = [
        Rating(rater, f"q{n}", model, score)
        for rater, votes in (("lenient", lenient), ("strict", strict))
        for model, given in votes.items()
        for n, (score,) in enumerate(given)
        if score
    ]
    table = scores_of(Results(asked, [], raters))["clinicians"]
    for model, expected in truth.items():
        assert sum(v.score for v in table[model].values()) / 400 == pytest.approx(expected, abs=1e-9)


def test_verdicts_that_are_stored_twice_are_refused():
    twice = judged("j", {"m": [[1, 4]]})
    twice.judgements.append(twice.judgements[1])
    with pytest.raises(UserError, match="judge j has vote 1 on m's answer to q0 twice"):
        check_ids(Results(QUESTIONS, [twice]))


@pytest.mark.parametrize("name", ["jury", "clinicians"])
def test_a_judge_does_not_take_the_name_of_a_column(tmp_path, name):
    write_judgements(tmp_path / "j", name, {"m": [1] * 20})
    with pytest.raises(UserError, match=f"a judge is named {name}"):
        read_judged([tmp_path / "j"])


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
