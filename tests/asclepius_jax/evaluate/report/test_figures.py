"""The figures of an evaluation and its page: what they count, and what they refuse."""

import json
import re
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.judge.calibration import calibrate
from asclepius_jax.evaluate.judge.hallucination import analyse
from asclepius_jax.evaluate.records import Answer, Judgement, Label, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.methods import methods_of
from asclepius_jax.evaluate.report.report import ReportConfig, rendered, run
from asclepius_jax.evaluate.report.results import Judged, Results, read_judged
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.made_evaluation import (
    NOTE,
    question,
    write,
    write_answers,
    write_judgements,
    write_questions,
)

NOTHING = {"hallucination": {}, "calibration": {}, "measured": [], "other_answers": [], "claims": {}}
GOOD, FAIR, BAD = [4, 4, 4, 3, 4, 4, 3, 4], [3, 3, 2, 3, 4, 2, 3, 3], [1, 1, 2, 1, 1, 1, 3, 1]


def results(tmp_path, **judges) -> Results:
    """Judges by name: model -> scores."""
    questions = {q.id: q for q in map(question, range(8))}
    folders = [write_judgements(tmp_path / name, name, scores) for name, scores in judges.items()]
    return Results(questions, read_judged(folders))


def test_a_missing_verdict_is_counted_and_is_no_score(tmp_path):
    found = figures_of(results(tmp_path, j={"m": [0, 0, 4, 4, 4, 4, 4, 4]}), "", 0.3)
    told = found["scores"]["j"]["m"]
    assert (told["mean"]["value"], told["mean"]["missing"], told["unacceptable"]["count"]) == (4.0, 2, 0)
    assert found["judges"]["j"]["missing"] == 2


def test_slices_hold_each_question_once(tmp_path):
    found = figures_of(results(tmp_path, j={"m": GOOD}), "", 0.3)["slices"]["j"]
    assert sum(told["questions"] for told in found["task"].values()) == 8
    assert "year" not in found, "a way in which all questions are alike says nothing"


def test_an_unknown_baseline_and_stray_ids_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--baseline nobody: no such model; choose one of m"):
        figures_of(results(tmp_path / "a", j={"m": GOOD}), "nobody", 0.3)
    with pytest.raises(UserError, match=r"judge j scores q8, which is not among the questions"):
        figures_of(results(tmp_path / "b", j={"m": [*GOOD, 4]}), "", 0.3)


def test_a_rater_who_rates_twice_is_named(tmp_path):
    made = results(tmp_path, j={"m": GOOD})
    made.ratings = [Rating("r1", "q0", "m", 4), Rating("r1", "q0", "m", 3)]
    with pytest.raises(UserError, match=r"rater r1 rates m's answer to q0 twice"):
        figures_of(made, "", 0.3)


def test_one_rater_agrees_with_nobody(tmp_path):
    made = results(tmp_path, j={"m": GOOD})
    made.ratings = [Rating("r1", f"q{number}", "m", 4 - number % 2) for number in range(8)]
    told = figures_of(made, "", 0.3)["agreement"]["clinicians"]
    assert told["value"] is None
    assert "at least two raters" in told["undefined"]


def test_judges_are_correlated_with_clinicians(tmp_path):
    made = results(tmp_path, j={"m": GOOD, "n": BAD})
    made.ratings = [
        Rating(rater, f"q{number}", model, scores[number])
        for rater in ("r1", "r2")
        for model, scores in (("m", GOOD), ("n", BAD))
        for number in range(8)
    ]
    told = figures_of(made, "", 0.3)["agreement"]
    assert told["clinicians"]["value"] == pytest.approx(1.0)
    assert told["with_clinicians"]["j"]["spearman"]["value"] == pytest.approx(1.0)
    assert told["with_clinicians"]["j"]["kappa"]["value"] == pytest.approx(1.0)


def test_a_judge_is_compared_with_what_most_clinicians_call_incorrect(tmp_path):
    made = results(tmp_path, j={"m": [1, 1, 4, 4, 4, 4, 4, 0]})
    for rater, wrong in (("r1", {0, 2}), ("r2", {0, 2, 3}), ("r3", {0, 7})):
        made.ratings += [Rating(rater, f"q{n}", "m", 1 if n in wrong else 4, incorrect=n in wrong) for n in range(8)]
    told = figures_of(made, "", 0.3)["agreement"]["incorrect_by_clinicians"]["j"]
    assert (told["sensitivity"]["count"], told["sensitivity"]["n"]) == (1, 2)  # q0 of q0 and q2
    assert (told["specificity"]["count"], told["specificity"]["n"]) == (4, 5)  # not q1; q7's verdict is missing


