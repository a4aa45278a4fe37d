"""The page corrects judges for their errors, and says what they were tested with."""

import json
from dataclasses import replace

import numpy as np
import pytest

from asclepius_jax.evaluate.judge.asking.orders import option_orders
from asclepius_jax.evaluate.judge.calibration import calibrate
from asclepius_jax.evaluate.records import Answer, Judgement, Label, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.judges.judge_errors import judge_errors
from asclepius_jax.evaluate.report.judges.limits import limits_of_calibration
from asclepius_jax.evaluate.report.report import ReportConfig, rendered, run
from asclepius_jax.evaluate.report.results import Judged, Results
from tests.helpers.evaluation.made_evaluation import question, write, write_answers, write_judgements, write_questions

QUESTIONS = {f"q{number}": question(number, note_id=f"n{number}") for number in range(200)}
ABOUT = dict.fromkeys(("mode", "votes", "prompt", "teacher", "warnings", "models")) | {"answers": ""}


def verdict(number: int, model: str, wrong: bool, **more) -> Judgement:
    return Judgement(f"q{number}", model, "j", 0, 1 if wrong else 4, bool(wrong), "nothing", **more)


def test_the_share_of_incorrect_answers_is_that_of_the_clinicians_and_not_that_of_the_judge():
    """Sensitivity 0.7 and specificity 0.85: 20 % incorrect answers look like 26 %. Clinicians rated every fifth."""
    random, raw, corrected, powered = np.random.default_rng(0), [], [], []
    labels = {f"q{n}": Label(f"q{n}", "dose x10" if n % 2 else "", "incorrect" if n % 2 else "") for n in range(200)}
    for _ in range(20):
        truth = random.random(200) < 0.2
        flags = random.random(200) < np.where(truth, 0.7, 0.15)
        known = random.random(200) < np.where(np.arange(200) % 2, 0.7, 0.15)
        tested = calibrate(labels, [verdict(n, "planted", known[n]) for n in range(200)])
        rated = [Rating("r", f"q{n}", "m", 1 if truth[n] else 4, incorrect=bool(truth[n])) for n in range(0, 200, 5)]
        judged = Judged("j", ABOUT, [verdict(n, "m", flags[n]) for n in range(200)])
        row = judge_errors(Results(QUESTIONS, [judged], rated), {"j": tested})["j"]["models"]["m"]
        raw.append(row["incorrect"]["value"])
        corrected.append(row["rogan_gladen"]["value"])
        powered.append(row["powered_incorrect"]["value"])
        assert row["powered_mean"]["n"] == 40
        assert all(row[name]["method"] for name in ("incorrect", "rogan_gladen", "powered_incorrect", "powered_mean"))
    assert np.mean(raw) == pytest.approx(0.26, abs=0.02)
    assert np.mean(corrected) == pytest.approx(0.2, abs=0.03)
    assert np.mean(powered) == pytest.approx(0.2, abs=0.03)


def test_harm_counts_answers_by_majority_and_clinicians_spans_without_repeats():
    grades = ["none", "minor", "serious", "serious"] * 50
    judged = Judged("j", ABOUT, [verdict(n, "m", n % 4 > 0, harm=grades[n]) for n in range(200)])
    major = json.dumps([{"start": 0, "end": 3, "type": "context", "severity": "major"}])
    rated = [Rating("r", f"q{n}", "m", 1, spans=major if n < 10 else "") for n in range(40)]
    rated += [replace(rating, repeat=1, spans=major) for rating in rated]
    harm = figures_of(Results(QUESTIONS, [judged], rated), "", 0.3)["harm"]
    assert (harm["j"]["m"]["minor"]["count"], harm["j"]["m"]["serious"]["count"]) == (150, 100)
    assert (harm["clinicians"]["m"]["major"]["count"], harm["clinicians"]["m"]["major"]["n"]) == (10, 40)
    assert harm["clinicians"]["m"]["spans"] == {"context, major": 10}


def test_a_calibration_with_other_votes_or_shorter_lists_is_named():
    tested = {
        "youden": 1.0,
        "sees_required": False,
        "about": {**ABOUT, "mode": "listwise", "votes": 1, "models": "abcd"},
    }
    here = {**ABOUT, "mode": "listwise", "votes": 3, "models": "ab"}
    (line,) = limits_of_calibration("j", here, tested)
    assert "with another votes and number of answers per list than it judges with here" in line
    assert not limits_of_calibration("j", tested["about"], tested)
    assert "omissions are easy" in limits_of_calibration("j", None, {**tested, "sees_required": True})[0]


