"""Time to verify answers with and without citations: both medians, and their ratio within raters."""

import math
from dataclasses import replace

import numpy as np
import pytest

from asclepius_jax.evaluate.records import Question, Rating
from asclepius_jax.evaluate.report.journal.verifying_times import verifying_times
from asclepius_jax.evaluate.report.report import ReportConfig, run
from asclepius_jax.evaluate.statistics.estimates import median
from tests.helpers.evaluation.made_evaluation import question, write

SPEED = {"r": 1.0, "s": 2.0, "t": 5.0}  # a slow rater takes five times as long
RATIO = 0.8


def drawn(seed: int, notes: int, spread: float = 0.7) -> tuple[list[Rating], dict[str, Question]]:
    """Two questions to a note, two answers to a question, of which one cites; half of the spread is the note's."""
    random = np.random.default_rng(seed)
    questions = {f"q{n}": question(n) for n in range(2 * notes)}
    of_note = random.normal(0, spread * math.sqrt(0.5), notes)
    made = [
        Rating(
            rater, name, "ab"[cites], 4, cites=bool(cites), answer_seconds=30 * speed * RATIO**cites * math.exp(noise)
        )
        for n, name in enumerate(questions)
        for rater, speed in SPEED.items()
        for cites in (0, 1)
        for noise in [of_note[n // 2] + random.normal(0, spread * math.sqrt(0.5))]
    ]
    return made, questions


def test_exact_times_give_their_exact_ratio_whichever_rater_saw_more_of_a_kind():
    ratings, questions = drawn(0, 10, 0.0)
    fewer = [r for n, r in enumerate(ratings) if not (r.rater in "st" and r.cites and n % 12 not in (3, 5))]
    assert len(fewer) < len(ratings)
    for given in (ratings, fewer):
        found = verifying_times(given, questions)
        assert found["ratio"]["value"] == pytest.approx(RATIO)
        assert found["ratio"]["raters"] == 3
    medians = {kind: row["seconds"]["value"] for kind, row in found["kinds"].items()}
    assert medians["with"] / medians["without"] != pytest.approx(RATIO)


def test_the_ratio_is_the_slope_of_a_regression_within_raters():
    """By least squares on indicators of the raters (statsmodels), and the error of its clustered sandwich."""
    import statsmodels.api as sm

    ratings, questions = drawn(1, 40)
    design = np.asarray([[r.cites, *(r.rater == name for name in SPEED)] for r in ratings], dtype=float)
    groups = np.asarray([int(r.question_id[1:]) // 2 for r in ratings])
    log = np.log([r.answer_seconds for r in ratings])
    fit = sm.OLS(log, design).fit(cov_type="cluster", cov_kwds={"groups": groups})
    found = verifying_times(ratings, questions)["ratio"]
    assert found["value"] == pytest.approx(math.exp(fit.params[0]))
    assert found["clusters"] == 40
    reach = math.log(found["high"] / found["low"]) / 2
    assert reach == pytest.approx(2.02 * fit.bse[0], rel=0.1)


def test_both_intervals_cover():
    """With eight notes; `benchmarks/intervals/coverage.py times` has other numbers and correlations."""
    covered = {"median": 0, "ratio": 0}
    draws = 200
    truth = float(
        np.median(
            np.concatenate([30 * s * np.exp(np.random.default_rng(0).normal(0, 0.7, 99_999)) for s in SPEED.values()])
        )
    )
    for seed in range(draws):
        found = verifying_times(*drawn(seed, 8))
        middle, ratio = found["kinds"]["without"]["seconds"], found["ratio"]
        covered["median"] += middle["low"] <= truth <= middle["high"]
        covered["ratio"] += ratio["low"] <= RATIO <= ratio["high"]
    assert all(0.9 <= count / draws <= 0.99 for count in covered.values()), covered


def test_raters_who_saw_one_kind_only_are_no_part_of_the_ratio():
    ratings, questions = drawn(2, 10)
    r_and_s = [r for r in ratings if r.rater != "t"]
    found = verifying_times([*r_and_s, *(r for r in ratings if r.rater == "t" and r.cites)], questions)
    assert found["ratio"] == verifying_times(r_and_s, questions)["ratio"]
    assert found["kinds"]["with"]["raters"] == 3
    split = [r for r in ratings if r.cites == (r.rater == "t")]
    ratio = verifying_times(split, questions)["ratio"]
    assert (ratio["value"], ratio["undefined"]) == (None, "no rater verified answers of both kinds")


@pytest.mark.parametrize("changed", [{"cites": True}, {"cites": False}, {"answer_seconds": 0.0}, {"score": 0}])
def test_without_both_kinds_there_is_nothing(changed):
    ratings, questions = drawn(3, 10)
    assert verifying_times([replace(r, **changed) for r in ratings], questions) == {}


def test_a_median_and_its_interval():
    found = median([1.0, 2.0, 3.0, 4.0, 100.0, None], list("abcdef"))
    assert (found.value, found.n, found.missing) == (3.0, 5, 1)
    assert 1.0 <= found.low < 3.0 < found.high <= 100.0
    assert median([5.0] * 8, range(8)).value == 5.0
    assert median([1.0, 3.0], "ab").undefined.startswith("no interval")
    assert median([None], "a").undefined == "no data"


def test_the_page_shows_both_times_or_says_nothing(tmp_path):
    ratings, questions = drawn(4, 10)
    asked = write(tmp_path / "questions", "questions", Question, list(questions.values()))

    def page(name: str, given: list[Rating]) -> str:
        folder = write(tmp_path / name, "ratings", Rating, given)
        run(ReportConfig(asked, tmp_path / "report", ratings=(folder,)))
        return (tmp_path / "report/report.html").read_text()

    shown = page("both", ratings)
    found = verifying_times(ratings, questions)
    for kind in ("with", "without"):
        assert f'<td>{kind} citations</td><td class="n">{found["kinds"][kind]["seconds"]["value"]:.1f} [' in shown
    assert f"3 raters verified both kinds, in 120 ratings): {found['ratio']['value']:.2f} [" in shown
    assert "Woodruff" in shown
    assert "Time to verify" not in page("one", [r for r in ratings if r.cites])