def test_a_slice_of_few_patients_is_suppressed():
    """2019 has the scores of one patient, who must not be read off the page."""
    questions = {f"q{n}": question(n, note_id=f"n{n}", year="2019" if n < 3 else "2020") for n in range(16)}
    questions |= {f"q{n}": replace(questions[f"q{n}"], report_id="p0") for n in range(3)}
    made = Results(questions, [judged_by("j", [(f"q{n}", "m", 0, 1 if n < 3 else 4) for n in range(16)])])
    figures = figures_of(made, "", 0.3)
    years = figures["slices"]["j"]["year"]
    assert years["2019"] == {
        "questions": 3, "clusters": 1, "suppressed": "fewer than 5 clusters", "models": {},
    }  # fmt: skip
    assert years["2020"]["models"]["m"]["value"] == 4.0
    page = rendered("report.html", {**figures, **NOTHING})
    assert '<tr><td>2019</td><td class="n">3</td><td colspan="1">suppressed: fewer than 5 clusters</td></tr>' in page


def judged_by(name: str, votes: list[tuple[str, str, int, int]]) -> Judged:
    about = dict.fromkeys(("mode", "votes", "prompt", "teacher", "warnings", "models")) | {"answers": ""}
    return Judged(name, about, [Judgement(q, m, name, v, s, s == 1, problem="" if s else "x") for q, m, v, s in votes])


def test_models_with_fewer_votes_per_answer_are_told_of():
    """Of model b, two of three votes are lost on half of the answers: 2 votes per answer instead of 3."""
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(20)}
    votes = [(f"q{n}", m, v, 0 if m == "b" and n % 2 and v else 3) for n in range(20) for m in "ab" for v in range(3)]
    figures = figures_of(Results(questions, [judged_by("j", votes)]), "a", 0.3)
    assert figures["votes"]["j"]["per_answer"] == {"a": 3.0, "b": 2.0}
    warning = "j: 2.00 readable votes per answer of b, 3.00 of a. A majority of fewer votes is another quantity"
    assert warning in rendered("report.html", {**figures, **NOTHING})
    assert warning in rendered("report.md", {**figures, **NOTHING})
    one = [(q, m, v, s) for q, m, v, s in votes if v == 0]
    alike = figures_of(Results(questions, [judged_by("j", one), judged_by("k", votes)]), "a", 0.3)["votes"]
    assert alike["j"]["warning"] == alike["jury"]["warning"] == ""
    lost = [(q, m, v, 0 if m == "b" else s) for q, m, v, s in one]
    jury = figures_of(Results(questions, [judged_by("j", lost), judged_by("k", votes)]), "a", 0.3)["votes"]["jury"]
    assert jury["per_answer"] == {"a": 2.0, "b": 1.0}
    assert jury["warning"]


def test_clinicians_who_only_could_not_judge_are_no_raters_and_their_units_are_not_scored():
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(6)}
    ratings = [Rating(r, f"q{n}", "m", 4 if r == "r" and n < 2 else 0) for r in "rs" for n in range(6)]
    figures = figures_of(Results(questions, [], ratings), "", 0.3)
    assert (figures["raters"], figures["scored_units"], figures["raters_of_units"]) == (1, {"clinicians": 2}, {1: 2})


# ---------------------------------------------------------------- what a judge is worth


LABELS = {f"q{n}": Label(f"q{n}", "dose x10" if n % 2 else "", "incorrect" if n % 2 else "") for n in range(200)}


def verdicts(says_wrong) -> list[Judgement]:
    return [
        Judgement(f"q{n}", "planted", "j", 0, 1 if says_wrong(n) else 4, says_wrong(n), "nothing") for n in range(200)
    ]


def test_a_judge_that_knows_has_all_and_one_that_tosses_a_coin_has_nothing():
    from random import Random

    knows = calibrate(LABELS, verdicts(lambda n: n % 2 == 1))
    assert (knows["sensitivity"]["value"], knows["specificity"]["value"], knows["youden"]) == (1.0, 1.0, 1.0)
    coin = Random(0)
    tossed = [coin.random() < 0.5 for _ in range(200)]
    guesses = calibrate(LABELS, verdicts(lambda n: tossed[n]))
    assert abs(guesses["youden"]) < 0.2
    always = calibrate(LABELS, verdicts(lambda n: True))
    assert (always["sensitivity"]["value"], always["specificity"]["value"], always["youden"]) == (1.0, 0.0, 0.0)


def test_missing_verdicts_are_neither_right_nor_wrong():
    made = [
        *verdicts(lambda n: n % 2 == 1)[:100],
        *(Judgement(f"q{n}", "planted", "j", 0, 0, problem="x") for n in range(100, 200)),
    ]
    told = calibrate(LABELS, made)
    assert told["missing"] == 100
    assert (told["sensitivity"]["n"], told["sensitivity"]["value"]) == (50, 1.0)


# ---------------------------------------------------------------- what answers invent


def test_strict_and_inference_aware_differ_by_what_follows_from_the_note():
    questions = {q.id: q for q in map(question, range(3))}
    texts = {
        "q0": "Aspirin 100 mg bid was given.",
        "q1": "Aspirin 900 mg twice daily.",
        "q2": "A mass in the left lung.",
    }
    mine = {name: Answer(name, "m", text, "stop") for name, text in texts.items()}
    told = analyse(questions, {"m": mine})["m"]
    assert told["answers_with_unsupported"]["count"] == 1
    assert told["kinds"]["dose"] == {"atoms": 2, "not_stated": 1, "unsupported": 1, "severity": "major"}
    assert told["kinds"]["frequency"]["unsupported"] == 0
    assert told["kinds"]["frequency"]["not_stated"] == 1, "bid follows from twice daily, and is not stated"
    assert told["strict"]["value"] > told["inference_aware"]["value"] > 0
    assert told["omitted"]["value"] == pytest.approx((0 + 1 / 3 + 1) / 3, abs=0.2)
    assert told["examples"][0]["text"] == "900 mg"


