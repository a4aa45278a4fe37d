"""kill -9 at random moments over a whole run, saves and evaluations included: it ends where an unbroken one ends.

The long form, thirty kills, alone and as two processes of four devices, is run by -m slow -s.
"""

import dataclasses
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from asclepius_jax.config import CheckpointConfig, EvalConfig, TrainConfig
from tests.helpers.made_inputs import free_address, job_flags
from tests.helpers.training.small_run import assert_same_params, command_of, lasting, losses_of, metrics_of, steps_of


def start(config: TrainConfig, processes: int) -> list[subprocess.Popen[str]]:
    address = free_address()
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(8 // processes)}
    flags = [job_flags(address, rank) if processes > 1 else [] for rank in range(processes)]
    return [
        subprocess.Popen(
            [*command_of(config), *flags[rank]], env=environment, text=True,
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]  # fmt: skip


def wait(running: list[subprocess.Popen[str]]) -> str:
    output = running[0].communicate(timeout=600)[0]
    assert [process.wait(timeout=100) for process in running] == [0] * len(running), output[-3000:]
    return output


def last_step(run_dir: Path) -> int:
    return max((row["step"] for row in metrics_of(run_dir)), default=0) if (run_dir / "metrics.jsonl").is_file() else 0


def kill_at_random(config: TrainConfig, processes: int, kills: int, chance: random.Random) -> list[str]:
    """Start and kill, again and again; returns what each kill struck.

    One kill in four comes at any moment of the start; the others at a random moment after the first new step, within a
    time in which the run gets through one part in `kills` of its steps.
    """
    run_dir, struck = Path(config.run_dir), []
    for number in range(kills):
        before = last_step(run_dir)
        running = start(config, processes)
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0.2, 8))
        else:
            until = time.monotonic() + 300
            goal = before if number == 0 else min(before, steps_of(run_dir)[-1] if steps_of(run_dir) else 0)
            while not moved(run_dir, goal) and running[0].poll() is None and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 1.2))
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            process.communicate()
        saving = [path.name for path in (run_dir / "checkpoints").glob(".*.saving")]
        struck.append(
            f"step {last_step(run_dir)}, checkpoints to {max(steps_of(run_dir), default=0)}, {saving or 'no save'}"
        )
    return struck


def moved(run_dir: Path, goal: int) -> bool:
    """Whether the start under way has written a row of its own; it begins by cutting them back to its checkpoint."""
    path = run_dir / "metrics.jsonl"
    return path.is_file() and time.time() - path.stat().st_mtime < 0.3 and last_step(run_dir) > goal


def run_is_unbroken(base: TrainConfig, folder: Path, processes: int, kills: int, steps: int) -> None:
    config = dataclasses.replace(
        lasting(base, steps),
        checkpoint=CheckpointConfig(5, keep=2),
        evaluation=EvalConfig(every_steps=7),
        run_dir=str(folder / "unbroken"),
    )
    wait(start(config, processes))
    broken = dataclasses.replace(config, run_dir=str(folder / "broken"))
    struck = kill_at_random(broken, processes, kills, random.Random(kills))
    print(*struck, sep="\n")
    print(wait(start(broken, processes)).splitlines()[-1])
    assert_same_params(broken.run_dir, config.run_dir)
    assert losses_of(broken.run_dir) == losses_of(config.run_dir)
    evaluated = [{row["step"]: row["eval_loss"] for row in metrics_of(run) if "eval_loss" in row}
                 for run in (broken.run_dir, config.run_dir)]  # fmt: skip
    assert evaluated[0] == evaluated[1]
    assert not list(Path(broken.run_dir, "checkpoints").glob("*.damaged*"))


@pytest.mark.slow
def test_a_run_killed_a_few_times_is_an_unbroken_one(base: TrainConfig, tmp_path: Path):
    run_is_unbroken(base, tmp_path, 1, 2, 20)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_thirty_times_is_an_unbroken_one(base: TrainConfig, tmp_path: Path, processes: int):
    run_is_unbroken(base, tmp_path, processes, 30, 240)
