"""A run whose folder is in a bucket: killed, damaged and refused there, it is the run that it is on a disk."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from asclepius_jax import cli
from asclepius_jax.checkpoint.read import find_step, leaf_names, restore_newest, restore_state, steps_of
from asclepius_jax.config import CheckpointConfig, MeshConfig, TrainConfig
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.distributed.sharding import make_mesh
from asclepius_jax.model.decoder import build
from asclepius_jax.train.loop import train
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.step import abstract_state, state_shardings
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import local_path
from data_prep.contract.folders.buckets.local_copies import send
from tests.helpers.endpoints.object_store import BUCKET, ObjectStore, running, used
from tests.helpers.made_inputs import MODEL, free_address, job_flags
from tests.helpers.training.small_run import TOTAL, command_of, losses_of, params_of


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with running() as store:
        yield store


@pytest.fixture(params=["s3", pytest.param("gs", marks=pytest.mark.slow)])
def store(request, server: ObjectStore, monkeypatch, tmp_path: Path) -> Iterator[ObjectStore]:
    with used(server, f"{request.param}://{BUCKET}/{request.param}", tmp_path / "cache", monkeypatch) as store:
        yield store


@pytest.fixture
def in_bucket(store: ObjectStore, base: TrainConfig) -> TrainConfig:
    return dataclasses.replace(base, run_dir=f"{store.top}/run")


def assert_same_run(run_dir: Path, unbroken: Path) -> None:
    assert losses_of(run_dir) == losses_of(unbroken)
    wanted = params_of(unbroken)
    for name, value in params_of(run_dir).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def numbers(run_dir: Path) -> list[int]:
    return [int(step.name) for step in steps_of(run_dir)]


def test_a_run_in_a_bucket_is_the_run_on_a_disk(in_bucket: TrainConfig, store: ObjectStore, unbroken: Path):
    run_dir = train(in_bucket)
    assert_same_run(run_dir, unbroken)
    assert numbers(run_dir) == [4, 8, 9]
    assert not (run_dir / "checkpoints").exists()
    saved = json.loads(store.read(f"{store.top.partition('://')[0]}/run/config.json"))
    assert saved["run_dir"] == in_bucket.run_dir
    assert str(run_dir) not in store.read(f"{store.top.partition('://')[0]}/run/checkpoints/9/meta.json").decode()
    assert not [name for name in store.names() if "lock" in name]


def test_a_run_killed_on_one_machine_goes_on_on_another(
    in_bucket: TrainConfig, store: ObjectStore, unbroken: Path, monkeypatch, tmp_path: Path
):
    command = command_of(dataclasses.replace(in_bucket, run_dir=str(tmp_path / "values")))
    values = Path(command[2])
    values.write_text(values.read_text().replace(str(tmp_path / "values"), in_bucket.run_dir))
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while f"{in_bucket.run_dir.partition(BUCKET + '/')[2]}/checkpoints/4/digests.json" not in store.names():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "other"))
    run_dir = train(in_bucket)
    wanted = params_of(unbroken)
    for name, value in params_of(run_dir).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    # Rows of the last minute before the kill were on the first machine alone.
    assert {step: loss for step, loss in losses_of(unbroken).items() if step > 8}.items() <= losses_of(run_dir).items()


@pytest.fixture(scope="module")
def restore(base: TrainConfig) -> Callable[[Path], dict[str, np.ndarray]]:
    model, mesh = build(MODEL), make_mesh(base.mesh)
    optimizer = make_optimizer(base.optimizer, TOTAL)
    abstract = abstract_state(model, optimizer, state_shardings(mesh, model, optimizer))

    def restored(run: Path) -> dict[str, np.ndarray]:
        state = restore_newest(run, lambda folder, meta: restore_state(folder, abstract, meta))
        assert state is not None
        return {name: np.asarray(leaf) for name, leaf in leaf_names(jax.device_get(state)).items()}

    return restored


@pytest.mark.parametrize("strikes", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_every_truncation_and_deletion_of_an_object_is_noticed(
    store: ObjectStore, unbroken: Path, restore, capsys, strikes: int
):
    chance, run = random.Random(5), local_path(f"{store.top}/run")
    shutil.copytree(unbroken, run)
    send(f"{store.top}/run")  # as an import does, which writes its step here
    shutil.rmtree(run / "checkpoints")
    names = [name for name in store.names() if "/checkpoints/9/" in name]
    saved = {name: store.read(name) for name in names}
    before = restore(run)
    assert int(before["step"]) == 9
    for number in range(strikes):
        name = chance.choice(names)
        if number % 2 or not saved[name]:
            store.delete(name)
        else:
            store.write(name, saved[name][: chance.randrange(len(saved[name]))])
        capsys.readouterr()
        assert int(restore(run)["step"]) == 8, name
        if not name.endswith("digests.json") or not number % 2:
            assert f"{store.top}/run/checkpoints/9 is damaged (" in capsys.readouterr().out, name
        else:
            find_step(run)
            assert f"{store.top}/run/checkpoints/9 is being written, or was left" in capsys.readouterr().err
        for key, data in saved.items():
            store.write(key, data)
        if any(key.endswith("9.damaged") for key in store.names()):
            store.delete(f"{store.top.partition(BUCKET + '/')[2]}/run/checkpoints/9.damaged")
    after = restore(run)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_what_a_killed_save_left_is_no_step_and_is_removed(
    in_bucket: TrainConfig, store: ObjectStore, unbroken: Path, capsys
):
    prefix = f"{store.top.partition(BUCKET + '/')[2]}/run/checkpoints"
    store.write(f"{prefix}/4/params/manifest.ocdbt", b"half")
    store.write(f"{prefix}/4/meta.json", b"{}")
    run_dir = train(in_bucket)
    assert f"{store.top}/run/checkpoints/4 was never finished" in capsys.readouterr().out
    assert_same_run(run_dir, unbroken)


@pytest.mark.slow
def test_old_steps_are_deleted_digests_first(in_bucket: TrainConfig, store: ObjectStore):
    store.requests.clear()
    run_dir = train(dataclasses.replace(in_bucket, checkpoint=CheckpointConfig(every_steps=2, keep=2)))
    assert numbers(run_dir) == [8, 9]
    assert not [name for name in store.names() if "/checkpoints/2/" in name]


def test_a_bucket_that_is_full_costs_saves_and_not_the_run(in_bucket: TrainConfig, store: ObjectStore, capsys):
    """A quota is an error that is not passing: 403 of both clouds. Saves fail until there is room again."""
    refused = []

    def fault(method: str, path: str) -> str:
        full = "/checkpoints/4/" in path.replace("%2F", "/") and method in ("PUT", "POST")
        if full:
            refused.append(path)
        return "403" if full else ""

    store.fault = fault
    run_dir = train(in_bucket)
    assert refused
    assert numbers(run_dir) == [8, 9]
    assert "WARNING: step 4 could not be saved" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["503", "slow"])
def test_a_store_that_stumbles_changes_nothing(in_bucket: TrainConfig, store: ObjectStore, unbroken: Path, kind: str):
    chance = random.Random(kind)
    store.fault = lambda method, path: kind if chance.random() < 0.03 else ""
    assert_same_run(train(in_bucket), unbroken)


def test_two_runs_do_not_share_a_bucket(in_bucket: TrainConfig, store: ObjectStore, tmp_path: Path):
    from data_prep.contract.folders.folder_lock import locked

    with locked(local_path(in_bucket.run_dir)), pytest.raises(UserError, match="is in use by process"):
        train(in_bucket)


def start_two(config: TrainConfig, tmp_path: Path, dies: int = 0) -> list[subprocess.Popen[bytes]]:
    """A job of two processes of four devices, each with copies of its own; the second one dies at a step, if any."""
    address, processes = free_address(), []
    for rank in range(2):
        values = dataclasses.replace(config, run_dir=str(tmp_path / f"values-{rank}"))
        command = command_of(values, dies if rank else 0, signal.SIGKILL if rank and dies else 0)
        file = Path(command[2])
        file.write_text(file.read_text().replace(values.run_dir, config.run_dir))
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "ASCLEPIUS_CACHE": str(tmp_path / f"cache-{rank}")}
        processes.append(subprocess.Popen([*command, *job_flags(address, rank)], env=environment))
    return processes


def test_two_processes_write_one_run_and_go_on_after_one_is_lost(
    in_bucket: TrainConfig, store: ObjectStore, unbroken: Path, tmp_path: Path
):
    spread = dataclasses.replace(in_bucket, mesh=MeshConfig(1, 8, 1))
    codes = [process.wait(timeout=300) for process in start_two(spread, tmp_path, dies=6)]
    assert codes == [3, -signal.SIGKILL]
    assert numbers(local_path(in_bucket.run_dir)) == [4]
    assert [process.wait(timeout=300) for process in start_two(spread, tmp_path)] == [0, 0]
    names = [name for name in store.names() if "/checkpoints/9/params/ocdbt.process_" in name]
    assert {name.partition("ocdbt.process_")[2][0] for name in names} == {"0", "1"}
    wanted = params_of(unbroken)  # of another mesh
    for name, value in params_of(local_path(in_bucket.run_dir)).items():
        np.testing.assert_allclose(value, wanted[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_a_step_in_a_bucket_is_exported(in_bucket: TrainConfig, store: ObjectStore, tmp_path: Path, unbroken: Path):
    run_export(ExportConfig(train(in_bucket), tmp_path / "hf"))
    run_export(ExportConfig(unbroken, tmp_path / "expected"))
    assert (tmp_path / "hf/model.safetensors").read_bytes() == (tmp_path / "expected/model.safetensors").read_bytes()


def test_a_run_in_a_bucket_is_merged(
    in_bucket: TrainConfig, store: ObjectStore, tmp_path: Path, unbroken: Path, monkeypatch
):
    train(in_bucket)
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "another machine"))
    for name, run_dir in (("out", f"{store.top}/run"), ("expected", unbroken)):
        models = [f"{run_dir}=0.25", f"{run_dir}/checkpoints/4=0.75"]
        monkeypatch.setattr(sys, "argv", ["asclepius", "merge", "--models", *models, "--out", str(tmp_path / name)])
        cli.main()
    for path in (tmp_path / "expected").iterdir():
        same = path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert same or path.name in ("README.md", "manifest.json"), path.name  # which name the runs
    assert f"{store.top}" not in (tmp_path / "out/README.md").read_text()
