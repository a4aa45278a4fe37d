"""A run that is killed, stopped, moved to another mesh or started twice ends where an unbroken one ends."""

import dataclasses
import json
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from asclepius_jax.checkpoint.read import find_step, read_meta
from asclepius_jax.config import CheckpointConfig, InitConfig, MeshConfig, TrainConfig
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import write_config
from asclepius_jax.train.batches import PackedRows, TrainBatches
from asclepius_jax.train.loop import train
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, free_address, job_flags, packed_notes
from tests.helpers.training.small_run import (
    LENGTH,
    ROWS,
    TOTAL,
    assert_same_params,
    command_of,
    copied,
    lasting,
    losses_of,
    metrics_of,
    params_of,
    run_and_strike,
    steps_of,
)

STRUCK = 7


@pytest.fixture(scope="module")
def killed(base: TrainConfig, tmp_path_factory) -> TrainConfig:
    """A run that `kill -9` ended after step 7, three steps after its last checkpoint."""
    config = dataclasses.replace(base, run_dir=str(tmp_path_factory.mktemp("killed") / "run"))
    assert run_and_strike(config, STRUCK, signal.SIGKILL) == -signal.SIGKILL
    return config


# ---------------------------------------------------------------- an unbroken run


def test_a_run_learns_and_leaves_what_its_readers_need(base: TrainConfig, unbroken: Path):
    losses = losses_of(unbroken)
    assert list(losses) == list(range(1, TOTAL + 1))
    assert losses[TOTAL] < losses[1] - 0.5
    assert steps_of(unbroken) == [4, 8, 9]
    assert json.loads((unbroken / "summary.json").read_text())["step"] == TOTAL
    assert (unbroken / "tokenizer/tokenizer.json").is_file()
    meta = read_meta(find_step(unbroken)[1])
    assert (meta.model, meta.phase, meta.row_length) == (MODEL, "pretrain", LENGTH)
    assert meta.tokenizer_hash == PackedRows(Path(base.data.path[0]), LENGTH).manifest["tokenizer_hash"]


