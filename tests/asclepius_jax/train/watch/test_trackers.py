"""What Weights & Biases and MLflow receive of a run, read back from wandb's offline files and from MLflow's store."""

import dataclasses
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax import config as schema
from asclepius_jax.config import TrainConfig
from asclepius_jax.train.loop import train
from asclepius_jax.train.watch import trackers
from asclepius_jax.train.watch.trackers import Opened, Row, settings_to_send
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import free_address, job_flags
from tests.helpers.places import ROOT
from tests.helpers.training.small_run import TOTAL, command_of, losses_of, metrics_of, run_and_strike, steps_of

NOT_TRAINING = ("seconds", "tokens_per_second", "tokens_per_second_per_device")  # differ when a step is repeated


def tracked_by(name: str, base: TrainConfig, run_dir: Path, destination: str = "notes") -> TrainConfig:
    log = dataclasses.replace(base.log, **{name: destination})
    return dataclasses.replace(base, run_dir=str(run_dir), log=log)


def rows_of(run_dir: Path | str) -> dict[int, Row]:
    """metrics.jsonl, a step and its evaluation joined, without what a platform does not report."""
    rows: dict[int, Row] = {}
    for row in metrics_of(run_dir):
        rows.setdefault(row["step"], {}).update({name: value for name, value in row.items() if value is not None})
    return rows


def without_times(rows: dict[int, Row]) -> dict[int, Row]:
    return {step: {n: v for n, v in row.items() if n not in NOT_TRAINING} for step, row in rows.items()}


# ---------------------------------------------------------------- wandb, offline


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'asclepius-jax[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # A child would take part in the service of an earlier test's run, which outlives the child's death.
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


def wandb_files(run_dir: Path) -> list[Path]:
    """Of each start, in their order."""
    return sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records as leveldb/doc/log_format.md says: blocks of 32,768 bytes, the first after 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    pieces = []
    for start in range(0, len(data), 32768):
        block = data[max(start, 7) : start + 32768]
        while len(block) >= 7:
            length, kind = struct.unpack("<HB", block[4:7])
            pieces.append(block[7 : 7 + length])
            block = block[7 + length :]
            if kind in (1, 4):
                yield Record.FromString(b"".join(pieces))
                pieces = []


def wandb_history(path: Path) -> list[tuple[int, Row]]:
    """Steps and values, without wandb's own (`_timestamp`, `_runtime`)."""
    found = []
    for record in wandb_records(path):
        if record.HasField("history"):
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            found.append((values["_step"], {k: v for k, v in values.items() if not k.startswith("_")}))
    return found


def test_wandb_gets_every_row_and_the_settings_and_nothing_else(base: TrainConfig, tmp_path: Path, offline: None):
    config = tracked_by("wandb", base, tmp_path / "run", "hospital/notes")
    train(config)
    (file,) = wandb_files(tmp_path / "run")
    history = wandb_history(file)
    assert dict(history) == {
        step: {name: value for name, value in row.items() if name != "step"}
        for step, row in rows_of(config.run_dir).items()
    }
    assert [step for step, _ in history] == list(range(1, TOTAL + 1))
    assert "eval_loss" in dict(history)[6]
    records = list(wandb_records(file))
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.entity, run.project) == ("hospital", "notes")
    sent = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in run.config.update}
    sent.pop("_wandb")  # versions of wandb and Python
    assert sent == json.loads(json.dumps(settings_to_send(config) | {"batch.microbatches": 1}))
    # No console, no files, no figures of the machine, no state of Git, no program: their records are missing or empty.
    kinds = {record.WhichOneof("record_type") for record in records}
    assert not kinds & {"output", "output_raw", "files", "stats", "artifact", "environment", "metadata"}, kinds
    assert not run.HasField("git")
    assert not run.host
    assert not run.display_name
    text = file.read_bytes()
    named = [
        socket.gethostname(),
        str(tmp_path),
        base.data.path[0],
        base.model,
        sys.executable,
        "pytest",
        "github",
        os.uname().release,
    ]
    assert not [name for name in named if name.encode() in text]
    others = [path for path in (tmp_path / "run/wandb").rglob("*") if path.is_file() and path.parent.name != "logs"]
    assert [path for path in others if path != file and not path.is_symlink()] == []


