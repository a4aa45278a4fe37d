"""Answers with known errors, and what they say of judges: the rules, one that knows nothing, one that knows all."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from asclepius_jax.evaluate.judge import judge, plant
from asclepius_jax.evaluate.judge.judge import JudgeConfig
from asclepius_jax.evaluate.records import Answer, Label, Question, read_records
from asclepius_jax.evaluate.report import report
from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from data_prep.teachers.base import TeacherConfig
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import write_questions
from tests.helpers.places import shared
from tests.helpers.text_stages import api


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A calibration set from real reports and MEDEC."""
    folder = tmp_path_factory.mktemp("planted")
    few = ShardsConfig(limit=100, workers=1)
    notes.run(notes.NotesConfig(str(shared("data/case_reports.jsonl")), folder / "notes", shards=few))
    instructions.run(instructions.InstructionsConfig(folder / "notes", folder / "instructions", per_note=2))
    config = plant.PlantConfig(
        folder / "instructions", folder / "set", shared("data/medec_ms_validation.csv"), per_class=12
    )
    plant.run(config)
    return folder / "set"


def read(folder) -> list[tuple[Question, Answer, Label]]:
    columns = [
        list(read_records(folder / kind, kind, record_type))
        for kind, record_type in (("questions", Question), ("answers", Answer), ("labels", Label))
    ]
    return list(zip(*columns, strict=True))


def test_a_set_has_enough_of_each_class_and_as_many_right_answers(planted):
    made = read(planted)
    counts = Counter(label.error for _, _, label in made)
    assert len(made) > 300
    assert all(question.id == answer.question_id == label.question_id for question, answer, label in made)
    assert {"unit swapped", "side swapped", "negation dropped", "left out", "not in the note"} <= set(counts)
    assert 0.4 < counts[""] / len(made) < 0.6


def test_what_is_labelled_wrong_differs_from_the_right_answer_and_what_is_right_does_not(planted):
    for question, answer, label in read(planted):
        if not label.error:
            assert answer.text == question.reference
        elif label.shows == "omitted":
            assert question.reference.startswith(answer.text)
            assert len(answer.text) < 0.7 * len(question.reference)
        else:
            assert answer.text != question.reference
        if label.shows == "unanswerable":
            assert question.reference == "This is not stated in the note."


def shown(prompt: str) -> dict[str, str]:
    """The texts between the tags of a prompt for one answer."""
    return dict(re.findall(r"<(\w+)-\w{8}>\n(.*?)\n</\1-\w{8}>", prompt, re.DOTALL))


def verdict(shows: str, texts: dict[str, str]) -> str:
    """A reply with the fault that a label names, and evidence of it."""
    found = {"incorrect": "no", "harm": "none", "omitted": "nothing", "answerable": "yes", "recognised": "yes"}
    of_fault = {
        "incorrect": ({"incorrect": "yes", "harm": "minor"}, "answer"),
        "omitted": ({"omitted": "minor"}, "note"),
        "unanswerable": ({"answerable": "no", "recognised": "no"}, ""),
        "": ({}, ""),
    }
    fault, source = of_fault[shows]
    evidence = [{"fault": shows, "quote": texts[source], "why": "…"}] if source else []
    return json.dumps({**found, **fault, "evidence": evidence})


def judged_by_endpoint(planted, out, reply, name):
    with FakeEndpoint(reply) as endpoint:
        config = JudgeConfig(
            planted / "questions", (planted / "answers",), out, name, teacher=replace(api(endpoint), temperature=0.0)
        )
        judge.run(config)
    return out


def test_the_report_tells_judges_that_know_from_one_that_answers_at_random(planted, tmp_path):
    labels = {(q.note, q.instruction, a.text): label for q, a, label in read(planted)}

    def knows(body, n):
        texts = shown(body["messages"][1]["content"])
        shows = labels[texts["note"], texts["instruction"], texts["answer"]].shows
        return completion(verdict(shows, texts))

    def tosses(body, n):
        texts = shown(body["messages"][1]["content"])
        heads = hashlib.sha256(json.dumps(texts).encode()).digest()[0] % 2
        return completion(verdict("incorrect" if heads else "", texts))

    tried = [judged_by_endpoint(planted, tmp_path / n, reply, n) for n, reply in (("knows", knows), ("coin", tosses))]
    judge.run(
        JudgeConfig(
            planted / "questions", (planted / "answers",), tmp_path / "rules", teacher=TeacherConfig(model="rules")
        )
    )
    config = report.ReportConfig(
        write_questions(tmp_path / "questions"),
        tmp_path / "report",
        calibration=planted,
        calibration_judged=(*tried, tmp_path / "rules"),
    )
    told = report.run(config)["calibration"]
    for name, least in (("knows", 0.999), ("rules", 0.7)):
        assert told[name]["youden"] > least, name
    assert abs(told["coin"]["youden"]) < 0.15
    page = (tmp_path / "report/report.html").read_text()
    assert "coin tells right answers from wrong ones little better than chance" in page
    assert "knows tells right" not in page
    print({name: (each["sensitivity"]["value"], each["specificity"]["value"]) for name, each in told.items()})


def test_a_file_without_the_columns_of_medec_names_them(planted, tmp_path):
    (tmp_path / "a.csv").write_text("Text,Error Flag\nx,1\n")
    config = plant.PlantConfig(planted.parent / "instructions", tmp_path / "out", tmp_path / "a.csv")
    with pytest.raises(UserError, match="no column Error Type, Error Sentence, Corrected Sentence, Corrected Text"):
        plant.run(config)
    assert not (tmp_path / "out").exists()
