"""The citations of answers are counted as a reader of the note would count them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.audits.citations import CitationsConfig, Counts, count, run
from asclepius_jax.evaluate.records import Answer, Question
from asclepius_jax.evaluate.report.tables import read_measured
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import numbered_sentences
from tests.helpers.evaluation.made_evaluation import question, write

NOTE = (
    "A 64-year-old woman was admitted with fever for 3 days. She denied chest pain. "
    "CT showed a mass in the left lung. Aspirin 100 mg was given twice daily. She was discharged on day 5. "
    "On discharge, aspirin 100 mg twice daily was continued."
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # Right: one sentence of the note, and no other, says it.
        ("CT showed a mass in the left lung [3].", Counts(1, 1, 0, 0, 1, 1, 1)),
        # The second number is idle.
        ("CT showed a mass in the left lung [3, 5].", Counts(1, 1, 0, 0, 2, 1, 1)),
        # The cited sentence is about something else.
        ("CT showed a mass in the left lung [2].", Counts(1, 0, 0, 0, 1, 0, 0)),
        # The cited sentence contradicts it, and so does the note.
        ("CT showed a mass in the right lung [3].", Counts(1, 0, 0, 1, 1, 0, 0)),
        # No number, and one that the note does not have.
        ("CT showed a mass in the left lung.", Counts(1, 0, 1, 0, 0, 0, 0)),
        ("CT showed a mass in the left lung [9].", Counts(1, 0, 0, 0, 1, 0, 0)),
        # Two sentences, each with its own.
        ("She denied chest pain [2]. She was discharged on day 5 [5].", Counts(2, 2, 0, 0, 2, 2, 2)),
        # The note says it twice.
        ("Aspirin 100 mg was given twice daily [4].", Counts(1, 1, 0, 0, 1, 1, 0)),
        # It says that the note is silent, which needs no number.
        ("This is not stated in the note.", Counts()),
    ],
)
def test_sentences_and_citations_are_counted(answer: str, expected: Counts):
    assert len(numbered_sentences(NOTE)) == 6
    assert count(NOTE, answer) == expected


@pytest.fixture
def evaluation(tmp_path: Path) -> tuple[Path, Path]:
    """Four questions on two notes; one model cites well, and another half as well."""
    asked = [question(number, note=NOTE) for number in range(4)]
    questions = write(tmp_path / "questions", "questions", Question, asked)
    right, wrong = "CT showed a mass in the left lung [3].", "She denied chest pain [4]."
    for model, texts in {"good": [right] * 4, "half": [right, wrong] * 2}.items():
        answers = [Answer(q.id, model, text, "stop", "") for q, text in zip(asked, texts, strict=True)]
        write(tmp_path / "answers" / model, "answers", Answer, answers)
    return questions, tmp_path / "answers"


def test_the_table_has_every_model_with_intervals(evaluation, tmp_path: Path, capsys):
    questions, answers = evaluation
    made = run(CitationsConfig(questions, (answers,), tmp_path / "citations.json"))
    assert {model: each["recall"]["value"] for model, each in made["figures"].items()} == {"good": 1.0, "half": 0.5}
    assert {model: each["precision"]["value"] for model, each in made["figures"].items()} == {"good": 1.0, "half": 0.5}
    assert made["figures"]["half"]["unsupported"]["value"] == 0
    assert read_measured(tmp_path / "citations.json") == json.loads(json.dumps(made))
    assert "Citations" in capsys.readouterr().out


def test_answers_without_any_citation_are_refused_with_the_way_to_have_some(tmp_path: Path):
    asked = [question(number, note=NOTE) for number in range(2)]
    questions = write(tmp_path / "questions", "questions", Question, asked)
    answers = [Answer(q.id, "plain", "CT showed a mass in the left lung.", "stop", "") for q in asked]
    write(tmp_path / "answers", "answers", Answer, answers)
    with pytest.raises(UserError, match=r"no answer in .* cites a sentence"):
        run(CitationsConfig(questions, (tmp_path / "answers",), tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


LABELS = ("essential", "not-relevant", "supplementary", "essential")  # of the first four sentences


def test_citations_are_compared_with_the_sentences_that_people_labelled(tmp_path: Path):
    places = [[s.start, s.end, label] for s, label in zip(numbered_sentences(NOTE), LABELS, strict=False)]
    # A labelled sentence may be a part of ours, or reach into the next one.
    places[0][1] -= 10
    places[1][1] += 5
    asked = [replace(question(0, note=NOTE), evidence=json.dumps(places))]
    questions = write(tmp_path / "questions", "questions", Question, asked)
    text = "She was admitted with fever for 3 days [1]. She denied chest pain [2]. She was discharged on day 5 [5]."
    write(tmp_path / "answers", "answers", Answer, [Answer("q0", "model", text, "stop", "")])
    table = run(CitationsConfig(questions, (tmp_path / "answers",)))
    figures = table["figures"]["model"]
    assert figures["evidence precision"]["value"] == 1 / 2  # of sentences 1 and 2; nobody labelled 5
    assert figures["evidence recall"]["value"] == 1 / 2  # of sentences 1 and 4
    assert table["columns"][-2:] == ["evidence precision", "evidence recall"]


def test_without_labels_nothing_is_compared(evaluation: tuple[Path, Path]):
    questions, answers = evaluation
    table = run(CitationsConfig(questions, (answers,)))
    assert table["columns"][-1] == "unique evidence"
    assert all(len(row) == len(table["columns"]) for row in table["table"])
