"""A round of improvement is a list of commands that can be run by hand, and goes on where it was stopped."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax import cli
from asclepius_jax.evaluate.records import Answer, Question, read_records
from asclepius_jax.pipelines import improve
from asclepius_jax.train.loop import train
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import text_hash
from data_prep.pack import run as pack
from tests.helpers.command_line import assert_accepted
from tests.helpers.made_inputs import example, write_records
from tests.helpers.training.small_run import small_run

NOTE = "She was admitted with fever for 3 days. Aspirin 100 mg was given twice daily. The left lung was clear."
ANSWERS = ("Aspirin 100 mg was given twice daily.", "She had fever for 3 days.", "The left lung was clear.")


def instructions(folder: Path, patients: range) -> Path:
    made = [
        replace(example(f"{i}-{k}", f"{NOTE} Visit {i}.", "Which?", answer), report_id=f"r{i}")
        for i in patients
        for k, answer in enumerate(ANSWERS)
    ]
    return write_records(folder, made)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path) -> Path:
    """A tuned run of a tiny model, and instructions about other patients."""
    root = tmp_path_factory.mktemp("improve")
    instructions(root / "train", range(4))
    instructions(root / "held_out", range(4, 6))
    pack.run(pack.PackConfig(root / "train", root / "packed", small_tokenizer, 512, workers=1))
    (root / "run").mkdir()
    config = small_run(root / "run", small_tokenizer)
    sizes = json.loads((file := Path(config.model) / "config.json").read_text())
    file.write_text(json.dumps({**sizes, "max_position_embeddings": 512}))
    data = replace(config.data, path=(str(root / "packed"),), eval_path=(), row_length=512, epochs=2)
    config = replace(config, data=data, run_dir=str(root / "tuned"), init=replace(config.init, random=True))
    train(replace(config, few_steps=True))
    (root / "config.py").write_text(
        "from asclepius_jax.config import *\n"
        f"config = TrainConfig(model={config.model!r}, data=DataConfig(row_length=512), batch=BatchConfig(8),\n"
        "    compute=ComputeConfig('float32'), log=LogConfig(tensorboard=False, progress=False), few_steps=True)\n"
    )
    return root


def given(folders: Path, out: Path, *more: str) -> list[str]:
    return [
        "improve", str(folders / "config.py"), "--tuned", str(folders / "tuned"), "--source", str(folders / "train"),
        "--held-out", str(folders / "held_out"), "--out", str(out), "--max-new-tokens", "8", "--samples", "2", *more,
    ]  # fmt: skip


def asclepius(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["asclepius", *arguments])
    cli.main()


def answer(questions: Path, out: Path) -> None:
    """Two answers to each question, of which the second has a wrong dose."""
    content = text_hash(*(file["sha256"] for file in read_manifest(questions, "questions")["files"]))
    for model, text in (("model", ANSWERS[0]), ("model-seed1", ANSWERS[0].replace("100", "500"))):
        with writing_folder(out / model, "answers", {str(questions): content}) as writer:
            asked = [question.id for question in read_records(questions, "questions", Question)]
            writer.add_shard([Answer(name, model, text, "stop") for name in asked], Answer)


def test_every_printed_command_can_be_run_by_hand(folders: Path, tmp_path: Path, monkeypatch, capsys):
    more = ("--rounds", "2", "--print-only", "--without", "dose", "--optimizer.beta2", "0.99", "--preference.beta=0.2")
    asclepius(monkeypatch, given(folders, tmp_path / "out", *more))
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert not (tmp_path / "out").exists()
    kinds = [" ".join(words[1:3]) if words[1] == "evaluate" else words[1] for words in printed]
    one = ["evaluate questions", "evaluate answers", "pairs", "pairs", *["pack", "reference"] * 2, "train"]
    assert kinds == [*one, *one, *(f"evaluate {part}" for part in ("questions", "answers", "judge", "report"))]
    for words in printed:
        assert words[0] == "asclepius"
        assert_accepted(monkeypatch, words[1:])
    trainings = [" ".join(words) for words in printed if words[1] == "train"]
    for training in trainings:
        assert "--optimizer.beta2 0.99" in training
        assert "--preference.beta 0.2 --preference.anchor-weight 0.5" in training
        assert "--optimizer.learning-rate 2e-06 --data.epochs 1.0" in training
        assert "--tuned" not in training
    assert f"--init.checkpoint {folders / 'tuned'} " in trainings[0]
    assert f"--init.checkpoint {tmp_path / 'out/round-1/run'} " in trainings[1]
    assert sum("--without dose" in " ".join(words) for words in printed) == 2


def test_a_stopped_round_goes_on_and_ends_in_a_report(folders: Path, tmp_path: Path, monkeypatch, capsys):
    started: list[list[str]] = []
    died: list[bool] = []

    def run_here(command: list[str]) -> None:
        started.append(command)
        if command[0] == "train" and not died:
            died.append(True)
            raise UserError("the node went away")
        if command[1] == "answers" and "round-1" in command[3]:
            return answer(Path(command[3]), Path(command[5]))
        cli.dispatch(command[0], command[1:], True)

    monkeypatch.setattr(improve, "run_command", run_here)
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        asclepius(monkeypatch, given(folders, out, "--own-share", "0.25"))
    before = len(started)
    asclepius(monkeypatch, given(folders, out, "--own-share", "0.25"))
    assert started[before] == started[before - 1]
    assert [command[0] for command in started[before:]] == ["train", *["evaluate"] * 4]
    assert [read_manifest(out / f"round-1/pairs/{name}", "pairs")["out"] for name in ("own", "planted")] == [12, 8]
    rows = [row for row in read_metrics(out / "round-1/run/metrics.jsonl") if "loss" in row]
    assert {"loss/own", "loss/planted", "preference_margin"} <= rows[0].keys()
    scores: dict[str, Any] = json.loads((out / "evaluation/report/report.json").read_text())["scores"]["rules"]
    assert scores.keys() == {"tuned", "round-1"}
    count = len(started)
    asclepius(monkeypatch, given(folders, out, "--own-share", "0.25"))
    assert len(started) == count, "everything is finished"
    with pytest.raises(SystemExit):
        asclepius(monkeypatch, given(folders, out, "--own-share", "0"))
    assert "has the results of other settings or inputs: choose another folder" in capsys.readouterr().err
    assert len(started) == count


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rounds", "0"), "--rounds 0: must be at least 1"),
        (("--own-share", "1.5"), "--own-share 1.5: must be between 0 and 1"),
        (("--samples", "1"), "--samples 1: two answers at least make a pair"),
        (("--preference.beta", "0"), "--preference.beta 0: must be above 0"),
        (("--tuned", "nowhere"), "--tuned nowhere: no such run folder"),
        (("--out", "gs://bucket/out"), "gs://bucket/out: improve takes local folders"),
        (("--held-out", "TRAIN"), "4 of its case reports are in"),
        (("--out", "TRAIN"), "contains other files"),
    ],
)
def test_mistakes_end_before_anything_is_written(folders, tmp_path, monkeypatch, capsys, more, message):
    more = tuple(str(folders / "train") if word == "TRAIN" else word for word in more)
    with pytest.raises(SystemExit) as ended:
        asclepius(monkeypatch, given(folders, tmp_path / "out", *more))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_command_is_named(monkeypatch):
    with pytest.raises(UserError, match="asclepius pack --source nowhere ended with code 2: see above"):
        improve.run_command(["pack", "--source", "nowhere"])
