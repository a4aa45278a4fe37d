"""The example that measures forgetting: every arm has one start, the same updates and the same measure."""

import dataclasses
import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import pytest

import asclepius_jax as asc
from asclepius_jax.config import InitConfig
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.errors import UserError
from tests.helpers.places import ROOT

ARMS = ["start", "notes only", "10 % general", "25 % general", "LoRA", "merged 0.25", "merged 0.5", "merged 0.75"]
RUNS = ("notes_only", "10_percent_general", "25_percent_general", "LoRA")
UPDATES = 4


@dataclasses.dataclass(frozen=True)
class Done:
    """The example after a tiny run."""

    example: ModuleType
    config: Any
    table: list[dict[str, Any]]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("forgetting")
    general = folder / "general.jsonl"
    texts = (f"Ship number {i} left harbour {i % 7} with {i % 11} sails and a crew of {i % 13}." for i in range(400))
    general.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sizes = {"row_length": 64, "eval_rows": 8, "pieces": 512, "width": 64, "layers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        example = importlib.import_module("forgetting")
        config = example.ForgettingConfig(general, folder / "out", updates=UPDATES, **sizes)
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])  # as on a CPU outside of tests
        yield Done(example, config, example.run(config))


def test_the_table_has_every_arm_with_the_same_updates(done: Done):
    out = done.config.out
    assert [row["arm"] for row in done.table] == ARMS
    assert [row["updates"] for row in done.table] == [0, *[UPDATES] * 7]
    steps = [sum("loss" in line for line in read_metrics(out / f"runs/{run}/metrics.jsonl")) for run in RUNS]
    assert steps == [UPDATES] * 4
    assert json.loads((out / "table.json").read_text())["table"] == done.table
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2 : 2 + len(ARMS)]] == ARMS
    for row in done.table:
        assert row["general_change"] == pytest.approx(row["general"] / done.table[0]["general"] - 1)
    assert "<svg" in (out / "plot.svg").read_text()


def test_every_arm_begins_at_the_same_checkpoint_and_reads_its_share_of_general_text(done: Done):
    runs = done.config.out / "runs"
    settings = {run: json.loads((runs / run / "config.json").read_text()) for run in RUNS}
    assert {each["init"]["checkpoint"] for each in settings.values()} == {str(runs / "general")}
    assert settings["LoRA"]["lora"]["rank"] == 16
    mixed = [any("loss/general" in line for line in read_metrics(runs / run / "metrics.jsonl")) for run in RUNS]
    assert mixed == [False, True, True, False]


def test_merges_with_the_weights_0_and_1_are_the_ends_and_runs_are_measured_like_them(done: Done):
    example, out = done.example, done.config.out
    base = example.settings(done.config)
    starts = {
        0: InitConfig(checkpoint=str(out / "runs/general")),
        1: InitConfig(checkpoint=str(out / "runs/notes_only")),
    }
    for weight, start in starts.items():
        losses = example.held_out_losses(dataclasses.replace(base, init=start))
        assert losses == pytest.approx({name: done.table[weight][name] for name in losses}, rel=1e-5)
        merged = InitConfig(hf=str(example.merge(done.config, out / "runs/general", weight)))
        assert example.held_out_losses(dataclasses.replace(base, init=merged)) == pytest.approx(losses, rel=1e-5)


def test_a_run_that_was_stopped_ends_the_study(done: Done, monkeypatch):
    """A run that Ctrl-C ends saves its step and returns like one that is finished."""
    stopped = done.config.out / "runs/stopped"
    base = dataclasses.replace(done.example.settings(done.config), run_dir=str(stopped))
    assert done.example.trained(base, UPDATES) == stopped
    monkeypatch.setattr(asc, "train", lambda config: stopped)
    with pytest.raises(KeyboardInterrupt):
        done.example.trained(base, UPDATES + 1)


def test_the_minutes_give_the_updates_and_too_few_are_refused(done: Done):
    base = done.example.settings(done.config)
    assert done.example.affordable(done.config, base, 0.1, 3600.0) > 100
    with pytest.raises(UserError, match=r"--minutes 25 is too short for one update: use \d+ or more"):
        done.example.affordable(done.config, base, 0.1, 0.0)
    with pytest.raises(UserError, match="is not empty"):
        done.example.run(done.config)
