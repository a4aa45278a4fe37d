"""A report of little is a page all the same, and one of what does not must be given together says so."""

import json
import re
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.answers.answers import answers_hash
from asclepius_jax.evaluate.judge import plant
from asclepius_jax.evaluate.judge.calibration import retest
from asclepius_jax.evaluate.records import Judgement, Label, Question, Rating, read_records
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.report import ReportConfig, run
from asclepius_jax.evaluate.report.results import Results, read_judged
from asclepius_jax.evaluate.report.tables import keep
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST
from tests.helpers.evaluation.made_evaluation import (
    answered,
    question,
    write,
    write_answers,
    write_judgements,
    write_questions,
)
from tests.helpers.made_inputs import example, write_records

GOOD, BAD, NONE = [4, 4, 4, 3, 4, 4, 3, 4], [1, 1, 2, 1, 1, 1, 3, 1], [0] * 8
RIGHT = "Aspirin 100 mg was given twice daily."


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def reported(tmp_path, **settings) -> tuple[dict, str, str]:
    """The report's figures as they are on disk, its page, its Markdown."""
    questions = settings.pop("questions", None) or write_questions(tmp_path / "questions")
    run(ReportConfig(questions, tmp_path / "report", **settings))
    figures = json.loads((tmp_path / "report/report.json").read_text(), parse_constant=no_constant)
    return figures, (tmp_path / "report/report.html").read_text(), (tmp_path / "report/report.md").read_text()


def give_answers(tmp_path, *models: str):
    for model in models:
        write_answers(tmp_path / "answers" / model, model, {f"q{n}": RIGHT for n in range(8)})
    return tmp_path / "answers"


# ---------------------------------------------------------------- little


def test_verdicts_that_are_all_missing_make_a_page_without_a_figure(tmp_path):
    judged = write_judgements(tmp_path / "judged", "j", {"a": NONE, "b": GOOD, "c": NONE}, votes=2)
    figures, page, _ = reported(tmp_path, judged=(judged,), baseline="a")
    assert figures["scores"]["j"]["a"]["mean"]["value"] is None
    assert figures["comparisons"]["j"]["b"]["difference"]["value"] is None
    assert "32 of 48 votes of j are missing." in page
    assert "not defined" in page


