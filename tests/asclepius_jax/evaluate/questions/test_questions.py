"""Which questions are drawn, what they carry of their source, and which sources are refused."""

import csv
import json
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.questions.questions import QuestionsConfig, draw, run
from asclepius_jax.evaluate.records import Question, read_records
from data_prep.contract.errors import UserError
from data_prep.curate import release
from tests.helpers.made_inputs import example, write_records


def asked(source, out, **more) -> list[Question]:
    run(QuestionsConfig(source, out, **more))
    return list(read_records(out, "questions", Question))


def of_tasks(count: int, tasks: int = 2) -> list[Question]:
    return [Question(f"q{k}", f"n{k}", f"task {k % tasks}", "note", "instruction") for k in range(count)]


def write_csv(path, rows: list[dict]):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


ROW = {
    "patient_id": "p1",
    "note": "Fever for 3 days.",
    "question": "How long?",
    "answer": "3 days.",
    "task": "summarization",
}


# ---------------------------------------------------------------- drawing


def test_which_questions_are_drawn_does_not_depend_on_their_order():
    questions = of_tasks(40)
    drawn = draw(questions, 5, seed=0)
    assert {q.id for q in draw(questions[::-1], 5, seed=0)} == {q.id for q in drawn}
    assert [q.id for q in drawn] == [q.id for q in questions if q in drawn], "in the order of the source"
    assert [sum(q.task == task for q in drawn) for task in ("task 0", "task 1")] == [5, 5]


def test_a_question_is_drawn_or_not_whatever_other_tasks_there_are():
    questions = of_tasks(40)
    assert draw([q for q in questions if q.task == "task 1"], 5, 0) == [
        q for q in draw(questions, 5, 0) if q.task == "task 1"
    ]


def test_another_seed_draws_others_and_none_draws_all():
    questions = of_tasks(40)
    assert draw(questions, 5, 0) != draw(questions, 5, 1)
    assert draw(questions, 0, 0) == questions
    assert len(draw(questions, 500, 0)) == 40


# ---------------------------------------------------------------- what a question carries


def test_instructions_bring_the_type_of_their_note_the_year_and_their_answer(tmp_path):
    made = example("e1", "Fever.", "How long?", "3 days.")
    source = write_records(
        tmp_path / "instructions",
        [
            replace(made, note_type="discharge summary", report_id="r1", article="PMC7"),
            replace(made, id="e2", note_type="progress note", report_id="r2", article="", restricted=True),
            replace(made, id="e3", note_id="r3-ds", report_id="r3"),
        ],
    )
    (tmp_path / "reports.jsonl").write_text(
        '{"patient_uid": "r1", "pub_date": "12 Mar 2019"}\n{"patient_uid": "r2", "year": 2021}\n'
    )
    first, second, third = asked(source, tmp_path / "out", reports=tmp_path / "reports.jsonl")
    assert (first.note_type, first.year, first.reference) == ("discharge summary", "2019", "3 days.")
    assert (second.note_type, second.year) == ("progress note", "2021")
    assert (third.note_type, third.year) == ("", ""), "an id says nothing"
    assert [q.cluster for q in (first, second)] == [("article", "PMC7"), ("patient", f"{made.source} r2")]
    assert [q.restricted for q in (first, second, third)] == [False, True, False]


def test_a_table_in_the_published_columns(tmp_path):
    rows = [ROW, {**ROW, "question": "What?", "task": ""}, {**ROW, "patient_id": "p2", "note": "Cough."}]
    questions = asked(write_csv(tmp_path / "released.csv", rows), tmp_path / "out")
    assert [q.task for q in questions] == ["Summarization", "Question Answering", "Summarization"]
    assert questions[0].note_id == questions[1].note_id != questions[2].note_id
    assert len({q.id for q in questions}) == 3
    assert {q.source for q in questions} == {"released"}
    assert not any(q.restricted for q in questions)


def test_real_notes_of_a_table_can_be_marked_as_such(tmp_path):
    source = write_csv(tmp_path / "a.csv", [ROW, {**ROW, "question": "What?"}])
    assert all(q.restricted for q in asked(source, tmp_path / "all", restricted=True))
    rows = [{**ROW, "restricted": "true"}, {**ROW, "question": "What?", "restricted": "no"}]
    marked = asked(write_csv(tmp_path / "b.csv", rows), tmp_path / "some")
    assert [q.restricted for q in marked] == [True, False]


def test_a_released_data_set_gives_its_held_out_split(tmp_path):
    kept = [example(f"t{k}", f"Fever {k}.", "How long?", "3 days.") for k in range(3)]
    held = [replace(example(f"h{k}", f"Cough {k}.", "How long?", "3 days."), article="b") for k in range(2)]
    folders = [write_records(tmp_path / name, made) for name, made in (("kept", kept), ("held", held))]
    release.run(release.ReleaseConfig(folders[0], tmp_path / "all"))
    assert len(asked(tmp_path / "all", tmp_path / "of_all")) == 3
    release.run(release.ReleaseConfig(folders[0], tmp_path / "dataset", folders[1]))
    assert [q.note for q in asked(tmp_path / "dataset", tmp_path / "out")] == ["Cough 0.", "Cough 1."]


# ---------------------------------------------------------------- what is refused


def test_a_table_without_a_note_names_the_column_and_the_file(tmp_path):
    source = write_csv(tmp_path / "mine.csv", [{"text": "Fever.", "question": "How long?"}])
    with pytest.raises(UserError, match=r"mine\.csv:2: no column note among text, question"):
        asked(source, tmp_path / "out")
    source = write_csv(tmp_path / "mine.csv", [{"text": "Fever."}])
    with pytest.raises(UserError, match=r"no column note and question or instruction among text"):
        asked(source, tmp_path / "out")


def test_an_id_that_stands_twice_is_refused(tmp_path):
    source = write_csv(tmp_path / "a.csv", [{**ROW, "id": "x"}, {**ROW, "id": "x", "question": "What?"}])
    with pytest.raises(UserError, match=r"contains 'x' twice: ids must be unique"):
        asked(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"note,question\n,How long?\n", r"a\.csv:2: note is empty"),
        (b"note,question\nFever.,\n", r"a\.csv:2: question is empty"),
        (b"note,question\n", "contains no questions"),
        (b"note,question\nFever.,How,long\n", r"a\.csv:2: 3 fields under 2 columns"),
        (b"note,question\nFi\xe8vre.,How long?\n", r"a\.csv:2: not UTF-8"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, content, told):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=told):
        asked(tmp_path / "a.csv", tmp_path / "out")


def test_sources_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        asked(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no files of a known kind"):
        asked(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "a.json").write_text(json.dumps([ROW]))
    with pytest.raises(UserError, match=r"--reports .*absent: no such file"):
        asked(tmp_path / "a.json", tmp_path / "out", reports=tmp_path / "absent")
    with pytest.raises(UserError, match="--per-task -1"):
        asked(tmp_path / "a.json", tmp_path / "out", per_task=-1)
