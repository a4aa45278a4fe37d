"""The command line as a shell sees it: pipes whose reader goes away, full disks, signals in the first seconds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.places import ROOT


def shell(script: str, **more: Any) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=100, check=False, env=environment, **more
    )


ASCLEPIUS = f"{sys.executable} -c 'from asclepius_jax.cli import main; main()'"


@pytest.mark.parametrize("arguments", ["notes --help", "--help"])
def test_a_reader_that_goes_away_is_no_error(arguments: str):
    done = shell(f"{ASCLEPIUS} {arguments} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_stderr_does_not_turn_success_into_failure(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r", "text": "A woman of 50 had chest pain. " * 9}) + "\n")
    done = shell(f"{ASCLEPIUS} notes --source a.jsonl --out out 2> /dev/full", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "out/manifest.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_seconds_ends_a_training_in_one_line(number: int, tmp_path: Path):
    (tmp_path / "slow.py").write_text("import time\n\nprint('reading', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", "train", "slow.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "reading\n"
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert (process.returncode, told) == (130, "asclepius train: interrupted\n")
