"""A prespecification is written once, its hash stands in the report, and every departure from it is named."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.protocol import power_table, prespecify
from asclepius_jax.evaluate.protocol.power_table import PowerConfig, StudySize
from asclepius_jax.evaluate.protocol.prespecify import PrespecifyConfig
from asclepius_jax.evaluate.records import Rating
from asclepius_jax.evaluate.report.report import ReportConfig, run
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.made_evaluation import write, write_judgements, write_questions

GOOD, BAD = [4, 4, 4, 3, 4, 4, 3, 4] * 3, [1, 1, 2, 1, 1, 1, 3, 1] * 3


@pytest.fixture
def made(tmp_path):
    """A report of two models on 12 notes, and the prespecification that it follows."""
    questions = write_questions(tmp_path / "questions", 24)
    judged = write_judgements(tmp_path / "judged", "j", {"good": GOOD, "bad": BAD})
    spec = PrespecifyConfig(
        tmp_path / "spec.json", "j", ("good", "bad"), patients=12, baseline="bad", questions=questions,
        tasks=("Question Answering", "Summarization"), subgroups=("sex",), hypotheses=("good is better",),
    )  # fmt: skip
    prespecify.run(spec)
    report = ReportConfig(questions, tmp_path / "report", judged=(judged,), baseline="bad", prespecification=spec.out)
    return spec, report


def page_of(report) -> tuple[dict, str]:
    figures = run(report)
    return figures, (report.out / "report.html").read_text()


def test_an_analysis_that_follows_its_prespecification_is_confirmatory(made):
    spec, report = made
    figures, page = page_of(report)
    sha256 = hashlib.sha256(spec.out.read_bytes()).hexdigest()
    assert figures["confirmatory"]
    assert figures["prespecification"]["departures"] == []
    assert figures["prespecification"]["sha256"] == sha256
    assert sha256 in page.replace("<wbr>", "")
    assert "The endpoint was analysed as prespecified: its tests are confirmatory." in page
    assert "good is better" in page
    row = figures["comparisons"]["j"]["good"]
    assert not row["exploratory"]
    assert not any(task["exploratory"] for task in row["tasks"].values())
    assert row["unacceptable"]["exploratory"]
    assert "The tests of the endpoint are confirmatory" in (report.out / "report.md").read_text()
    assert not figures["subgroups"]["sex"]["exploratory"]
    assert figures["subgroups"]["specialty"]["exploratory"]
    json.dumps(figures, allow_nan=False)


def test_without_a_prespecification_everything_is_exploratory(made):
    figures, page = page_of(replace(made[1], prespecification=None))
    assert not figures["confirmatory"]
    row = figures["comparisons"]["j"]["good"]
    assert row["exploratory"]
    assert row["unacceptable"]["exploratory"]
    assert all(task["exploratory"] for task in row["tasks"].values())
    assert "All results are exploratory." in (made[1].out / "report.md").read_text()
    assert "Exploratory: there is no prespecification." in page


def test_every_departure_is_named(made):
    spec, report = made
    departing = replace(
        spec, out=spec.out.with_name("other.json"), endpoint="clinicians", models=("good", "bad", "third"),
        tasks=("Question Answering",), margin=0.2, patients=60, raters=4,
    )  # fmt: skip
    prespecify.run(departing)
    figures, page = page_of(replace(report, prespecification=departing.out, baseline="good"))
    assert not figures["confirmatory"]
    assert figures["main"] == "j"
    assert figures["prespecification"]["departures"] == [
        "the endpoint is scored by clinicians, of whom there are no scores",
        "the baseline is good instead of bad",
        "the margin is 0.3 instead of 0.2",
        "model third is missing",
        "task Summarization was not planned",
        "12 independent units instead of 60",
        "0 raters instead of 4",
        "0 independent units were scored by 4 or more raters each, instead of 60",
    ]
    assert all(line in page for line in figures["prespecification"]["departures"])
    assert all(way["exploratory"] for way in figures["subgroups"].values()), "the plan had sex"
    assert "(prespecified)" not in page
    assert "but for prespecified subgroups" not in page
    assert figures["comparisons"]["j"]["bad"]["exploratory"]
    assert "all results are exploratory" in page


def test_the_family_and_the_figure_are_those_of_the_prespecification(made):
    spec, report = made
    without = replace(spec, out=spec.out.with_name("a.json"), by_task=False)
    shares = replace(spec, out=spec.out.with_name("b.json"), figure="unacceptable")
    for each in (without, shares):
        prespecify.run(each)
    figures, _ = page_of(replace(report, prespecification=without.out))
    assert (figures["family"]["tests"], figures["family"]["questions"]) == (1, "all questions")
    row = figures["comparisons"]["j"]["good"]
    assert row["p_holm"] == row["sign_flip"]["p"]
    assert all(task["p_holm"] is None for task in row["tasks"].values())
    tripod = report.out.parent / "tripod.md"
    figures, page = page_of(replace(report, prespecification=shares.out, tripod=tripod))
    assert "good against bad: unacceptable -75.0 [" in tripod.read_text(), "0 and 18 of 24 answers"
    row = figures["comparisons"]["j"]["good"]
    assert row["unacceptable"]["p_holm"] == row["unacceptable"]["sign_flip"]["p"] < 0.05
    assert row["p_holm"] is None
    assert row["exploratory"], "mean scores are not the endpoint"
    assert all(task["exploratory"] for task in row["tasks"].values())
    assert not row["unacceptable"]["exploratory"]
    for header in (
        "difference, 95 % (exploratory)", "p, sign flip (exploratory)", "90 % interval (exploratory)",
        "equivalent, unadjusted (exploratory)", "detectable, percentage points",
        "unacceptable, difference in percentage points",
    ):  # fmt: skip
        assert f">{header}</th>" in page, header
    assert "detectable, points" not in page
    assert row["unacceptable"]["detectable"]["level"] == 0.05, "one test"
    assert "they compare shares of unacceptable answers" in page
    assert "good different" in page


def test_every_pair_was_planned_and_none_is_compared(made):
    spec, report = made
    pairs = replace(spec, out=spec.out.with_name("pairs.json"), baseline="")
    prespecify.run(pairs)
    figures, page = page_of(replace(report, prespecification=pairs.out, baseline=""))
    assert figures["prespecification"]["departures"] == [
        "the baseline is none (nothing is compared) instead of none (every pair)",
        "no test of the family could be computed",
    ]
    assert not figures["confirmatory"]
    assert "its tests are confirmatory" not in page
    assert "No models are compared" in page
    figures, _ = page_of(replace(report, prespecification=pairs.out, baseline="", pairwise=True))
    assert figures["confirmatory"]


def rated(folder, scores: dict[str, list[int]], unreadable: Callable[[str, int], bool]) -> Path:
    """Ratings of two models; 0 for "cannot judge" where a rater and a question say so."""
    ratings = [
        Rating(rater, f"q{n}", model, 0 if unreadable(rater, n) else score)
        for rater in ("r", "s", "t")
        for model, given in scores.items()
        for n, score in enumerate(given)
    ]
    return write(folder, "ratings", Rating, ratings)


def test_the_planned_size_is_what_gave_scores(made, tmp_path):
    """Twelve notes were shown to three raters; on four nobody could judge, one rater never could, one on half."""
    spec, report = made
    plan = replace(
        spec, out=spec.out.with_name("c.json"), endpoint="clinicians", patients=12, raters=3, raters_per_patient=2
    )
    prespecify.run(plan)
    scores = {"good": GOOD, "bad": BAD}
    cases = {
        "all": (lambda rater, n: False, []),
        "one rater of three misses a note": (lambda rater, n: rater == "t" and n < 2, []),
        "none": (
            lambda rater, n: n < 8 or rater == "t" or (rater == "s" and n < 16),
            [
                "8 independent units instead of 12",
                "2 raters instead of 3",
                "4 independent units were scored by 2 or more raters each, instead of 12",
            ],
        ),
    }
    for name, (unreadable, expected) in cases.items():
        ratings = rated(tmp_path / name, scores, unreadable)
        figures, _ = page_of(replace(report, prespecification=plan.out, ratings=(ratings,)))
        assert figures["prespecification"]["departures"] == expected, name
    assert (figures["scored_units"]["clinicians"], figures["raters"]) == (8, 2)


def test_a_model_whose_votes_are_all_unreadable_and_a_task_that_was_not_rated_are_missing(made, tmp_path):
    spec, report = made
    judged = write_judgements(tmp_path / "lost", "j", {"good": GOOD, "bad": [0] * 24})
    figures, _ = page_of(replace(report, judged=(judged,)))
    assert figures["prespecification"]["departures"] == [
        "model bad is missing",
        "no test of the family could be computed",
        "0 independent units instead of 12",
    ]
    plan = replace(spec, out=spec.out.with_name("c.json"), endpoint="clinicians", raters=3)
    prespecify.run(plan)
    ratings = [
        Rating(rater, f"q{n}", model, given[n])
        for rater in ("r", "s", "t")
        for model, given in (("good", GOOD), ("bad", BAD))
        for n in range(0, 24, 2)  # Question Answering
    ]
    folder = write(tmp_path / "half", "ratings", Rating, ratings)
    figures, _ = page_of(replace(report, prespecification=plan.out, ratings=(folder,)))
    assert figures["prespecification"]["departures"] == ["task Summarization is missing"]


def test_a_prespecified_level_is_that_of_equivalence_and_of_holms_first_step(made):
    spec, report = made
    strict = replace(spec, out=spec.out.with_name("strict.json"), size=StudySize(alpha=0.02))
    prespecify.run(strict)
    figures, page = page_of(replace(report, prespecification=strict.out))
    row = figures["comparisons"]["j"]["good"]
    assert figures["confirmatory"]
    assert (row["equivalence"]["level"], figures["family"]["level"]) == (0.02, 0.02)
    assert row["detectable"]["level"] == pytest.approx(0.02 / 3)
    assert row["equivalence"]["high"] - row["equivalence"]["low"] > row["difference"]["high"] - row["difference"]["low"]
    assert "96 % interval of their difference of mean scores" in page
    assert "0.02 over 3" in page


def test_a_prespecification_is_never_replaced_and_a_changed_one_has_another_hash(made, tmp_path):
    spec, report = made
    with pytest.raises(UserError, match="a prespecification is not changed afterwards"):
        prespecify.run(spec)
    before = page_of(report)[0]["prespecification"]["sha256"]
    spec.out.write_text(spec.out.read_text().replace("good is better", "good is worse"))
    assert page_of(report)[0]["prespecification"]["sha256"] != before
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="not a file that asclepius evaluate prespecify wrote"):
        page_of(replace(report, prespecification=tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "nobody"}, "must be one of --models"),
        ({"models": ("good",), "baseline": ""}, "at least two different models"),
        ({"margin": 0.0}, "must be above 0"),
        ({"size": StudySize(alpha=0.9)}, "must lie between 0 and --power"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(tmp_path, change, message):
    plan = PrespecifyConfig(tmp_path / "x.json", "j", ("good", "bad"), patients=12, baseline="bad")
    with pytest.raises(UserError, match=message):
        prespecify.run(replace(plan, **change))


def test_the_power_table_has_the_differences_that_studies_were_drawn_to_find(tmp_path):
    """The rows of docs/statistics.md, which 1,000 drawn studies each confirm (benchmarks/intervals/coverage.py)."""
    table = power_table.run(PowerConfig((20, 60), (1, 3, 4), out=tmp_path / "power.json"))
    found = {(int(row[0]), int(row[1])): row[2:] for row in table["table"]}
    assert [found[place][0] for place in ((20, 1), (20, 3), (60, 1), (60, 3))] == ["0.62", "0.45", "0.35", "0.25"]
    assert [found[place][1] for place in ((20, 4), (60, 4), (60, 3))] == ["0.71", "0.64", "–"]
    questions = write_questions(tmp_path / "questions")
    run(ReportConfig(questions, tmp_path / "report", measured=(tmp_path / "power.json",)))
    assert "Planned power" in (tmp_path / "report/report.html").read_text()
