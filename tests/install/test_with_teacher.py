"""A teacher on every host: launch/with_teacher.sh, with a stand-in for vLLM and network namespaces as hosts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.contract.manifests import read_manifest
from tests.helpers.places import ROOT
from tests.helpers.text_stages import folder_content, write_reports

# Loads for a moment, as a model does, then answers. It writes down its process id when it starts and when it is ended.
VLLM = f"""#!{sys.executable}
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion

def end(*_):
    print("ended", os.getpid(), file=open("servers.txt", "a"))
    sys.exit()

signal.signal(signal.SIGTERM, end)
print("started", os.getpid(), file=open("servers.txt", "a"))
time.sleep(1)
if sys.argv[2] == "broken":
    sys.exit("no such model: broken")

def answer(body, number):
    time.sleep(0.5)
    age = body["messages"][1]["content"].split("A ")[-1].split("-year-old")[0]
    return completion(f"HPI: {{age}} y/o F with chest pain. " * (10 + body["seed"] % 3))

with FakeEndpoint(answer, int(sys.argv[sys.argv.index("--port") + 1])):
    signal.pause()
"""
HOST = "ip link set lo up && exec "


def can_make_hosts() -> bool:
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    if not can_make_hosts():
        pytest.skip("network namespaces need root and iproute2 on Linux")
    (tmp_path / "bin").mkdir()
    asclepius = f"#!{sys.executable}\nfrom asclepius_jax.cli import main\nmain()\n"
    for name, text in {"vllm": VLLM, "asclepius": asclepius}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    write_reports(tmp_path / "reports.jsonl", 24)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SERVER", "vllm serve teacher")
    return tmp_path


def start(folder: Path, script: str) -> subprocess.Popen[str]:
    """Run a script of launch/ on a host of its own, where port 8000 is free."""
    return subprocess.Popen(
        ["unshare", "--net", "bash", "-c", f"{HOST}{ROOT}/launch/{script}"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        said = process.communicate(timeout=100)[0]
        assert process.returncode == 0, said


def notes(out: str) -> str:
    return f"notes --source reports.jsonl --out {out} --shard-records 3 --teacher openai --model fake-1"


def test_two_hosts_with_a_teacher_each_make_the_bytes_of_one(folder: Path, monkeypatch):
    finish(start(folder, f"with_teacher.sh asclepius {notes('out')}"))
    once = folder_content(folder / "out")
    assert read_manifest(folder / "out", "notes")["out"] > 20
    shutil.rmtree(folder / "out")
    (folder / "out.ledger.sqlite").unlink()
    (folder / "servers.txt").unlink()

    # As Slurm starts launch/slurm_parts.sh: the jobs of an array, each with its number.
    monkeypatch.setenv("ASCLEPIUS_LAUNCH", str(ROOT / "launch"))
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(folder))
    monkeypatch.setenv("ASCLEPIUS_PART", "array")
    jobs = []
    for number in "12":
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", number)
        jobs.append(start(folder, f"slurm_parts.sh 2 {notes('out')}"))
    finish(*jobs)
    monkeypatch.setenv("ASCLEPIUS_PART", "join")
    finish(start(folder, f"slurm_parts.sh 2 {notes('out')}"))
    assert folder_content(folder / "out") == once

    words = [line.split() for line in (folder / "servers.txt").read_text().splitlines()]
    assert [word for word, _ in words] == ["started", "started", "ended", "ended"], "both ran at the same time"
    assert len({number for _, number in words}) == 2


def test_a_server_that_cannot_start_ends_the_part_with_its_last_words(folder: Path, monkeypatch):
    monkeypatch.setenv("SERVER", "vllm serve broken")
    process = start(folder, "with_teacher.sh asclepius notes")
    said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 1
    assert said[0] == "no such model: broken"
    assert "the server ended, or did not answer on http://localhost:8000/v1 within 1800 s: vllm serve broken" in said[1]


def test_a_signal_ends_the_command_and_then_the_server(folder: Path):
    """The script gets the signal alone, as the batch script of a Slurm job does."""
    process = start(
        folder, "with_teacher.sh bash -c 'trap \"echo saved; exit 9\" TERM; echo ready; while :; do sleep 0.1; done'"
    )
    assert process.stdout
    for line in process.stdout:
        if line == "ready\n":
            break
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "saved\n"
    assert process.returncode == 9
    started, ended = (line.split() for line in (folder / "servers.txt").read_text().splitlines())
    assert (started[0], ended[0], started[1]) == ("started", "ended", ended[1])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{ended[1]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