def test_the_held_out_loss_is_that_of_a_direct_computation(base: TrainConfig, unbroken: Path):
    evaluated = {row["step"]: row for row in metrics_of(unbroken) if "eval_loss" in row}
    assert list(evaluated) == [6, TOTAL]
    rows = PackedRows(Path(base.data.eval_path[0]), LENGTH)
    assert len(rows) % ROWS  # the last batch is not full
    row = {name: np.stack([rows[i][name] for i in range(len(rows))]) for name in rows[0]}
    model, (run_dir, _) = build(MODEL), find_step(unbroken)
    merged = model.merge(nested(params_of(run_dir)))
    logits = np.asarray(merged(row["tokens"], row["positions"], row["segment_ids"], "float32"), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_probabilities, row["targets"][..., None], -1)[..., 0]
    expected = -(picked * row["loss_mask"]).sum() / row["loss_mask"].sum()
    assert evaluated[TOTAL]["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert evaluated[TOTAL]["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


def nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    from asclepius_jax.model.huggingface.names import unflatten

    return unflatten({name: jax.numpy.asarray(value) for name, value in flat.items()})


# ---------------------------------------------------------------- broken runs


def test_a_killed_run_ends_in_the_parameters_of_an_unbroken_one(killed: TrainConfig, unbroken: Path, tmp_path: Path):
    config = copied(killed, tmp_path / "run")
    assert steps_of(config.run_dir) == [4]
    train(config)
    assert_same_params(config.run_dir, unbroken)
    # The steps that the kill undid stand once, and none is missing.
    assert [row["step"] for row in metrics_of(config.run_dir)] == [row["step"] for row in metrics_of(unbroken)]
    assert losses_of(config.run_dir) == losses_of(unbroken)


def test_on_another_mesh_it_sees_the_same_batches(killed: TrainConfig, unbroken: Path, tmp_path: Path, monkeypatch):
    config = dataclasses.replace(copied(killed, tmp_path / "run"), mesh=MeshConfig(4, 1, 1))
    seen: dict[int, list[int]] = {}
    row_ids = TrainBatches.row_ids

    def noted(self: TrainBatches, step: int) -> list[int]:
        seen[step] = row_ids(self, step)
        return seen[step]

    monkeypatch.setattr(TrainBatches, "row_ids", noted)
    train(config, jax.devices()[:4])
    assert list(seen) == list(range(4, TOTAL))
    monkeypatch.undo()
    rows = PackedRows(Path(config.data.path[0]), LENGTH)
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = TrainBatches(rows, ROWS, config.data.seed, one_device)
    assert seen == {step: batches.row_ids(step) for step in seen}
    # float32 sums in another order, through four steps of AdamW.
    ours, theirs = losses_of(config.run_dir), losses_of(unbroken)
    np.testing.assert_allclose([ours[s] for s in range(1, 10)], [theirs[s] for s in range(1, 10)], rtol=1e-4)


def test_sigterm_saves_and_the_next_start_continues(base: TrainConfig, unbroken: Path, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    assert run_and_strike(config, 6, signal.SIGTERM) == 0
    assert steps_of(config.run_dir) == [4, 6]
    assert list(losses_of(config.run_dir)) == list(range(1, 7))
    (tmp_path / "run/notes.txt").write_text("a file of the user's")
    train(config)
    assert (tmp_path / "run/notes.txt").read_text() == "a file of the user's"
    assert_same_params(config.run_dir, unbroken)
    assert losses_of(config.run_dir) == losses_of(unbroken)


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(
    base: TrainConfig, unbroken: Path, tmp_path: Path
):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    address = free_address()
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    processes = [
        # The second process alone is struck.
        subprocess.Popen([*command_of(config, 2 * rank, signal.SIGTERM), *job_flags(address, rank)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    stopped = max(steps_of(config.run_dir))
    assert 2 < stopped < TOTAL
    assert list(losses_of(config.run_dir)) == list(range(1, stopped + 1))
    train(config)
    # Two processes with four devices each, and then one with eight, give what one with eight gives.
    ours, theirs = losses_of(config.run_dir), losses_of(unbroken)
    assert list(ours) == list(range(1, TOTAL + 1))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


def test_a_run_never_continues_on_other_rows(killed: TrainConfig, small_tokenizer: Path, tmp_path: Path):
    config = copied(killed, tmp_path / "run")
    other = packed_notes(tmp_path / "other", small_tokenizer, 150, LENGTH, seed=7)
    with pytest.raises(UserError, match=r"other settings.*rows of data\.path, packed again"):
        train(dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(other))))


def test_imported_weights_are_no_interrupted_run(base: TrainConfig, unbroken: Path, tmp_path: Path):
    run_export(ExportConfig(unbroken, tmp_path / "hf", dtype="float32"))
    run_import(ImportConfig(tmp_path / "hf", tmp_path / "imported"))
    with pytest.raises(UserError, match=r"imported weights: start from them with --init\.checkpoint"):
        train(dataclasses.replace(base, run_dir=str(tmp_path / "imported")))


def test_a_refused_start_leaves_nothing_behind(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), init=InitConfig(checkpoint=str(tmp_path)))
    with pytest.raises(UserError, match="contains no checkpoint"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_started_again_does_nothing(base: TrainConfig, unbroken: Path, tmp_path: Path):
    config = copied(dataclasses.replace(base, run_dir=str(unbroken)), tmp_path / "run")
    before = metrics_of(config.run_dir)
    train(config)
    assert metrics_of(config.run_dir) == before
    assert steps_of(config.run_dir) == [4, 8, 9]
    assert_same_params(config.run_dir, unbroken)
    assert json.loads((Path(config.run_dir) / "summary.json").read_text())["step"] == TOTAL


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("optimizer", {"learning_rate": 5e-3}, "optimizer .*0.01.* -> .*0.005"),
        ("batch", {"global_batch": 16}, "batch.global_batch 8 -> 16"),
        ("data", {"seed": 1}, "data.seed 0 -> 1"),
    ],
)
def test_an_interrupted_run_keeps_its_course(killed: TrainConfig, section: str, values: dict, told: str):
    changed = dataclasses.replace(killed, **{section: dataclasses.replace(getattr(killed, section), **values)})
    with pytest.raises(UserError, match=rf"interrupted run with other settings \({told}"):
        train(changed)
    assert steps_of(killed.run_dir) == [4]


def test_only_the_newest_steps_stay(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(lasting(base, 4), run_dir=str(tmp_path), checkpoint=CheckpointConfig(1, keep=2))
    train(config)
    assert steps_of(tmp_path) == [3, 4]


# ---------------------------------------------------------------- where the parameters come from


@pytest.mark.parametrize("source", ["checkpoint", "hf"])
def test_a_run_starts_from_the_weights_it_is_told_to(base: TrainConfig, unbroken: Path, tmp_path: Path, source: str):
    if source == "hf":
        run_export(ExportConfig(unbroken, tmp_path / "folder", "float32"))
        init = InitConfig(hf=str(tmp_path / "folder"))
    else:
        init = InitConfig(checkpoint=str(unbroken))
    # The first step has the rate that warmup begins with, which is zero: what it saves is what it started from.
    data = dataclasses.replace(lasting(base, 2).data, eval_path="")
    config = dataclasses.replace(
        base, run_dir=str(tmp_path / "run"), data=data, init=init, checkpoint=CheckpointConfig(1, keep=2)
    )
    train(config)
    assert_same_params(Path(config.run_dir) / "checkpoints/1", unbroken)
    assert losses_of(config.run_dir)[1] < losses_of(unbroken)[1] - 0.5


def test_a_run_from_a_checkpoint_of_another_shape_is_refused(base: TrainConfig, unbroken: Path, tmp_path: Path):
    init = InitConfig(checkpoint=str(unbroken))
    wider = dataclasses.replace(MODEL, mlp_dim=128)
    (tmp_path / "config.json").write_text(write_config(wider, "float32", {}))
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), model=str(tmp_path), init=init)
    with pytest.raises(UserError, match="contains another model: mlp_dim 64 there, 128 here"):
        train(config)


def test_a_continued_run_ignores_where_it_once_started(killed: TrainConfig, unbroken: Path, tmp_path: Path):
    config = copied(killed, tmp_path / "run")
    assert steps_of(config.run_dir) == [4]
    train(dataclasses.replace(config, init=InitConfig(checkpoint=str(unbroken))))
    assert_same_params(config.run_dir, unbroken)
