"""The hosts of a job share the run folder, see the same steps, start from the same weights, and end when they are told.

Two processes with working folders of their own stand for two hosts: the same relative path is another folder on each.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asclepius_jax.config import ComputeConfig, TrainConfig
from asclepius_jax.distributed import job
from asclepius_jax.distributed.coordinator import Answer, answer_of, await_coordinator, await_name, check_port
from asclepius_jax.distributed.job import JobConfig
from asclepius_jax.distributed.same_program import facts_of
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import free_address
from tests.helpers.places import ROOT

HOST = """
import json, sys, threading, time
from pathlib import Path
from asclepius_jax.distributed import job, run_folder, same_program
from asclepius_jax.distributed.job import JobConfig, joined

coordinator, process_id, timeout, action = sys.argv[1:]
with joined(JobConfig(coordinator, 2, int(process_id), int(timeout), 6), lambda error: str(error)):
    first = process_id == "0"
    print("joined", flush=True)
    exec(action)
"""


class Host:
    def __init__(self, address: str, process_id: int, action: str, folder: Path, timeout: int = 30) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(process_id), str(timeout), action],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def joined(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "joined\n"

    def end(self) -> tuple[int, list[str], list[str]]:
        """Exit code, lines of standard output, lines of standard error."""
        try:
            out, err = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, out.splitlines(), err.splitlines()


CHECKS = """
def told(check):
    try:
        check()
        print(json.dumps(""), flush=True)
    except job.Disagreement as error:
        print(json.dumps(str(error)), flush=True)

def read_only(*_, **__):
    raise OSError(30, "Read-only file system")

run_folder.FOLDER_SECONDS = run_folder.STEP_SECONDS = 1.0
told(lambda: run_folder.check_shared(Path("shared")))
told(lambda: run_folder.check_shared(Path("own")))
if not first:
    write, Path.write_bytes = Path.write_bytes, read_only
told(lambda: run_folder.check_shared(Path("shared/run")))
if not first:
    Path.write_bytes = write
