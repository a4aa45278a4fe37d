"""A run against an endpoint that fails in every way, killed at random moments, ends in the files of an unbroken one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.chaos_endpoint import LOST
from tests.helpers.places import ROOT
from tests.helpers.text_stages import TEXT, folder_content, free_port

ENDPOINT = ROOT / "tests/helpers/endpoints/chaos_endpoint.py"
# A job in the background of a shell would ignore Ctrl-C, and so would what it starts.
HEED_INTERRUPT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = [sys.executable, "-c", f"{HEED_INTERRUPT}; from asclepius_jax.cli import main; main()", "notes"]
CONCURRENCY = 64


@contextmanager
def endpoint(port: int, folder: Path, share: float, seconds: float) -> Iterator[None]:
    folder.mkdir()
    arguments = [str(port), str(folder), str(share), str(seconds)]
    server = subprocess.Popen(
        [sys.executable, str(ENDPOINT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it complains of every client that was killed
        text=True,
    )
    try:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.kill()
        server.wait()


def paid(folder: Path) -> Counter[str]:
    """How the requests ended that the endpoint charges for."""
    return Counter(line.split()[1] for line in (folder / "paid.log").read_text().splitlines())


def start(source: Path, out: Path, port: int, timeout: float, *more: str) -> subprocess.Popen[str]:
    flags = {
        "--source": source,
        "--out": out,
        "--teacher": "openai",
        "--base-url": f"http://127.0.0.1:{port}/v1",
        "--model": "m",
        "--concurrency": CONCURRENCY,
        "--timeout-seconds": timeout,
        "--shard-records": 100,
        "--on-unsupported": "keep",  # one request a report: what the endpoint writes stands in no report
    }
    command = [*COMMAND, *(str(part) for flag in flags.items() for part in flag), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    told = process.communicate()[1]
    assert process.returncode == 0, told
    return told


def kill_at(process: subprocess.Popen[str], folder: Path, requests: int) -> None:
    """SIGKILL once the endpoint has worked on so many requests."""
    while process.poll() is None:
        if sum(paid(folder).values()) >= requests:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.005)
    raise AssertionError(f"the run was over before the endpoint had {requests} requests: {process.communicate()}")


def write_source(path: Path, count: int) -> Path:
    rows = [{"id": f"r{k}", "text": f"Case {k}. {TEXT.format(age=20 + k % 70)}"} for k in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def survive(tmp_path: Path, requests: int, kills: int, timeout: float) -> str:
    source = write_source(tmp_path / "a.jsonl", requests)
    port = free_port()
    with endpoint(port, tmp_path / "calm", 0, 0.01):
        finished(start(source, tmp_path / "out", port, 60))
    undisturbed = folder_content(tmp_path / "out")
    assert paid(tmp_path / "calm") == {"answered": requests}

    (tmp_path / "out").rename(tmp_path / "undisturbed")
    (tmp_path / "out.ledger.sqlite").unlink()
    draw = random.Random(requests)
    moments = sorted(draw.randrange(1, requests) for _ in range(kills))
    with endpoint(port, tmp_path / "chaos", 1, 0.01):
        for moment in moments:
            kill_at(start(source, tmp_path / "out", port, timeout), tmp_path / "chaos", moment)
        told = finished(start(source, tmp_path / "out", port, timeout))
    assert folder_content(tmp_path / "out") == undisturbed

    ends = paid(tmp_path / "chaos")
    lost = sum(ends[name] for name in LOST)
    ledger = Ledger(tmp_path / "out.ledger.sqlite")
    assert ledger.counts() == {"done": requests}
    too_many = sum(ends.values()) - requests
    line = (
        f"{requests} requests, killed at {moments}: paid {sum(ends.values())}, lost by the endpoint {lost}, "
        f"perhaps paid twice by the ledger {ledger.uncertain()}"
    )
    print(line)
    print(told.splitlines()[-1])
    assert lost > 0, "this endpoint must have failed"
    assert too_many <= ledger.uncertain(), line
    assert ledger.uncertain() <= kills * CONCURRENCY + lost, line
    return line


@pytest.mark.slow  # test_power_cut.py has the short form
def test_a_run_that_is_killed_ends_in_the_files_of_an_unbroken_one(tmp_path):
    survive(tmp_path, 300, 1, timeout=1)


def test_an_interrupt_loses_no_reply(tmp_path):
    """Ctrl-C: nothing more is sent, and what is on its way is waited for."""
    source = write_source(tmp_path / "a.jsonl", 200)
    port = free_port()
    with endpoint(port, tmp_path / "calm", 0, 2):  # so slow that it is not over before a busy machine sees it begin
        process = start(source, tmp_path / "out", port, 20)
        while sum(paid(tmp_path / "calm").values()) < 20:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    sent = sum(paid(tmp_path / "calm").values())
    assert sent < 200
    counts = Ledger(tmp_path / "out.ledger.sqlite").counts()
    assert (counts["done"], counts.get("in flight")) == (sent, None)


def survive_in_parts(tmp_path: Path, requests: int, parts: int, kills: int) -> str:
    """Parts run two at a time and are killed at random; their join must be one undisturbed run, within the budget."""
    source = write_source(tmp_path / "a.jsonl", requests)
    port = free_port()
    prices = ("--price-input", "1", "--price-output", "2")
    with endpoint(port, tmp_path / "calm", 0, 0.01):
        finished(start(source, tmp_path / "out", port, 60, *prices))
    undisturbed = folder_content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    calm = Ledger(tmp_path / "out.ledger.sqlite")
    most = 3 * calm.spent()
    calm.close()
    draw = random.Random(requests)
    waiting = [*range(1, parts + 1)]
    running: dict[int, subprocess.Popen[str]] = {}
    left = kills
    with endpoint(port, tmp_path / "chaos", 1, 0.05):
        while waiting or running:
            while waiting and len(running) < 2:
                number = waiting.pop(0)
                flags = (*prices, "--max-cost", str(most), "--part", f"{number}/{parts}", "--concurrency", "16")
                running[number] = start(source, tmp_path / "out", port, 2, *flags)
            time.sleep(draw.uniform(0.5, 2.5))
            for number, process in [*running.items()]:
                if process.poll() is not None:
                    finished(running.pop(number))
            if running and left:
                number = draw.choice([*running])
                running[number].kill()
                running.pop(number).communicate()
                waiting.append(number)
                left -= 1
    folders = [str(tmp_path / f"out.part-{number}-of-{parts}") for number in range(1, parts + 1)]
    join = [*COMMAND[:-1], "join", *folders, "--out", str(tmp_path / "out")]
    subprocess.run(join, check=True, stderr=subprocess.DEVNULL)
    assert folder_content(tmp_path / "out") == undisturbed
    ends = paid(tmp_path / "chaos")
    lost = sum(ends[name] for name in LOST)
    spent = uncertain = 0.0
    for folder in folders:
        ledger = Ledger(Path(f"{folder}.ledger.sqlite"))
        spent, uncertain = spent + ledger.spent(), uncertain + ledger.uncertain()
        ledger.close()
    line = (
        f"{requests} requests in {parts} parts, {kills - left} kills: paid {sum(ends.values())}, lost by the endpoint "
        f"{lost}, perhaps paid twice {uncertain:.0f}; {spent:.4f} of {most:.4f} USD"
    )
    print(line)
    assert sum(ends.values()) - requests <= uncertain <= lost + (kills - left) * 16, line
    assert spent <= most, line
    return line


@pytest.mark.slow
def test_parts_that_are_killed_join_to_an_unbroken_run(tmp_path):
    survive_in_parts(tmp_path, 2000, 5, 30)


@pytest.mark.slow
def test_five_thousand_requests_and_five_kills(tmp_path):
    survive(tmp_path, 5000, 5, timeout=2)