def test_a_run_that_is_killed_goes_on_in_the_same_run_of_wandb(base: TrainConfig, tmp_path: Path, offline: None):
    """Killed in step 7, after the evaluation of step 6; the newest checkpoint is of step 4."""
    config = tracked_by("wandb", base, tmp_path / "run")
    assert run_and_strike(config, 7, signal.SIGKILL) == -signal.SIGKILL
    assert steps_of(config.run_dir)[-1] == 4
    before = rows_of(config.run_dir)
    known = json.loads((tmp_path / "run/trackers.json").read_text())
    train(config)
    files = wandb_files(tmp_path / "run")
    assert len(files) == 2
    assert json.loads((tmp_path / "run/trackers.json").read_text()) == known
    assert {path.stem for path in files} == {f"run-{known['wandb']['id']}"}
    history = [row for file in files for row in wandb_history(file)]
    assert [step for step, _ in history] == list(range(1, TOTAL + 1))  # each once, in order
    after = rows_of(config.run_dir)
    assert without_times({s: {**r, "step": s} for s, r in history}) == without_times(after)
    times = [{s: {n: r[n] for n in NOT_TRAINING} for s, r in rows.items()} for rows in (before, after)]
    for step, row in history:
        assert {n: row[n] for n in NOT_TRAINING} in [rows[step] for rows in times if step in rows]