# ---------------------------------------------------------------- the page


def test_the_page_shows_a_useless_judge_and_escapes_what_it_shows(tmp_path):
    questions = write_questions(tmp_path / "questions")
    name = "<script>alert(1)</script>"
    answers = write_answers(tmp_path / "answers", name, {f"q{n}": f"{NOTE} <img src=x> Aspirin 5 g." for n in range(8)})
    judged = write_judgements(tmp_path / "judged", "coin", {name: GOOD})
    write(tmp_path / "cal/labels", "labels", Label, [LABELS[f"q{n}"] for n in range(8)])
    write_questions(tmp_path / "cal/questions")
    tried = write_judgements(tmp_path / "tried", "coin", {"planted": [1] * 8})
    out = tmp_path / "out"
    config = ReportConfig(
        questions, out, (answers,), (judged,), calibration=tmp_path / "cal", calibration_judged=(tried,)
    )
    figures = run(config)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "coin tells right answers from wrong ones little better than chance" in page
    assert not re.search(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xlink))", page), "nothing comes from another host"
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(figures))
    assert "| model | mean score | unacceptable | answers without a verdict |" in (out / "report.md").read_text()
    before = page, (out / "report.json").read_bytes()
    run(config)
    assert ((out / "report.html").read_text(), (out / "report.json").read_bytes()) == before


# ---------------------------------------------------------------- patients and articles


def test_intervals_are_clustered_by_the_coarsest_unit_that_is_known(tmp_path):
    """Eight notes of each patient, all scored alike, tell as much as one: their interval is not narrower."""
    scores = [1, 4, 3, 2, 4, 2]
    single = {f"q{k}": question(k, note_id=f"n{k}") for k in range(6)}
    eightfold = {f"q{k}": question(k, note_id=f"n{k}", report_id=f"p{k // 8}") for k in range(48)}
    of_articles = {name: replace(q, article=f"PMC{int(name[1:]) // 16}") for name, q in eightfold.items()}
    told = []
    for number, questions in enumerate((single, eightfold, of_articles)):
        given = scores if len(questions) == 6 else [score for score in scores for _ in range(8)]
        folder = write_judgements(tmp_path / f"j{number}", "j", {"m": given})
        told.append(figures_of(Results(questions, read_judged([folder])), "", 0.3))
    means = [each["scores"]["j"]["m"]["mean"] for each in told]
    assert [each["unit"] for each in told] == ["notes", "patients", "articles"]
    assert [each["clusters"] for each in means] == [6, 6, 3]
    assert (means[1]["low"], means[1]["high"]) == pytest.approx((means[0]["low"], means[0]["high"]))
    assert means[2]["low"] is None, "three articles are too few for an interval"
    assert [each["value"] for each in means] == pytest.approx([16 / 6] * 3)
    shares = [each["scores"]["j"]["m"]["unacceptable"] for each in told]
    assert (shares[1]["low"], shares[1]["high"]) == pytest.approx((shares[0]["low"], shares[0]["high"]))
    page = rendered(
        "report.md", {**told[1], "hallucination": {}, "calibration": {}, "measured": [], "other_answers": []}
    )
    assert "48 questions on 48 notes from 6 patients; j scored answers to 48 of them" in page
    assert "clustered by patients" in page
    assert "(6 clusters)" in page


def test_every_interval_names_its_method(tmp_path):
    """Whatever has two bounds says how they were computed, and the page explains it."""
    made = results(tmp_path, j={"m": GOOD, "n": BAD}, k={"m": FAIR, "n": BAD})
    made.questions = {f"q{k}": question(k, note_id=f"n{k}") for k in range(8)}
    made.ratings = [Rating(r, f"q{k}", "m", GOOD[k]) for r in ("r1", "r2") for k in range(8)]
    figures = figures_of(made, "n", 0.3)
    nameless = []

    def walk(value, path: str) -> None:
        if isinstance(value, dict):
            if value.get("low") is not None and not value.get("method"):
                nameless.append(path)
            for name, part in value.items():
                walk(part, f"{path}/{name}")

    for part in ("scores", "slices", "comparisons"):
        walk(figures[part], part)
    walk({name: value for name, value in figures["agreement"].items() if name != "retest"}, "agreement")
    assert not nameless
    assert all(method["text"] for method in methods_of(figures))


def test_questions_that_nobody_scored_are_not_counted_as_scored(tmp_path):
    found = figures_of(results(tmp_path, j={"m": [0, 4, 0, 4, 4, 4, 4, 4]}), "", 0.3)
    assert (found["questions"], found["scored"]) == (8, {"j": 6})