appears = time.monotonic() + 0.6
told(lambda: run_folder.check_newest("lagging", [10, 15] if first else [10], lambda step: time.monotonic() > appears))
told(lambda: run_folder.check_newest("behind", [15] if not first else [], lambda step: not first and step == 15))
told(lambda: run_folder.check_newest("empty", [], lambda step: False))
told(lambda: same_program.check_same_files("same"))
told(lambda: same_program.check_same_files("weights"))
print(json.dumps(same_program.from_first("choice", "zero" if first else "one")), flush=True)
"""


def test_hosts_that_see_other_files_are_named_in_every_process(tmp_path: Path):
    (tmp_path / "disk/run").mkdir(parents=True)
    for name in ("a", "b"):
        for folder in ("own", "same", "weights"):
            (tmp_path / name / folder).mkdir(parents=True)
        (tmp_path / name / "shared").symlink_to(tmp_path / "disk")
        (tmp_path / name / "same/config.json").write_text("{}")
        (tmp_path / name / "weights/model.safetensors").write_bytes(name.encode())
    address = free_address()
    hosts = [Host(address, number, CHECKS, tmp_path / "ab"[number]) for number in (0, 1)]
    ended = [host.end() for host in hosts]
    for code, out, err in ended:
        assert (code, err) == (0, []), err
        assert out[0] == "joined"
    said = [[json.loads(line) for line in out[1:]] for _, out, _ in ended]
    assert said[0] == said[1]
    good, own, read_only, lagging, behind, empty, same, weights, choice = said[0]
    here = f"process 1 on {socket.gethostname()}"
    assert [good, lagging, empty, same, choice] == ["", "", "", "", "zero"]
    assert own.startswith(f"the processes of the job do not share the folder own: {here} sees another folder than")
    assert f"{here} cannot write to it (Read-only file system)" in read_only
    assert behind.startswith(f"process 0 on {socket.gethostname()} does not see step 15 of behind, within 1 s")
    assert "weights/model.safetensors is 1 bytes" in weights
    assert [path.name for path in (tmp_path / "disk").rglob("*")] == ["run"], "nothing of the check is left"
    assert not list((tmp_path / "a/own").iterdir())


# ---------------------------------------------------------------- signals while a run starts


def test_a_signal_ends_a_job_that_waits_in_its_start(tmp_path: Path):
    """Process 0 waits at a barrier, in C++, where no handler of Python runs; process 1 never comes there."""
    address = free_address()
    actions = ("same_program.problems_of_all('never', '')", "time.sleep(100)")
    hosts = [Host(address, number, action, tmp_path) for number, action in enumerate(actions)]
    for host in hosts:
        host.joined()
    time.sleep(0.5)
    hosts[0].process.send_signal(signal.SIGTERM)
    ended = [host.end() for host in hosts]
    assert [code for code, _, _ in ended] == [130, 130]
    assert ended[0][2] == ["asclepius train: interrupted"]
    assert ended[1][2] == ["asclepius train: process 0 ended: interrupted"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_the_others(tmp_path: Path, number: signal.Signals):
    host = Host(free_address(), 0, "", tmp_path)
    until = time.monotonic() + 30
    while answer_of(host_address(host)) is not Answer.COORDINATOR:
        assert time.monotonic() < until
        time.sleep(0.1)
    host.process.send_signal(number)
    began = time.monotonic()
    assert host.end() == (130, [], ["asclepius train: interrupted"])
    assert time.monotonic() - began < 20  # the others had thirty seconds


def host_address(host: Host) -> str:
    arguments = host.process.args
    assert isinstance(arguments, list)
    return str(arguments[3])


# ---------------------------------------------------------------- why a meeting fails


def test_a_process_that_nobody_joins_says_so_in_one_line(tmp_path: Path):
    address = free_address()
    code, _, err = Host(address, 0, "", tmp_path, timeout=1).end()
    assert code == 2
    assert len(err) == 1
    assert f"the 2 processes of the job did not meet at {address} within 1 s (this is process 0 of 2)" in err[0]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return "{}:{}".format(*server.getsockname())


@pytest.mark.parametrize("reply", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n", b""])
def test_another_program_at_the_address_is_called_one(listening: socket.socket, reply: bytes, monkeypatch):
    monkeypatch.setattr("asclepius_jax.distributed.coordinator.STRANGERS", 1)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(reply)

    threading.Thread(target=serve, daemon=True).start()
    assert answer_of(address_of(listening)) is Answer.STRANGER
    with pytest.raises(UserError, match=r"is another program, which does not speak gRPC \(this is 1\): choose another"):
        await_coordinator(address_of(listening), 30, "this is 1")


def test_an_address_that_says_nothing_or_is_none_is_called_so(listening: socket.socket, monkeypatch):
    monkeypatch.setattr("asclepius_jax.distributed.coordinator.ANSWER_SECONDS", 0.2)
    with pytest.raises(UserError, match="accepts connections and then says nothing, for 0 s"):
        await_coordinator(address_of(listening), 0, "this is 1")
    with pytest.raises(UserError, match="does not answer, for 0 s"):
        await_coordinator(free_address(), 0, "this is 1")
    for wait in (await_coordinator, await_name):
        with pytest.raises(UserError, match=r"nowhere.invalid:8476 has no address: the name does not resolve, for 0 s"):
            wait("nowhere.invalid:8476", 0, "this is 0")


def test_a_port_in_use_is_named_before_jax_crashes_on_it(listening: socket.socket):
    port = listening.getsockname()[1]
    with pytest.raises(UserError, match=f"port {port} is in use by another program on this machine"):
        check_port(address_of(listening), "this is 0")
    check_port(free_address(), "this is 0")


# ---------------------------------------------------------------- what is detected, what must agree


@pytest.mark.parametrize(("tasks", "found"), [("1", None), ("2", 2), ("", 4)])
def test_a_step_of_slurm_counts_its_own_tasks_not_those_of_the_allocation(monkeypatch, tasks: str, found: int | None):
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[3-6]", "NTASKS": "4", "PROCID": "0", "LOCALID": "0"}
    for name, value in {**variables, "STEP_TASKS_PER_NODE": "1", "STEP_NUM_TASKS": tasks}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert job.resolve(JobConfig())[1] == found


def test_the_folder_of_compiled_programs_may_differ_between_hosts():
    here, there = (facts_of(TrainConfig(compute=ComputeConfig(compiled=name))) for name in ("/local/a", "/local/b"))
    assert here == there
    assert here != facts_of(TrainConfig(compute=ComputeConfig(program="x")))