def test_wandb_without_a_key_ends_a_new_run_before_its_first_step(base: TrainConfig, tmp_path: Path, offline: None):
    """In a process of its own, since wandb reads its environment once."""
    config = tracked_by("wandb", base, tmp_path / "run")
    keyless = {**os.environ, "WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    keyless.pop("WANDB_API_KEY", None)
    done = subprocess.run(
        command_of(config), env=keyless, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 2
    assert "--log.wandb: No API key configured" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- MLflow, in a folder


@pytest.fixture
def store(monkeypatch, tmp_path: Path) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'asclepius-jax[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    from mlflow import MlflowClient

    return MlflowClient()


def mlflow_run(store: Any, experiment: str = "notes") -> Any:
    (run,) = store.search_runs([store.get_experiment_by_name(experiment).experiment_id])
    return run


def mlflow_history(store: Any, run: Any) -> dict[int, Row]:
    """Raises if a step has two values of one name."""
    rows: dict[int, Row] = {}
    for name in run.data.metrics:
        for metric in store.get_metric_history(run.info.run_id, name):
            assert name not in rows.setdefault(metric.step, {"step": metric.step})
            rows[metric.step][name] = metric.value
    return rows


def test_mlflow_gets_every_row_and_the_settings_and_nothing_else(base: TrainConfig, tmp_path: Path, store: Any):
    config = tracked_by("mlflow", base, tmp_path / "run")
    train(config)
    run = mlflow_run(store)
    assert mlflow_history(store, run) == rows_of(config.run_dir)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        name: str(value) for name, value in (settings_to_send(config) | {"batch.microbatches": 1}).items()
    }
    assert run.data.tags.keys() == {"mlflow.runName"}
    assert run.info.user_id == "unknown"
    assert not store.list_artifacts(run.info.run_id)


def test_a_run_that_is_killed_goes_on_in_the_same_run_of_mlflow(base: TrainConfig, tmp_path: Path, store: Any):
    config = tracked_by("mlflow", base, tmp_path / "run")
    assert run_and_strike(config, 7, signal.SIGKILL) == -signal.SIGKILL
    assert mlflow_run(store).info.status == "RUNNING"
    train(config)
    run = mlflow_run(store)
    assert without_times(mlflow_history(store, run)) == without_times(rows_of(config.run_dir))
    assert run.info.status == "FINISHED"


def test_a_job_of_two_processes_is_one_run_of_mlflow_that_is_stopped_and_goes_on(
    base: TrainConfig, tmp_path: Path, store: Any
):
    config = tracked_by("mlflow", base, tmp_path / "run")
    address, environment = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    job = [
        subprocess.Popen([*command_of(config, 5, signal.SIGTERM), *job_flags(address, rank)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(300) for process in job] == [0, 0]
    run = mlflow_run(store)
    assert run.info.status == "KILLED"
    assert list(mlflow_history(store, run)) == list(rows_of(config.run_dir))
    train(config)
    run = mlflow_run(store)
    assert run.info.status == "FINISHED"
    assert mlflow_history(store, run) == rows_of(config.run_dir)


def test_a_run_begun_without_a_tracker_sends_all_of_its_rows_when_it_goes_on(
    base: TrainConfig, tmp_path: Path, store: Any
):
    config = tracked_by("mlflow", base, tmp_path / "run")
    untracked = dataclasses.replace(config, log=base.log)
    assert run_and_strike(untracked, 7, signal.SIGTERM) == 0
    train(config)
    assert mlflow_history(store, mlflow_run(store)) == rows_of(config.run_dir)


# ---------------------------------------------------------------- trackers that fail


def opens(log: Callable[[list[Row]], None]) -> Callable[..., Opened]:
    return lambda *_: Opened("id", 0, log, lambda finished: None)


def fails(*_: Any) -> Any:
    raise ConnectionError("the server\nis down: " + "a page of HTML " * 1000)


def hangs(*_: Any) -> Any:
    threading.Event().wait()


@pytest.mark.parametrize("open_run", [opens(fails), opens(hangs)], ids=["fails", "hangs"])
def test_a_tracker_that_fails_changes_no_loss_and_is_named_once(
    base: TrainConfig, unbroken: Path, tmp_path: Path, monkeypatch, capsys, open_run: Callable[..., Opened]
):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", open_run)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.5)
    config = tracked_by("wandb", base, tmp_path / "run")
    train(config)
    assert losses_of(config.run_dir) == losses_of(unbroken)
    warned = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warned) == 1
    assert re.fullmatch(
        r"WARNING: --log\.wandb.{,3000}; the run goes on without it, and metrics.jsonl has its rows", warned[0]
    )


def test_a_tracker_that_stops_answering_is_left_out_when_too_much_waits(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", opens(hangs))
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    tracked = trackers.Trackers(tmp_path, tracked_by("wandb", TrainConfig(), tmp_path), 0, 100)
    began = time.monotonic()
    for step in range(1, 20):
        tracked.send([{"step": step, "loss": 1.0}])
    assert time.monotonic() - began < 1
    tracked.close()
    assert capsys.readouterr().out.count("WARNING: --log.wandb does not answer; the run goes on without it") == 1


@pytest.mark.parametrize("open_run", [fails, hangs])
def test_a_tracker_that_cannot_be_opened_ends_a_new_run_and_not_a_resumed_one(
    base: TrainConfig, unbroken: Path, tmp_path: Path, monkeypatch, capsys, open_run: Callable[..., Opened]
):
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", open_run)
    monkeypatch.setattr(trackers, "OPEN_SECONDS", 0.5)
    config = tracked_by("mlflow", base, tmp_path / "run")
    with pytest.raises(UserError, match=r"--log\.mlflow(: the server is down| does not answer within)"):
        train(config)
    assert not (tmp_path / "run").exists()
    assert run_and_strike(dataclasses.replace(config, log=base.log), 7, signal.SIGTERM) == 0
    capsys.readouterr()
    train(config)
    assert capsys.readouterr().out.count("WARNING: --log.mlflow") == 1
    assert losses_of(config.run_dir) == losses_of(unbroken)


@pytest.mark.parametrize("name", ["wandb", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_server_that_cannot_be_reached_ends_a_new_run_and_leaves_nothing(tmp_path: Path, name: str):
    """In a process of its own, since both read their environment once."""
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'asclepius-jax[{name}]'")
    nowhere = f"http://{free_address()}"
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_BASE_URL": nowhere, "WANDB_API_KEY": "0" * 40}
    environment |= {"MLFLOW_TRACKING_URI": nowhere, "PYTHONPATH": str(ROOT)}
    environment.pop("WANDB_SERVICE", None)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    code = (
        "from pathlib import Path\n"
        "from asclepius_jax.config import LogConfig, TrainConfig\n"
        "from asclepius_jax.train.watch import trackers\n"
        "trackers.OPEN_SECONDS = 11.0\n"
        f"trackers.Trackers(Path({str(run_dir)!r}), TrainConfig(log=LogConfig({name}='notes')), 0, 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert f"UserError: --log.{name}" in done.stderr
    assert not list(run_dir.iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"--log\.{name} needs {name}: pip install 'asclepius-jax\[{name}\]'"):
        trackers.Trackers(tmp_path, tracked_by(name, TrainConfig(), tmp_path), 0, 100)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- settings


def test_only_settings_that_can_name_nothing_are_sent():
    """Every setting that holds any text is left out, a later one too; numbers, flags and words of a list are sent."""

    def filled(section: Any) -> Any:
        changes = {}
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                changes[field.name] = filled(value)
            elif field.type is str:
                changes[field.name] = "/data/Mercy Hospital/notes"
            elif field.type == tuple[str, ...] and field.name != "targets":
                changes[field.name] = ("/data/Mercy Hospital/notes", "more=/data/Mercy Hospital/more:0.5")
        return dataclasses.replace(section, **changes)

    sent = settings_to_send(filled(TrainConfig()))
    assert "Mercy" not in repr(sent)
    assert sent["optimizer.beta1"] == 0.9
    assert sent["compute.remat"] == "auto"
    assert sent["lora.targets"] == schema.LORA_TARGETS
    assert sent["few_steps"] is False
    assert settings_to_send(TrainConfig())["model"] == "llama2_7b"
    # What MLflow takes at most: parameters in one request, and characters of a name and of a value.
    assert len(sent) < 100
    assert max(map(len, sent)) <= 250
    assert max(len(str(value)) for value in sent.values()) <= 250


def test_values_that_are_missing_are_left_out_and_those_that_are_no_numbers_are_sent():
    rows = [{"step": 1, "loss": math.nan, "mfu": None}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 2.0}]
    assert repr(trackers.by_step(rows)) == repr(
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0, "eval_loss": 2.0}]
    )
