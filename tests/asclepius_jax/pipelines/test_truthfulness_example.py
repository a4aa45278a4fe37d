"""The example that compares ways to tune towards the truth: its arms differ in what they are tuned on alone."""

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

from asclepius_jax.evaluate.records import Answer, Question, read_records
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import text_hash
from data_prep.faithfulness.certificate import certify
from data_prep.ingest.case_reports import DEMO_REPORTS
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow  # six runs and twelve passes over pairs


@dataclasses.dataclass(frozen=True)
class Done:
    example: ModuleType
    config: Any
    table: list[dict[str, Any]]


def answer_own_questions(config: Any) -> None:
    """In place of a model that hardly writes words: the reference, and the same with an invented drug."""
    content = text_hash(*(file["sha256"] for file in read_manifest(config.questions, "questions")["files"]))
    for model, more in (("own", ""), ("own-seed1", " He took 900 mg of ibuprofen.")):
        with writing_folder(config.out / model, "answers", {str(config.questions): content}) as writer:
            asked = read_records(config.questions, "questions", Question)
            writer.add_shard([Answer(q.id, model, q.reference + more, "stop") for q in asked], Answer)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("truthfulness")
    general = folder / "general.jsonl"
    texts = (f"Ship number {i} left harbour {i % 7} with {i % 11} sails and a crew of {i % 13}." for i in range(400))
    general.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        example = importlib.import_module("truthfulness")
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])  # as on a CPU outside of tests
        answer = example.answers.run
        patch.setattr(example.answers, "run", lambda c: answer_own_questions(c) if "own" in c.out.parts else answer(c))
        sizes = {"row_length": 2048, "pieces": 600, "width": 64, "layers": 1, "max_new_tokens": 8}
        config = example.TruthfulnessConfig(Path(DEMO_REPORTS), general, folder / "out", 0.02, **sizes)
        yield Done(example, config, example.run(config))


def test_the_arms_after_citing_start_from_it_and_take_the_same_updates(done: Done):
    runs = done.config.out / "runs"
    settings = {
        arm: json.loads((done.example.run_of(done.config, arm) / "config.json").read_text())
        for arm in done.example.ARMS
    }
    assert [row["arm"] for row in done.table] == list(done.example.ARMS)
    for arm in done.example.ARMS:
        later = arm not in ("plain examples", done.example.START)
        start = runs / ("examples_that_cite" if later else "pretraining")
        assert settings[arm]["init"]["checkpoint"] == str(start)
        losses = [
            line for line in read_metrics(done.example.run_of(done.config, arm) / "metrics.jsonl") if "loss" in line
        ]
        assert len(losses) == (done.config.sizes.preference if later else done.config.sizes.tuning)
        assert ("preference_margin" in losses[0]) == (arm in ("planted errors", "own answers", "both"))
        if "preference_margin" in losses[0]:
            assert losses[0]["preference_margin"] == pytest.approx(0, abs=1e-4), "the reference is where it starts"


def test_no_arm_is_tuned_on_the_classes_that_are_left_out(done: Done):
    pairs = done.config.out / "pairs"
    errors = {name: read_manifest(pairs / name, "pairs")["errors"] for name in ("planted", "seen", "left_out")}
    assert all(error.startswith(done.example.LEFT_OUT) for error in errors["left_out"])
    for name in ("planted", "seen"):
        assert not any(error.startswith(done.example.LEFT_OUT) for error in errors[name])


def test_the_table_says_what_the_answers_say(done: Done):
    out = done.config.out / "evaluation"
    notes = {question.id: question.note for question in read_records(out / "questions", "questions", Question)}
    for row in done.table:
        folder = out / "answers" / done.example.run_of(done.config, row["arm"]).name
        found = [certify(a.text, notes[a.question_id]).unsupported for a in read_records(folder, "answers", Answer)]
        assert row["unsupported"]["value"] == pytest.approx(sum(found) / len(found))
        assert row["answers"] == len(found) == len(notes)
        for name in ("seen", "left_out"):
            assert row[name]["n"] == read_manifest(done.config.out / f"packed/pairs_{name}", "packed")["documents"] / 2
    start = done.table[1]["unsupported"]["value"]
    for row in done.table:
        assert row["change"]["value"] == pytest.approx(row["unsupported"]["value"] - start)
    lines = (done.config.out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:8]] == list(done.example.ARMS)


def test_a_rerun_trains_nothing_again_and_gives_the_same_table(done: Done):
    runs = done.config.out / "runs"
    before = {path: path.read_bytes() for path in runs.rglob("metrics.jsonl")}
    assert done.example.run(done.config) == done.table
    assert {path: path.read_bytes() for path in runs.rglob("metrics.jsonl")} == before
    with pytest.raises(UserError, match="is not empty, and not a run with these settings"):
        done.example.run(dataclasses.replace(done.config, seed=1))
