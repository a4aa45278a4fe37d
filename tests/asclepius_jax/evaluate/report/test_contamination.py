"""What the report says of contamination, and the checklist that is drafted from it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.evaluate.answers.answers import content_of_questions
from asclepius_jax.evaluate.questions import questions
from asclepius_jax.evaluate.questions.questions import QuestionsConfig
from asclepius_jax.evaluate.records import Answer, Question, Rating, read_records
from asclepius_jax.evaluate.report.report import ReportConfig, run
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import text_hash
from data_prep.curate import split
from tests.helpers.evaluation.made_evaluation import write
from tests.helpers.made_inputs import example, write_records

DRUGS = ("aspirin", "heparin", "insulin", "warfarin", "metformin", "digoxin", "lisinopril", "atenolol", "ramipril")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportConfig:
    """Questions from the held-out side of a split, a checkpoint of its training side, and a foreign model."""
    folder = tmp_path_factory.mktemp("split")
    records = [
        replace(
            example(f"e{n}", f"A {30 + n}-year-old woman took {drug}, and {DRUGS[n - 1]} after {n + 2} weeks.",
                    f"Which drug, {drug}?", f"The patient took {drug}."),
            report_id=f"r{n}", article=f"PMC{1000 + n}",
        )
        for n, drug in enumerate(DRUGS)
    ]  # fmt: skip
    source = write_records(folder / "source", records)
    split.run(split.SplitConfig(source, folder / "split", held_out=0.5, similarity=1.0))
    questions.run(QuestionsConfig(folder / "split/held_out", folder / "questions"))
    train = read_manifest(folder / "split/train", "instructions")["files"]
    mine = folder / "run"
    mine.mkdir()
    inputs = {"data/split/train": text_hash(*(file["sha256"] for file in train))}
    (mine / "data_manifest.json").write_text(json.dumps({"inputs": inputs}))
    (mine / "config.json").write_text(json.dumps({"init": {"hf": "meta-llama/Llama-2-7b-hf", "checkpoint": ""}}))
    asked = list(read_records(folder / "questions", "questions", Question))
    for name, kind, place in (("mine", "checkpoint", str(mine)), ("gpt", "endpoint", "gpt-4o")):
        with writing_folder(
            folder / "a" / name, "answers", {"q": content_of_questions(folder / "questions")}
        ) as writer:
            writer.facts = {"model": {"name": name, "kind": kind, "place": place}}
            writer.add_shard([Answer(q.id, name, q.reference, "stop") for q in asked], Answer)
    rated = [Rating(r, q.id, m, 4) for r in ("r", "s", "t") for q in asked for m in ("mine", "gpt")]
    ratings = write(folder / "ratings", "ratings", Rating, rated)
    return ReportConfig(
        folder / "questions", folder / "report", (folder / "a",), ratings=(ratings,), split=(folder / "split",),
        tripod=folder / "tripod.md",
    )  # fmt: skip


def test_the_training_data_of_a_run_are_known_and_those_of_its_base_and_of_foreign_models_are_not(report):
    found = run(report)["contamination"]
    assert found["models"] == {
        "gpt": "unknown",
        "mine": f"the training side of {report.split[0]}; the data of Llama-2-7b-hf: unknown",
    }
    (told,) = found["splits"]
    assert told["questions_are_held_out"]
    assert (told["patients_in_train"], told["articles_in_train"]) == (0, 0)
    assert told["patients"] == told["held_out"]["patients"] > 0
    page = (report.out / "report.html").read_text()
    assert "The questions are those of the held-out side." in page
    assert "No evaluation set was compared." in page
    assert "by the authors" in run(replace(report, trained_on=("gpt",)))["contamination"]["models"]["gpt"]
    with pytest.raises(UserError, match="--trained-on nobody: no answers of this model"):
        run(replace(report, trained_on=("nobody",)))


def test_questions_from_the_training_side_are_found(report, tmp_path):
    questions.run(QuestionsConfig(report.split[0] / "train", tmp_path / "questions"))
    seen = replace(report, questions=tmp_path / "questions", answers=(), ratings=(), measured=(), out=tmp_path / "out")
    asked = list(read_records(tmp_path / "questions", "questions", Question))
    rated = write(tmp_path / "ratings", "ratings", Rating, [Rating("r", q.id, "gpt", 4) for q in asked])
    (told,) = run(replace(seen, ratings=(rated,), tripod=None))["contamination"]["splits"]
    assert not told["questions_are_held_out"]
    assert told["patients_in_train"] == told["patients"] == len(asked)


def test_without_a_split_contamination_is_unknown(report):
    run(replace(report, split=(), tripod=None))
    assert "Unknown: no folder of <code>asclepius split</code> was given" in (report.out / "report.html").read_text()
    with pytest.raises(UserError, match="not a folder that asclepius split wrote"):
        run(replace(report, split=(Path(report.questions),)))


def test_the_checklist_has_the_19_main_items_and_names_where_each_fact_is_from(report):
    figures = run(report)
    text = report.tripod.read_text()
    assert [int(number) for number in re.findall(r"^## (\d+) ", text, re.MULTILINE)] == list(range(1, 20))
    assert "It does not replace the official" in text
    for item in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert "To be completed by the authors" in item or "`" in item, item
    for path in re.findall(r"\(`([^`]+)`", text):
        value = figures
        for name in path.split("."):
            assert name in value, f"{path} is no part of report.json"
            value = value[name]
    assert "3 clinicians, blinded" in text
    assert "Training data of gpt: unknown" in text
