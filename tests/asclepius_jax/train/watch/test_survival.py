"""What befalls a run: a stop while it saves, a process that hangs, a full disk, a row that is no number."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asclepius_jax.config import BatchConfig, CheckpointConfig, HealthConfig, MeshConfig, TrainConfig
from asclepius_jax.distributed.job import LOST
from asclepius_jax.train.loop import train
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import free_address, job_flags
from tests.helpers.training.small_run import (
    TOTAL,
    assert_same_params,
    command_of,
    lasting,
    losses_of,
    run_and_strike,
    steps_of,
)

# ---------------------------------------------------------------- stops


@pytest.mark.slow
def test_two_sigterms_during_a_save_lose_nothing(base: TrainConfig, unbroken: Path, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), checkpoint=CheckpointConfig(2, keep=9))
    assert run_and_strike(config, 3, "saving") == 0
    stopped = steps_of(config.run_dir)[-1]
    assert 3 <= stopped < TOTAL  # the save under way is that of step 2 or 4
    assert not list((tmp_path / "run/checkpoints").glob(".*"))
    train(config)
    assert_same_params(config.run_dir, unbroken)
    assert losses_of(config.run_dir) == losses_of(unbroken)


def start_two(config: TrainConfig, step: int, what: str, *flags: str) -> list[subprocess.Popen[str]]:
    """Two processes with four devices each; the second one alone is struck."""
    address, environment = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    return [
        subprocess.Popen(
            [*command_of(config, step if rank else 0, what), *job_flags(address, rank), *flags],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_sigterm_during_a_save_of_two_processes(base: TrainConfig, unbroken: Path, tmp_path: Path):
    """And the run goes on in one process with four devices, then in four with two: the same losses."""
    config = dataclasses.replace(
        lasting(base, 14), run_dir=str(tmp_path / "run"), checkpoint=CheckpointConfig(2, keep=9)
    )
    whole = train(dataclasses.replace(config, run_dir=str(tmp_path / "whole")))
    processes = start_two(config, 3, "saving")
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    stopped = steps_of(config.run_dir)[-1]
    assert 3 <= stopped < 14
    assert list(losses_of(config.run_dir)) == list(range(1, stopped + 1))
    one = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    fewer = dataclasses.replace(config, mesh=MeshConfig(1, 2, 2))
    done = subprocess.run(command_of(fewer, stopped + 2, signal.SIGTERM), env=one, timeout=300, check=False)
    assert done.returncode == 0
    address, two = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    four = [
        subprocess.Popen([*command_of(config), *job_flags(address, rank, 4)], env=two, stdout=subprocess.DEVNULL)
        for rank in range(4)
    ]
    assert [process.wait(timeout=300) for process in four] == [0] * 4
    ours, theirs = losses_of(config.run_dir), losses_of(whole)
    assert list(ours) == list(range(1, 15))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.slow
def test_three_processes_are_resumed_by_one_two_and_four(base: TrainConfig, tmp_path: Path):
    """Each start is stopped by SIGTERM after a few steps; the losses are those of an unbroken run."""
    config = dataclasses.replace(base, batch=BatchConfig(24), mesh=MeshConfig(1, 2, 2), run_dir=str(tmp_path / "run"))
    config = lasting(config, 16)
    whole = train(dataclasses.replace(config, mesh=MeshConfig(2, 2, 2), run_dir=str(tmp_path / "whole")))
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    for processes, stop in ((3, 4), (1, 7), (2, 11), (4, 0)):
        address, here = free_address(), dataclasses.replace(config, mesh=MeshConfig(processes, 2, 2))
        commands = [
            [
                *command_of(here, stop if rank == processes - 1 else 0, signal.SIGTERM),
                *job_flags(address, rank, processes),
            ]
            if processes > 1
            else command_of(here, stop, signal.SIGTERM)
            for rank in range(processes)
        ]
        started = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
        assert [process.wait(timeout=300) for process in started] == [0] * processes
    ours, theirs = losses_of(config.run_dir), losses_of(whole)
    assert list(ours) == list(range(1, 17))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.slow
def test_clocks_that_are_days_apart_and_the_lock_of_a_host_that_is_gone_stop_no_job(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    lock = {"host": "gone", "pid": 7, "pid_namespace": "", "started": None}
    (tmp_path / "run/lock.json").write_text(json.dumps(lock))
    (tmp_path / "late").mkdir()
    (tmp_path / "late/sitecustomize.py").write_text(
        "import time\nnow = time.time\ntime.time = lambda: now() - 3 * 86400\n"
    )
    address, environment = free_address(), {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    paths = ("", f"{tmp_path / 'late'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    processes = [
        subprocess.Popen(
            [*command_of(config), *job_flags(address, rank)],
            env={**environment, **({"PYTHONPATH": paths[rank]} if paths[rank] else {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "was left by process 7 on gone, which is gone: taking over the folder" in outputs[0]
    assert list(losses_of(config.run_dir)) == list(range(1, TOTAL + 1))


# ---------------------------------------------------------------- hangs


# By the watchdog's own clock and, in slow, by the machine's, whose limit must be above what a step takes on a busy one.
HANGS = [("hang-fast", 600), pytest.param("hang", 30, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("what", "allowed"), HANGS)
def test_a_run_that_hangs_ends_with_its_stacks_and_goes_on(
    base: TrainConfig, unbroken: Path, tmp_path: Path, what: str, allowed: int
):
    health = HealthConfig(timeout_seconds=allowed)
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), health=health)
    done = subprocess.run(
        command_of(config, 6, what), env=os.environ, timeout=300, capture_output=True, text=True, check=False
    )
    assert done.returncode == LOST, done.stderr
    assert re.search(rf"no step finished for \d+ s, the limit is {allowed} s \(health.timeout_seconds\)", done.stderr)
    for told in (done.stderr, (tmp_path / "run/stacks-0.txt").read_text()):
        assert "add_and_strike" in told  # where it hangs
        assert "wait_for_steps" in told  # another thread
    train(config)
    assert_same_params(config.run_dir, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "allowed"), HANGS)
def test_one_process_that_hangs_ends_the_job(base: TrainConfig, tmp_path: Path, what: str, allowed: int):
    health = HealthConfig(timeout_seconds=allowed)
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), health=health)
    processes = start_two(config, 6, what)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [LOST, LOST], outputs
    assert any("no step finished for" in text for text in outputs)
    # By one clock for both, the one that waits may be the first to end the job, and the other's stacks are not written.
    assert what == "hang" or "add_and_strike" in outputs[1]


@pytest.mark.slow
def test_a_stopped_process_ends_the_others(base: TrainConfig, tmp_path: Path):
    """SIGSTOP: neither steps nor heartbeats come from it any more."""
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    processes = start_two(config, 6, str(int(signal.SIGSTOP)), "--job.heartbeat-seconds=6")
    output = processes[0].communicate(timeout=120)[0]
    assert processes[0].returncode == LOST, output
    processes[1].kill()
    processes[1].wait()


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of its own that holds a few steps of the small run."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("known_beforehand", [True, False])
def test_a_full_disk_costs_saves_and_not_the_run(
    base: TrainConfig, unbroken: Path, small_disk: Path, monkeypatch, capsys, known_beforehand: bool
):
    """It fills at step 4 and has room again at step 6."""
    from asclepius_jax.checkpoint import write as saver

    log = dataclasses.replace(base.log, tensorboard=True)
    config = dataclasses.replace(base, run_dir=str(small_disk / "run"), checkpoint=CheckpointConfig(2, keep=9), log=log)
    ballast = small_disk / "ballast"
    if not known_beforehand:
        usage = saver.shutil.disk_usage
        monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: usage(path)._replace(free=10**12))
    save = saver.Saver.save

    def save_on_a_full_disk(self: saver.Saver, step: int, *rest: Any) -> None:
        self.finish()
        if step == 4:
            with ballast.open("wb") as file:
                file.write(b"\0" * (saver.shutil.disk_usage(small_disk).free if known_beforehand else room(small_disk)))
        elif step == 6:
            ballast.unlink()
        save(self, step, *rest)

    def room(place: Path) -> int:
        free = os.statvfs(place)
        return free.f_bavail * free.f_frsize - 150_000  # less than a step takes

    monkeypatch.setattr(saver.Saver, "save", save_on_a_full_disk)
    train(config)
    told = capsys.readouterr().out
    assert re.search(r"WARNING: step 4 could not be saved: .*; earlier steps are intact. Training continues", told)
    assert ("the disk has" in told) == known_beforehand
    assert steps_of(config.run_dir) == [2, 6, 8, 9]
    assert not list((small_disk / "run/checkpoints").glob(".*"))
    assert_same_params(config.run_dir, unbroken)
    assert list(losses_of(config.run_dir)) == list(range(1, TOTAL + 1))


def test_a_save_that_failed_leaves_nothing_though_some_of_it_is_still_writing(tmp_path: Path):
    from asclepius_jax.checkpoint.write import Saver

    class Fails:
        def result(self) -> None:
            raise OSError("no room")

    def write_late() -> None:
        time.sleep(0.2)
        partial.mkdir(exist_ok=True)
        (partial / "late").write_text("bytes")

    saver = Saver(tmp_path, CheckpointConfig())
    partial = saver.folder / ".4.saving"
    partial.mkdir()
    with ThreadPoolExecutor() as pool:
        saver.complete(4, partial, {}, [Fails(), pool.submit(write_late)], Any, "")  # its meta is not looked at
    assert "step 4 could not be saved: no room" in saver.problem
    assert not list(saver.folder.iterdir())


def test_a_disk_that_stays_full_stops_the_run_and_the_next_start_goes_on(
    base: TrainConfig, unbroken: Path, small_disk: Path, monkeypatch, capsys
):
    from asclepius_jax.checkpoint import write as saver

    config = dataclasses.replace(base, run_dir=str(small_disk / "run"), checkpoint=CheckpointConfig(1, keep=9))
    start = saver.Saver.start

    def start_or_full(self: saver.Saver, folder: Path, leaves: Any) -> Any:
        if ".2." in str(folder) or ".3." in str(folder) or ".4." in str(folder):
            raise OSError(28, os.strerror(28))
        return start(self, folder, leaves)

    monkeypatch.setattr(saver.Saver, "start", start_or_full)
    with pytest.raises(
        UserError, match=r"step 4 could not be saved: .*No space left.*\(3 saves failed in a row\): free space"
    ):
        train(config)
    assert capsys.readouterr().out.count("WARNING: step") == 2
    assert steps_of(config.run_dir) == [1]
    monkeypatch.undo()
    train(config)
    assert_same_params(config.run_dir, unbroken)


def test_the_last_step_must_be_saved(base: TrainConfig, small_disk: Path, monkeypatch):
    from asclepius_jax.checkpoint import write as saver

    config = dataclasses.replace(base, run_dir=str(small_disk / "run"))
    start = saver.Saver.start

    def start_or_full(self: saver.Saver, folder: Path, leaves: Any) -> Any:
        if f".{TOTAL}." in str(folder):
            raise OSError(28, os.strerror(28))
        return start(self, folder, leaves)

    monkeypatch.setattr(saver.Saver, "start", start_or_full)
    with pytest.raises(UserError, match=f"step {TOTAL} could not be saved: .*earlier steps are intact: free space"):
        train(config)
    assert steps_of(config.run_dir) == [4, 8]


@pytest.mark.slow
def test_what_one_of_two_processes_cannot_save_or_read_neither_takes(base: TrainConfig, unbroken: Path, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), checkpoint=CheckpointConfig(2, keep=9))
    processes = start_two(config, 3, "full")
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "WARNING: step 4 could not be saved: [Errno 28] No space left on device; earlier steps" in outputs[0]
    assert steps_of(config.run_dir) == [2, 6, 8, 9]
    whole = losses_of(config.run_dir)
    # Chunks that the second process wrote; and nothing after the step before, so that both must go on from there.
    biggest = max((tmp_path / "run/checkpoints/9/params/ocdbt.process_1/d").iterdir(), key=lambda p: p.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-1])
    processes = start_two(config, 0, "")
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "checkpoints/9 is damaged (params/ocdbt.process_1/d/" in outputs[0]
    assert losses_of(config.run_dir) == whole
    assert steps_of(config.run_dir) == [2, 6, 8, 9]


# ---------------------------------------------------------------- supervision


def test_a_supervised_run_starts_again_until_it_is_done(base: TrainConfig, unbroken: Path, tmp_path: Path):
    """Killed at step 6 of every start, the second comes no further than the first: its one restart is spent."""
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    command = [*command_of(config, 6, signal.SIGKILL), "--restarts", "1"]
    done = subprocess.run(command, env=os.environ, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("asclepius train: the run crashed")]
    assert told == [
        "asclepius train: the run crashed with code -9 at checkpoint 4: restart 1 of 1 in 0 s",
        "asclepius train: the run crashed 2 times in a row without a new checkpoint, the last time with code -9",
    ]
    every = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, every_steps=2))
    command = [*command_of(every), "--restarts", "2"]
    done = subprocess.run(command, env=os.environ, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_params(config.run_dir, unbroken)
    accounts = [json.loads(path.read_text()) for path in sorted((tmp_path / "run/goodput").glob("*.json"))]
    assert [account["first_step"] for account in accounts] == [0, 4, 4]
    assert [account["lost_work"] > 0 for account in accounts] == [False, True, False]
    assert all(account["restart"] > 0 for account in accounts[1:])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["starts"] == 3
    assert 0 < summary["goodput"] < 1


def test_what_a_person_must_mend_is_not_tried_again(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), model="no_such_model")
    command = [*command_of(config), "--restarts", "5"]
    done = subprocess.run(command, env=os.environ, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("no_such_model") == 1
    assert "the run ended with code 2: fix the error above first" in done.stderr