def rows_of(page: str, caption: str) -> list[list[str]]:
    """The cells of the table with this caption, header first."""
    table = page[page.index(f"<caption>{caption}") :].split("</table>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]


def test_every_cell_is_under_its_model(tmp_path):
    """Models by their names in one place and by their scores in another: here the two orders are opposite."""
    scores = {"a": BAD * 2, "b": [3, 3, 2, 3, 3, 2, 3, 3] * 2, "c": GOOD * 2}
    judged = write_judgements(tmp_path / "judged", "j", scores)
    questions = write_questions(tmp_path / "questions", 16)
    figures, page, _ = reported(tmp_path, questions=questions, judged=(judged,), baseline="b")
    header, *rows = rows_of(page, "By task")
    assert header[2:] == ["c", "b", "a"]
    for name, _, *cells in rows:
        told = figures["slices"]["j"]["task"][name]["models"]
        assert [cell.split()[0] for cell in cells] == [f"{told[model]['value']:.2f}" for model in header[2:]]
    for way in ("age group", "sex", "specialty"):
        header, *rows = rows_of(page, f"By {way}")
        for name, _, _, *cells in rows:
            group = figures["subgroups"][way]["groups"][name]
            if not group.get("suppressed"):
                told = group["models"]
                assert [cell.split()[0] for cell in cells] == [f"{told[model]['value']:.2f}" for model in header[3:]]


def test_one_model_on_one_note_without_known_answers(tmp_path):
    made = [question(n, note_id="n0", reference="", task="Summarization") for n in range(8)]
    questions = write(tmp_path / "questions", "questions", Question, made)
    judged = write_judgements(tmp_path / "judged", "j", {"a": GOOD})
    figures, page, _ = reported(
        tmp_path, questions=questions, answers=(give_answers(tmp_path, "a"),), judged=(judged,), baseline="a"
    )
    assert "Evaluation of 1 model<" in page
    assert figures["scores"]["j"]["a"]["mean"]["low"] is None
    assert figures["hallucination"]["a"]["omitted"]["value"] is None
    assert figures["comparisons"] == {}, "one model is compared with nobody"


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing to report: give --answers"):
        reported(tmp_path)
    assert not (tmp_path / "report").exists()


def test_clinicians_who_cannot_judge_or_only_repeat_agree_with_nobody(tmp_path):
    questions = {q.id: q for q in map(question, range(8))}
    judged = read_judged([write_judgements(tmp_path / "judged", "j", {"a": GOOD})])
    repeats = [Rating(rater, f"q{n}", "a", 4, repeat=1) for rater in ("r", "s") for n in range(8)]
    told = figures_of(Results(questions, judged, repeats), "", 0.3)["agreement"]
    assert told["clinicians"]["value"] is None
    assert told["with_clinicians"]["j"]["value"] is None
    cannot = [Rating(rater, f"q{n}", "a", 0) for rater in ("r", "s") for n in range(8)]
    figures = figures_of(Results(questions, judged, cannot), "", 0.3)
    assert figures["scores"]["clinicians"]["a"]["mean"]["missing"] == 8
    assert figures["agreement"]["clinicians"]["value"] is None


# ---------------------------------------------------------------- intervals


def test_intervals_of_agreement_are_clustered_by_note(tmp_path):
    questions = {q.id: q for q in map(question, range(8))}  # two to a note
    folders = [write_judgements(tmp_path / name, name, {"m": GOOD, "n": BAD}, votes=2) for name in ("j", "k")]
    ratings = [
        Rating(rater, f"q{n}", model, scores[n], repeat)
        for rater in ("r", "s")
        for model, scores in (("m", GOOD), ("n", BAD))
        for n in range(8)
        for repeat in (0, 1)
    ]
    told = figures_of(Results(questions, read_judged(folders), ratings), "", 0.3)["agreement"]
    for name in ("judges", "clinicians", "same_clinician"):
        assert told[name]["clusters"] == 4, name
    assert told["retest"]["j"]["alpha"]["clusters"] == 4
    assert told["with_clinicians"]["j"]["spearman"]["clusters"] == 4


def test_a_judge_that_voted_once_has_no_agreement_with_itself():
    assert retest([Judgement("q0", "m", "j", 0, 4)]) is None


# ---------------------------------------------------------------- what does not must be given together


def test_verdicts_on_other_answers_are_told_of(tmp_path):
    questions = write_questions(tmp_path / "questions")
    folder = give_answers(tmp_path, "a", "b")
    mine = {name: answered(folder / name) for name in ("a", "b")}
    judged = write_judgements(tmp_path / "judged", "j", {"a": GOOD, "b": BAD})
    manifest = json.loads((judged / MANIFEST).read_text())

    def page(answers) -> str:
        manifest["inputs"] = {"questions": "x", "answers": answers_hash(answers)}
        (judged / MANIFEST).write_text(json.dumps(manifest))
        return reported(tmp_path, questions=questions, answers=(folder,), judged=(judged,))[1]

    assert "judged other answers" not in page(mine)
    changed = {**mine["a"], "q0": replace(mine["a"]["q0"], text="Something else.")}
    assert "j judged other answers than those on this page" in page({**mine, "a": changed})


def test_verdicts_on_a_model_without_answers_are_told_of(tmp_path):
    judged = write_judgements(tmp_path / "judged", "j", {"a": GOOD, "b": BAD})
    _, page, _ = reported(tmp_path, answers=(give_answers(tmp_path, "a"),), judged=(judged,))
    assert "j scores b, whose answers were not given." in page


def test_a_judge_that_was_tried_in_another_way_or_said_nothing_is_told_of(tmp_path):
    labels = [Label(f"q{n}", "dose x10" if n % 2 else "", "incorrect" if n % 2 else "") for n in range(8)]
    write(tmp_path / "cal/labels", "labels", Label, labels)
    judged = write_judgements(tmp_path / "judged", "j", {"a": GOOD})
    write_questions(tmp_path / "cal/questions")
    tried = write_judgements(tmp_path / "tried", "j", {"planted": NONE})
    manifest = json.loads((tried / MANIFEST).read_text())
    (tried / MANIFEST).write_text(json.dumps({**manifest, "mode": "listwise", "votes": 3}))
    _, page, _ = reported(tmp_path, judged=(judged,), calibration=tmp_path / "cal", calibration_judged=(tried,))
    assert "j was tested on known errors with another mode and votes than it judges with here." in page
    assert "j gave no readable verdict on right or on wrong answers" in page


def test_a_calibration_without_its_verdicts_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be given together"):
        reported(tmp_path, calibration=tmp_path)


# ---------------------------------------------------------------- tables of other commands


TABLE = {"title": "T <b>", "about": "a | b", "columns": ["of", "n"], "table": [["[/x] | <i>", "1"]], "figures": {}}


def test_a_table_is_shown_as_it_is(tmp_path, capsys):
    keep(TABLE, tmp_path / "t.json")
    assert "[/x] | <i>" in capsys.readouterr().out, "a name is no markup"
    _, page, markdown = reported(tmp_path, measured=(tmp_path / "t.json",))
    assert "<td>[/x] | &lt;i&gt;</td>" in page
    assert "| of | n |\n|---|---|\n| [/x] \\| <i> | 1 |\n" in markdown


@pytest.mark.parametrize("left_out", ["title", "about", "columns", "table"])
def test_a_file_that_is_no_table_is_refused(tmp_path, left_out):
    (tmp_path / "t.json").write_text(json.dumps({k: v for k, v in TABLE.items() if k != left_out}))
    with pytest.raises(UserError, match="contains no table; name a file that asclepius evaluate wrote"):
        reported(tmp_path, measured=(tmp_path / "t.json",))


# ---------------------------------------------------------------- real notes


def test_a_planted_question_on_a_real_note_is_restricted_whoever_asked_it(tmp_path):
    made = [
        replace(
            example(f"e{n}", f"Note {n} of {word}.", f"Which {word}?", f"The {word} was given, {word} alone."),
            restricted=n == 1,
            report_id=f"r{n}",
        )
        for n, word in enumerate(("aspirin", "heparin", "insulin"))
    ]
    source = write_records(tmp_path / "source", made)
    plant.run(plant.PlantConfig(source, tmp_path / "out"))
    planted = list(read_records(tmp_path / "out/questions", "questions", Question))
    assert any("not in the note" in q.id for q in planted)
    assert all(q.restricted for q in planted if q.note == made[1].note)
    assert any(not q.restricted for q in planted)
