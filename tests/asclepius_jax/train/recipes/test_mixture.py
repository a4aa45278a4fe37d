"""Several packed folders, mixed by weight: which rows a step has, and what is measured of each source."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import pytest

from asclepius_jax.config import DataConfig, MeshConfig, TrainConfig, check
from asclepius_jax.config.sources import training_sources
from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
from asclepius_jax.train import start
from asclepius_jax.train.batches import PackedRows, TrainBatches
from asclepius_jax.train.loop import train
from asclepius_jax.train.mixture import MixedRows, open_rows, turn
from asclepius_jax.train.setup import make_step
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import free_address, job_flags, packed_notes
from tests.helpers.training.small_run import (
    LENGTH,
    ROWS,
    assert_same_params,
    command_of,
    copied,
    metrics_of,
    run_and_strike,
    steps_of,
)

WEIGHTS: tuple[tuple[str, ...], ...] = (
    ("0.9", "0.1"), ("0.5", "0.3", "0.2"), ("0.333", "0.667"), ("0.7", "0.15", "0.1", "0.05"), ("0.123456", "0.876544"),
    ("1", "1", "1"),
)  # fmt: skip
MESHES = ((1, 1, 1), (2, 2, 2), (8, 1, 1))


@pytest.fixture(scope="module")
def folders(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("sources")
    counts = {"notes": 150, "general": 40, "more": 25}
    return {
        name: packed_notes(made / name, small_tokenizer, count, LENGTH, seed)
        for seed, (name, count) in enumerate(counts.items())
    }


def mixed(folders: dict[str, Path], **weights: str) -> DataConfig:
    paths = tuple(f"{name}={folders[name]}:{weight}" for name, weight in weights.items())
    return DataConfig(paths, row_length=LENGTH)


def taken_in_turn(weights: list[Fraction], count: int) -> list[int]:
    """The sources of the first rows, by keeping count: a source takes a row once its share of those left for it and
    for later sources has grown by one, where a share is rounded up."""
    seen, taken = [0] * len(weights), [0] * len(weights)
    order = []
    for _ in range(count):
        for source in range(len(weights)):
            seen[source] += 1  # rows that came to this source, because no earlier one took them
            rest = sum(weights[source:], Fraction(0))
            due = seen[source] * weights[source] / rest
            if -(-due.numerator // due.denominator) > taken[source]:
                taken[source] += 1
                order.append(source)
                break
    return order


def normalized(weights: tuple[str, ...]) -> list[Fraction]:
    whole = sum(map(Fraction, weights), Fraction(0))
    return [Fraction(weight) / whole for weight in weights]


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_sources_take_turns_as_someone_who_keeps_count_would(weights: tuple[str, ...]):
    shares = normalized(weights)
    found = [turn(position, shares) for position in range(3000)]
    expected = taken_in_turn(shares, 3000)
    assert [source for source, _ in found] == expected
    for source in range(len(shares)):
        numbers = [number for each, number in found if each == source]
        assert numbers == list(range(len(numbers))), "each source's own rows come in order, none left out"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_stretch_has_the_proportions(weights: tuple[str, ...]):
    """Within two rows in any window; exact after whole periods, however far from the start."""
    shares = normalized(weights)
    far = 10**9 + 7
    sources = np.array([turn(far + position, shares)[0] for position in range(4000)])
    for source, share in enumerate(shares):
        counts = np.concatenate([[0], np.cumsum(sources == source)])
        for window in (1, 7, 64, 128, 1000):
            deviation = np.abs(counts[window:] - counts[:-window] - float(share) * window)
            assert deviation.max() < 2, (source, window)
    period = math.lcm(*(share.denominator for share in shares))
    if period <= 10_000:
        for source, share in enumerate(shares):
            assert sum(turn(far + k, shares)[0] == source for k in range(period)) == share * period


def test_a_row_is_the_next_of_its_own_shuffled_source(folders: dict[str, Path]):
    data = mixed(folders, notes="0.7", general="0.2", more="0.1")
    rows = open_rows(data)
    assert isinstance(rows, MixedRows)
    batches = TrainBatches(rows, 8, 5, batch_sharding(make_mesh(MeshConfig(1, 1), jax.devices()[:1])))
    found = [row for step in range(40) for row in batches.row_ids(step)]
    parts = [PackedRows(folders[name], LENGTH) for name in ("notes", "general", "more")]
    own = [iter(grain.MapDataset.range(len(part)).shuffle(seed=5 + n).repeat()) for n, part in enumerate(parts)]
    starts = np.cumsum([0, *map(len, parts)])
    expected = [
        starts[s] + next(own[s]) for s in taken_in_turn([Fraction(7, 10), Fraction(1, 5), Fraction(1, 10)], 320)
    ]
    assert found == expected
    for index in found[:50]:
        source, row = rows.place(index)
        np.testing.assert_array_equal(rows[index]["tokens"], parts[source][row]["tokens"])
        assert set(rows[index]["sources"].tolist()) == {source}


@pytest.mark.parametrize("shape", MESHES)
def test_the_batch_of_a_step_is_that_of_one_device(folders: dict[str, Path], shape: tuple[int, int, int]):
    rows = open_rows(mixed(folders, notes="0.9", general="0.1"))
    count = int(np.prod(shape))
    batches = TrainBatches(rows, 8, 3, batch_sharding(make_mesh(MeshConfig(*shape), jax.devices()[:count])))
    alone = TrainBatches(rows, 8, 3, batch_sharding(make_mesh(MeshConfig(1, 1), jax.devices()[:1])))
    for step in (0, 9, 4):
        assert batches.row_ids(step) == alone.row_ids(step)
        for name, array in batches[step].items():
            np.testing.assert_array_equal(np.asarray(array), np.stack([rows[i][name] for i in alone.row_ids(step)]))


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def config(base: TrainConfig, folders: dict[str, Path]) -> TrainConfig:
    """Nine steps on a mixture, with two held-out sets."""
    data = dataclasses.replace(
        mixed(folders, notes="0.75", general="0.25"),
        eval_path=(f"notes={base.data.eval_path[0]}", f"general={folders['more']}"),
    )
    rows = len(open_rows(data))
    return dataclasses.replace(base, data=dataclasses.replace(data, epochs=9.5 * ROWS / rows))


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(dataclasses.replace(config, run_dir=str(tmp_path_factory.mktemp("mixed") / "run")))


def test_a_killed_run_continues_with_the_same_rows(config: TrainConfig, whole: Path, tmp_path: Path):
    killed = dataclasses.replace(config, run_dir=str(tmp_path / "killed"))
    assert run_and_strike(killed, 6, signal.SIGKILL) == -signal.SIGKILL
    assert steps_of(killed.run_dir) == [4]
    elsewhere = dataclasses.replace(copied(killed, tmp_path / "elsewhere"), mesh=MeshConfig(4, 1, 1))
    train(killed)
    assert_same_params(killed.run_dir, whole)
    train(elsewhere, jax.devices()[:4])
    key = "loss/general"
    theirs = [row[key] for row in metrics_of(whole) if key in row]
    ours = [row[key] for row in metrics_of(elsewhere.run_dir) if key in row]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_two_processes_of_four_devices_read_the_same_rows(config: TrainConfig, whole: Path, tmp_path: Path):
    run = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    address, environment = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    processes = [subprocess.Popen([*command_of(run), *job_flags(address, rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for name in ("loss", "loss/notes", "loss/general"):
        ours, theirs = ([row[name] for row in metrics_of(folder) if name in row] for folder in (run.run_dir, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_other_weights_are_another_course(config: TrainConfig, folders: dict[str, Path], whole: Path, tmp_path: Path):
    run = copied(dataclasses.replace(config, run_dir=str(whole)), tmp_path / "run")
    paths = mixed(folders, notes="0.8", general="0.2").path
    with pytest.raises(UserError, match=r"the rows of data\.path, packed again or different"):
        train(dataclasses.replace(run, data=dataclasses.replace(run.data, path=paths)))


def test_the_losses_of_the_sources_add_up_to_that_of_the_step(config: TrainConfig, whole: Path):
    """By tokens, and each equal to the loss of a batch in which the other source carries none."""
    step = make_step(
        dataclasses.replace(config, run_dir="unused", batch=dataclasses.replace(config.batch, microbatches=2))
    )
    state, batch = step.init(), step.batch(0)
    sources, mask = np.asarray(batch["sources"]), np.asarray(batch["loss_mask"])
    alone = []
    for source in (0, 1):
        only = jax.device_put(mask * (sources == source), batch["loss_mask"].sharding)
        _, metrics = step(jax.tree.map(jax.numpy.copy, state), {**batch, "loss_mask": only})
        alone.append((float(metrics["loss"]), float(metrics["loss_tokens"])))
    _, metrics = step(state, batch)
    assert float(metrics["loss/notes"]) == pytest.approx(alone[0][0], rel=1e-5)
    assert float(metrics["loss/general"]) == pytest.approx(alone[1][0], rel=1e-5)
    total = sum(loss * tokens for loss, tokens in alone) / sum(tokens for _, tokens in alone)
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    first = metrics_of(whole)[0]
    assert first["loss/notes"] == pytest.approx(alone[0][0], rel=1e-5)


def test_each_held_out_set_has_a_loss_of_its_own(config: TrainConfig, whole: Path, tmp_path: Path):
    evals = [row for row in metrics_of(whole) if "eval_loss" in row]
    assert [row["step"] for row in evals] == [6, 9]
    for row in evals:
        assert row["eval_loss"] == row["eval_loss/notes"] != row["eval_loss/general"]
    only = dataclasses.replace(config.data, eval_path=config.data.eval_path[1:])
    run = train(dataclasses.replace(config, data=only, run_dir=str(tmp_path / "run")))
    alone = [row for row in metrics_of(run) if "eval_loss" in row]
    assert [row["eval_loss"] for row in alone] == [row["eval_loss/general"] for row in evals]
    assert "eval_loss/general" not in alone[0]


def test_the_report_shows_every_source_and_set(whole: Path):
    page = (whole / "report.html").read_text()
    for text in ("Loss by source", "Held-out loss by set", "Passes over general so far", "with 0.25 of all rows"):
        assert text in page
    manifest = json.loads((whole / "data_manifest.json").read_text())
    assert {name: source["weight"] for name, source in manifest["mixture"].items()} == {
        "notes": "3/4",
        "general": "1/4",
    }


def test_a_start_says_how_often_each_source_is_passed(config: TrainConfig, capsys: Any):
    make_step(config, quiet=False)
    told = capsys.readouterr().out
    rows = len(PackedRows(Path(training_sources(config.data)[1].path)))
    assert f"general 0.25 ({0.25 * 9 * ROWS / rows:.2f} epochs of {rows:,} rows)" in told


def test_records_name_buckets_and_not_their_copies(folders: dict[str, Path], config: TrainConfig, monkeypatch: Any):
    monkeypatch.setattr(start, "as_url", lambda text: text.replace(str(folders["notes"]), "gs://b/notes"))
    assert start.recorded(config)["data"]["path"][0] == "notes=gs://b/notes:0.75"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (("a=x:0.5", "b=y"), "data.path b=y has no weight: write NAME=PATH:WEIGHT"),
        (("a=x:0.5", "b=y:0"), "data.path b=y:0: the weight must be above 0"),
        (("a=x:0.5", "a=y:0.5"), "data.path has two folders named a: name each as NAME=PATH"),
        (("in/x:0.5", "out/x:0.5"), "data.path has two folders named x"),
        (("a=x:0.5", f"b=y:0.{'1' * 20}"), "use at most 9 digits for a weight"),
        (("a=az://b/x:0.5", "b=y:0.5"), "data.path az://b/x: only gs:// and s3:// are known"),
    ],
)
def test_unusable_sources_are_refused(base: TrainConfig, paths: tuple[str, ...], told: str):
    with pytest.raises(UserError) as refused:
        check(dataclasses.replace(base, data=DataConfig(paths)))
    assert told in str(refused.value)


def test_a_path_may_contain_the_signs_of_a_source(folders: dict[str, Path], tmp_path: Path):
    odd = tmp_path / "lr=1e-5:0.5"
    odd.symlink_to(folders["notes"])
    assert [source.path for source in training_sources(DataConfig(str(odd)))] == [str(odd)]
    both = DataConfig((f"odd={odd}:0.5", f"general={folders['general']}:.5"))
    assert [(source.name, source.path, source.weight) for source in training_sources(both)] == [
        ("odd", str(odd), Fraction(1, 2)), ("general", str(folders["general"]), Fraction(1, 2)),
    ]  # fmt: skip


def test_sources_of_different_tokenizers_do_not_mix(folders: dict[str, Path], tmp_path: Path):
    shutil.copytree(folders["general"], tmp_path / "other")
    manifest = tmp_path / "other/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "tokenizer_hash": "0" * 64}))
    with pytest.raises(UserError, match="was packed with another tokenizer than"):
        open_rows(mixed({**folders, "general": tmp_path / "other"}, notes="0.5", general="0.5"))
