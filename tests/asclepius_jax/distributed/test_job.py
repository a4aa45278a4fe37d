"""A job of several processes starts, or ends in every one of them: with one line, a code, and within a bound."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asclepius_jax.distributed import job
from asclepius_jax.distributed.job import LOST, JobConfig
from asclepius_jax.distributed.same_program import PACKAGES, summary
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import free_address, job_flags
from tests.helpers.places import ROOT

HEARTBEAT = 6
# A process of a job that agrees with the others on the configuration given, and then does as it is told.
MEMBER = """
import dataclasses, os, sys, threading, time
import jax
from asclepius_jax.distributed.same_program import check_agreement, facts_of
from asclepius_jax.config import OptimizerConfig, TrainConfig
from asclepius_jax.distributed.job import JobConfig, joined
from data_prep.contract.errors import UserError

coordinator, process_id, rate, action = sys.argv[1:]
with joined(JobConfig(coordinator, 2, int(process_id), 30, HEARTBEAT), lambda error: str(error)):
    time.sleep(int(process_id) / 2)  # processes come to compare one after another
    check_agreement(facts_of(TrainConfig(optimizer=OptimizerConfig(learning_rate=float(rate)))))
    print("agreed", flush=True)
    exec(action)
""".replace("HEARTBEAT", str(HEARTBEAT))
SLEEP = "time.sleep(100)"
# Holds the interpreter as a training process does that prepares batches; waits for the others as a step of it does.
WORK = "while True: sum(range(1000))"
STEPS = "from jax.experimental.multihost_utils import *\nwhile True: process_allgather(jax.numpy.ones(3))"


class Member:
    """One process of a job of two."""

    def __init__(self, address: str, process_id: int, action: str, rate: float = 1e-5, code: Path = ROOT) -> None:
        arguments = [sys.executable, "-c", MEMBER, address, str(process_id), str(rate), action]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(code)}
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=code
        )

    def agreed(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "agreed\n", self.process.communicate()

    def end(self, timeout: float = 60) -> tuple[int, list[str]]:
        """Exit code, and the lines of standard error."""
        try:
            told = self.process.communicate(timeout=timeout)[1]
        finally:
            self.process.kill()
        return self.process.returncode, told.splitlines()


def ours(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("asclepius train: ")]


# ---------------------------------------------------------------- meeting


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (JobConfig("host0", 2, 0), "job.coordinator 'host0' is not an address: use host:port"),
        (JobConfig("host0:port", 2, 0), "'host0:port' is not an address"),
        (JobConfig("host0:70000", 2, 0), "'host0:70000' is not an address"),
        (JobConfig("host0:8476"), "no Slurm, TPU pod, Kubernetes or MPI was detected: set --job.processes"),
        (JobConfig("", 2, 1), "job.processes is 2: name the host:port of process 0 with --job.coordinator"),
        (JobConfig("host0:8476", 2), "job.processes is 2, job.process_id not set: set both or neither"),
        (JobConfig("host0:8476", process_id=1), "job.processes is not set, job.process_id 1: set both"),
        (JobConfig("host0:8476", 2, 2), "job.process_id is 2 of 2 processes: ids run from 0 to 1"),
        (JobConfig("host0:8476", -2, 0), "job.processes is -2, job.process_id 0: neither can be negative"),
        (JobConfig(timeout_seconds=0), "job.timeout_seconds is 0: it must be above 0"),
        (JobConfig(heartbeat_seconds=-1), "job.heartbeat_seconds is -1: it must be above 0"),
    ],
)
def test_flags_that_make_no_job_are_refused(flags: JobConfig, told: str):
    with pytest.raises(UserError) as refused:
        job.resolve(flags)
    assert told in str(refused.value)


def test_where_there_is_no_job_a_process_is_alone():
    job.join(JobConfig())
    assert job.current() is None


@pytest.mark.parametrize(("tasks", "devices"), [("1", []), ("1(x4)", []), ("2(x4)", [1]), ("2(x3),1", [1])])
def test_alone_on_its_host_a_slurm_task_has_all_devices(monkeypatch, tasks: str, devices: list[int]):
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[3-6]", "NTASKS": "4", "PROCID": "1", "LOCALID": "1"}
    for name, value in {**variables, "STEP_TASKS_PER_NODE": tasks}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert job.resolve(JobConfig()) == ("node3:61447", 4, 1, devices)


def test_a_coordinator_that_does_not_answer_ends_in_one_line(tmp_path: Path):
    (tmp_path / "values.py").write_text("from asclepius_jax.config import *\n\nconfig = TrainConfig()\n")
    address = free_address()
    flags = [*job_flags(address, 1), "--job.timeout-seconds=2"]
    program = "from asclepius_jax import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", str(tmp_path / "values.py"), *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"the coordinator {address} does not answer, for 2 s (this is process 1 of 2)" in done.stderr


# ---------------------------------------------------------------- agreeing


def test_processes_with_unlike_settings_all_end_and_name_them():
    address = free_address()
    members = [Member(address, 0, SLEEP), Member(address, 1, SLEEP, rate=2e-5)]
    told = (
        "asclepius train: the processes of the job do not agree: "
        "--optimizer.learning_rate is 1e-05 in process 0, 2e-05 in process 1"
    )
    assert [member.end() for member in members] == [(2, [told])] * 2


def test_processes_with_unlike_code_all_end_and_name_it(tmp_path: Path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "asclepius_jax/train/batches.py").open("a") as file:
        file.write("# changed on one host alone\n")
    address = free_address()
    members = [Member(address, 0, SLEEP), Member(address, 1, SLEEP, code=tmp_path)]
    for code, lines in [member.end() for member in members]:
        assert code == 2
        assert len(lines) == 1
        assert "do not agree: code asclepius_jax/train/batches.py is " in lines[0]
        assert lines[0].endswith("in process 1")


def test_many_differences_are_told_in_a_line():
    a, b, c = "x is 1 in process 0, 2 in process ", "y is 1 in process 0, 3 in process ", "z is 0 in process 0, 1 in "
    differences = [("a/differs/000010", f"{a}\n{b}"), ("a/differs/000002", f"{a}\n{c}")]
    assert summary(differences, 2) == f"{a}2, 10; {c}2; and 1 more"


# ---------------------------------------------------------------- ending


def test_a_job_that_ends_well_says_nothing():
    address = free_address()
    members = [Member(address, 0, "pass"), Member(address, 1, "time.sleep(1)")]
    assert [member.end() for member in members] == [(0, [])] * 2


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_all_with_its_line(failing: int):
    address = free_address()
    actions = {failing: "time.sleep(0.5); raise UserError('no such folder')", 1 - failing: WORK}
    members = [Member(address, number, actions[number]) for number in (0, 1)]
    ended = [member.end() for member in members]
    assert ended[failing] == (2, ["asclepius train: no such folder"])
    assert ended[1 - failing] == (2, [f"asclepius train: process {failing} ended: no such folder"])


@pytest.mark.parametrize(
    ("victim", "number", "action"),
    [
        (0, signal.SIGKILL, WORK),
        pytest.param(0, signal.SIGKILL, STEPS, marks=pytest.mark.slow),
        # as a host that has lost its network: nothing tells of its end
        pytest.param(0, signal.SIGSTOP, WORK, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGKILL, WORK, marks=pytest.mark.slow),
        (1, signal.SIGKILL, STEPS),
    ],
    ids=["coordinator", "coordinator-steps", "coordinator-silent", "other", "other-steps"],
)
def test_a_process_that_is_gone_ends_the_others(victim: int, number: signal.Signals, action: str):
    address = free_address()
    members = [Member(address, 0, action), Member(address, 1, action)]
    for member in members:
        member.agreed()
    time.sleep(0.5)
    members[victim].process.send_signal(number)
    code, lines = members[1 - victim].end()
    members[victim].process.kill()
    assert code == LOST
    assert len(ours(lines)) == 1
    gone = f"the coordinator {address} (process 0) is gone"
    other = "another process of the job is gone or does not answer"
    assert (other if victim else gone) in ours(lines)[0]
    assert not [line for line in lines if "terminate called" in line]
    # No stack trace of JAX's client, which is twenty lines; jax 0.12 says in three where in its code an error arose.
    assert not [line for line in lines if "stack trace" in line or line.startswith("    @ ")]
    assert len(lines) < 10 + sum(3 for line in lines if "Source Location Trace" in line)
