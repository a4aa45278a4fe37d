"""`asclepius preflight` in a job of two processes with four devices each: the process at fault is named."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asclepius_jax.config import TrainConfig
from tests.helpers.made_inputs import free_address, job_flags
from tests.helpers.places import ROOT

SCRIPT = ROOT / "tests/helpers/training/run_preflight.py"
GUILTY = f"process 1 on {socket.gethostname()}"
DEVICES = [f"{GUILTY}, cpu:{device}" for device in range(2048, 2052)]  # JAX numbers those of process 1 so
Rows = list[dict[str, str]]


class Job:
    """Two processes in folders of their own, for two hosts. The second has faults and other flags."""

    def __init__(self, config: TrainConfig, folder: Path, faults: str, of_first: str = "none", *flags: str) -> None:
        self.found = folder / "found.json"
        (folder / "values.py").write_text(f"from asclepius_jax.config import *\n\nconfig = {config!r}\n")
        address, self.processes = free_address(), []
        for number, planted in enumerate((of_first, faults)):
            place = folder / f"host{number}"
            place.mkdir(exist_ok=True)
            arguments = [str(folder / "values.py"), "--json", str(self.found), *job_flags(address, number)]
            arguments += flags if number else ()
            environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), planted, *arguments],
                    cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip

    def end(self, timeout: float = 180) -> tuple[list[int], list[str], Rows]:
        """Exit codes, last lines of standard error, and the rows found."""
        try:
            errors = [process.communicate(timeout=timeout)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        codes = [process.returncode for process in self.processes]
        ours = [[line for line in text.splitlines() if line.startswith("asclepius ")][-1:] for text in errors]
        rows = json.loads(self.found.read_text())["rows"] if self.found.is_file() else []
        return codes, [line for lines in ours for line in lines], rows


def places(rows: Rows, check: str, status: str) -> list[str]:
    return [row["place"] for row in rows if row["check"].startswith(check) and row["status"] == status]


def test_every_fault_of_a_host_is_named(base: TrainConfig, tmp_path: Path):
    """Other packed rows, a wrong kernel, a slow device and a full disk, all of the second host."""
    for host in ("host0", "host1"):
        shutil.copytree(base.data.path[0], tmp_path / host / "packed")
    manifest = tmp_path / "host1/packed/manifest.json"
    other = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**other, "prompt_template": other["prompt_template"] + " "}))
    data = dataclasses.replace(base.data, path="packed")
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"), data=data)
    codes, lines, rows = Job(config, tmp_path, "kernel,device,disk").end()
    assert codes == [2, 2], lines
    assert places(rows, "packed rows and prompt template", "wrong") == [GUILTY]
    assert places(rows, "attention xla", "wrong") == DEVICES
    assert places(rows, "product", "warning") == [GUILTY]
    assert places(rows, "writing to the run folder", "wrong") == [GUILTY]
    assert [row["check"] for row in rows if row["status"] == "skipped"] == ["checkpoint", "ten steps"]
    told = next(row["value"] for row in rows if row["check"] == "packed rows and prompt template")
    assert "prompt template is " in told
    assert all("checks are wrong (packed rows and prompt template, attention xla" in line for line in lines)
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_answer_is_named_within_the_limit(base: TrainConfig, tmp_path: Path):
    began = time.monotonic()
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    codes, lines, rows = Job(config, tmp_path, "sleep:devices", "limit:devices").end()
    assert time.monotonic() - began < 60
    line = f"{GUILTY} does not answer in the stage devices within 3 s"
    assert codes == [2, 2]
    assert lines == [f"asclepius preflight: {line}", f"asclepius preflight: process 0 ended: {line}"]
    assert rows[-1]["value"] == line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_good_job_passes_and_nothing_is_left_behind(base: TrainConfig, tmp_path: Path):
    began = time.monotonic()
    codes, lines, rows = Job(dataclasses.replace(base, run_dir=str(tmp_path / "run")), tmp_path, "none").end()
    assert (codes, lines) == ([0, 0], [])
    assert time.monotonic() - began < 180
    assert {row["status"] for row in rows} <= {"ok", "warning"}, rows
    assert {"checkpoint", "loss", "speed", "the rest of the run"} <= {row["check"] for row in rows}
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_late_rows_are_those_of_the_host_that_waits_for_them(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    codes, _, rows = Job(config, tmp_path, "rows").end()
    assert codes == [0, 0]
    assert places(rows, "waiting for rows", "warning") == [GUILTY]


@pytest.mark.slow
def test_other_settings_end_it_before_anything_can_hang(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    codes, _, rows = Job(config, tmp_path, "none", "none", "--mesh.data", "4").end()
    assert codes == [2, 2]
    assert places(rows, "settings, code and versions", "wrong") == [GUILTY]
    assert next(row["value"] for row in rows if row["status"] == "wrong") == "--mesh.data is 2 in process 0, 4"
    assert [row["check"] for row in rows if row["status"] == "skipped"] == ["everything else"]


@pytest.mark.slow
def test_a_collective_that_hangs_ends_within_the_limit(base: TrainConfig, tmp_path: Path):
    began = time.monotonic()
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    codes, lines, _ = Job(config, tmp_path, "stuck", "limit:speed").end()
    assert time.monotonic() - began < 60
    assert codes == [2, 2]
    assert "no process returns from a collective of the stage speed within 3 s" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_that_fails_while_others_wait_in_a_collective_is_named(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    codes, lines, rows = Job(config, tmp_path, "broken", "limit:speed").end()
    assert codes == [2, 2]
    assert f"{GUILTY} failed in the stage speed: ZeroDivisionError: division by zero" in lines[0]
    assert places(rows, "speed", "wrong")[0] == GUILTY


@pytest.mark.slow
def test_a_signal_leaves_nothing_behind(base: TrainConfig, tmp_path: Path):
    config = dataclasses.replace(base, run_dir=str(tmp_path / "run"))
    job = Job(config, tmp_path, "none")
    until = time.monotonic() + 60
    while not list((tmp_path / "run").glob(".preflight-*/checkpoints/.0.saving")):
        assert time.monotonic() < until
        time.sleep(0.01)
    job.processes[0].send_signal(signal.SIGTERM)
    codes, lines, _ = job.end()
    assert codes == [130, 130]
    assert lines[0] == "asclepius preflight: interrupted"
    assert not (tmp_path / "run").exists()