def test_a_judge_that_takes_the_first_option_is_named_on_the_page(tmp_path):
    questions = write_questions(tmp_path / "questions", 40)
    orders = [option_orders(n) for n in range(40)]
    made = [verdict(n, "m", orders[n]["incorrect"][0] == "yes", order=json.dumps(orders[n])) for n in range(40)]
    judged = write_judgements(tmp_path / "judged", "j", {"m": [4] * 40})
    manifest = json.loads((judged / "manifest.json").read_text())
    facts = {name: manifest[name] for name in ("judge", "mode", "votes", "prompt", "teacher", "warnings", "models")}
    with_facts(tmp_path / "biased", facts, made)
    write(tmp_path / "cal/labels", "labels", Label, [Label(f"q{n}", "" if n % 2 else "dose", "") for n in range(8)])
    write_questions(tmp_path / "cal/questions")
    tried = write_judgements(tmp_path / "tried", "j", {"planted": [1, 4] * 4})
    answers = write_answers(tmp_path / "answers", "m", {f"q{n}": "Not stated in the note." for n in range(40)})
    config = ReportConfig(
        questions, tmp_path / "out", (answers,), (tmp_path / "biased",),
        calibration=tmp_path / "cal", calibration_judged=(tried,),
    )  # fmt: skip
    figures = run(config)
    page = (tmp_path / "out/report.html").read_text()
    assert "j is biased by position: the order of options decides" in page
    assert "joined as above" in page
    assert "by calibration" in page
    assert figures["readings"]["j"]["models"]["m"]["declined"]["value"] == 1.0


def with_facts(folder, facts, judgements):
    from data_prep.contract.manifests import writing_folder

    with writing_folder(folder, "judgements", {"made": "here"}) as writer:
        writer.facts = facts
        writer.add_shard(judgements, Judgement)


def test_failed_answers_are_scored_1_in_the_second_reading_of_the_page():
    failed = {f"q{n}": Answer(f"q{n}", "m", "…", "length" if n < 50 else "stop") for n in range(200)}
    judged = Judged("j", ABOUT, [verdict(n, "m", False) for n in range(200)])
    told = figures_of(Results(QUESTIONS, [judged], answers={"m": failed}), "", 0.3)["readings"]["j"]["models"]["m"]
    assert (told["as_judged"]["value"], told["failed_as_1"]["value"]) == (4.0, 3.25)


def test_the_harm_table_has_a_header_for_each_column_and_agreement_names_its_base():
    """A judge grades harm and marks no spans; one answer that clinicians call incorrect has no verdict."""
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(8)}
    votes = [
        Judgement(f"q{n}", "m", "j", 0, 1 if n else 0, bool(n), harm="minor" if n else "", problem="" if n else "x")
        for n in range(8)
    ]
    spans = json.dumps([{"start": 0, "end": 1, "type": "fabrication", "severity": "major"}])
    ratings = [Rating(r, f"q{n}", "m", 1, incorrect=True, spans=spans) for r in "rs" for n in range(4)]
    figures = figures_of(Results(questions, [Judged("j", ABOUT, votes)], ratings), "", 0.3)
    more = {"hallucination": {}, "calibration": {}, "measured": [], "other_answers": [], "claims": {}}
    page = rendered("report.html", {**figures, **more})
    for table in page[page.index("<h2>Harm") : page.index("<h2>Agreement")].split("</table>")[:-1]:
        assert table.count("<th") == table.count("<td"), "one header for each cell of the only row"
        assert "<th></th>" not in table
    assert "Of the 3 answers with a verdict by j that most clinicians call incorrect" in page


def test_answers_that_clinicians_were_not_shown_are_not_missing():
    """They rate 40 of 200 questions, and cannot judge one answer."""
    rated = [Rating("r", f"q{n}", "m", 4 if n else 0) for n in range(40)]
    cut = {f"q{n}": Answer(f"q{n}", "m", "…", "length" if n >= 100 else "stop") for n in range(200)}
    figures = figures_of(Results(QUESTIONS, [], rated, {"m": cut}), "", 0.3)
    told = figures["readings"]["clinicians"]["models"]["m"]
    assert figures["scores"]["clinicians"]["m"]["mean"]["missing"] == told["missing"] == 1
    assert (told["worst"]["value"], told["failed"], told["failed_as_1"]["value"]) == ((39 * 4 + 1) / 40, 0, 4.0)
    assert figures["scored_units"] == {"clinicians": 39}


def test_a_judge_that_grades_no_harm_is_not_biased_by_the_order_of_harms():
    wrong = np.random.default_rng(1).random(192) < 0.5
    made = [verdict(n, "m", wrong[n], order=json.dumps(option_orders(n))) for n in range(192)]
    for each in ({}, {"harm": "none"}):
        given = [replace(j, **each) for j in made]
        position = figures_of(Results(QUESTIONS, [Judged("j", ABOUT, given)]), "", 0.3)["position"]["j"]
        assert position["warning"] == ""
        assert ("harm" in position["first_option"]) is bool(each)
