"""A prespecification is written once, its hash stands in the report, and every departure from it is named."""

import hashlib
import json
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.protocol import power_table, prespecify
from asclepius_jax.evaluate.protocol.power_table import PowerConfig, StudySize
from asclepius_jax.evaluate.protocol.prespecify import PrespecifyConfig
from asclepius_jax.evaluate.report.report import ReportConfig, run
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.made_evaluation import write_judgements, write_questions

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
    assert not figures["subgroups"]["sex"]["exploratory"]
    assert figures["subgroups"]["specialty"]["exploratory"]
    json.dumps(figures, allow_nan=False)


def test_without_a_prespecification_everything_is_exploratory(made):
    figures, page = page_of(replace(made[1], prespecification=None))
    assert not figures["confirmatory"]
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
    ]
    assert all(line in page for line in figures["prespecification"]["departures"])
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
    figures, page = page_of(replace(report, prespecification=shares.out))
    row = figures["comparisons"]["j"]["good"]
    assert row["unacceptable"]["p_holm"] == row["unacceptable"]["sign_flip"]["p"] < 0.05
    assert row["p_holm"] is None
    assert "they compare shares of unacceptable answers" in page
    assert "good different" in page


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
    """The rows of docs/statistics.md, which 1,000 drawn studies each confirm (benchmarks/coverage.py)."""
    table = power_table.run(PowerConfig((20, 60), (1, 3, 4), out=tmp_path / "power.json"))
    found = {(int(row[0]), int(row[1])): row[2:] for row in table["table"]}
    assert [found[place][0] for place in ((20, 1), (20, 3), (60, 1), (60, 3))] == ["0.62", "0.45", "0.35", "0.25"]
    assert [found[place][1] for place in ((20, 4), (60, 4), (60, 3))] == ["0.71", "0.64", "–"]
    questions = write_questions(tmp_path / "questions")
    run(ReportConfig(questions, tmp_path / "report", measured=(tmp_path / "power.json",)))
    assert "Planned power" in (tmp_path / "report/report.html").read_text()
