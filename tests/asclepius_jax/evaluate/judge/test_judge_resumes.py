"""A judgement that is killed and started again asks nothing twice, and its report is that of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asclepius_jax.evaluate.report.report import ReportConfig, run
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.evaluation.made_evaluation import write_answers, write_questions
from tests.helpers.places import ROOT
from tests.helpers.text_stages import folder_content, free_port


@contextmanager
def endpoint(port: int, log: Path) -> Iterator[None]:
    command = [sys.executable, str(ROOT / "tests/helpers/endpoints/judge_endpoint.py"), str(port), str(log), "0.02"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.kill()
        server.wait()


def start(folder: Path, out: Path, port: int) -> subprocess.Popen[str]:
    flags = ["--questions", folder / "questions", "--answers", folder / "answers", "--out", out, "--name", "judge"]
    flags += ["--base-url", f"http://127.0.0.1:{port}/v1", "--model", "m", "--concurrency", 16, "--shard-records", 50]
    command = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", "evaluate", "judge"]
    return subprocess.Popen([*command, *map(str, flags)], stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    told = process.communicate()[1]
    assert process.returncode == 0, told


def calls(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def report(folder: Path, judged: Path, out: Path) -> dict[str, bytes]:
    run(ReportConfig(folder / "questions", out, judged=(judged,), baseline="model 0"))
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def survive(folder: Path, models: int, questions: int, kills: int = 2) -> str:
    write_questions(folder / "questions", questions)
    for model in range(models):
        texts = {f"q{number}": f"Answer {number} of model {model}." for number in range(questions)}
        write_answers(folder / "answers" / f"model {model}", f"model {model}", texts)
    port, total = free_port(), models * questions
    with endpoint(port, folder / "calm.log"):
        finished(start(folder, folder / "judged", port))
    undisturbed = folder_content(folder / "judged"), report(folder, folder / "judged", folder / "calm")
    asked = calls(folder / "calm.log")
    assert len(asked) == len(set(asked)) > total, "some verdicts are garbage, and asked for once more"

    (folder / "judged").rename(folder / "undisturbed")
    (folder / "judged.ledger.sqlite").unlink()
    moments = sorted(random.Random(total).sample(range(5, total - 5), kills))
    with endpoint(port, folder / "killed.log"):
        for moment in moments:
            process = start(folder, folder / "judged", port)
            while len(calls(folder / "killed.log")) < moment:
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        finished(start(folder, folder / "judged", port))
    assert (folder_content(folder / "judged"), report(folder, folder / "judged", folder / "again")) == undisturbed
    again = calls(folder / "killed.log")
    assert set(again) == set(asked)
    ledger = Ledger(folder / "judged.ledger.sqlite")
    line = (
        f"{models} models x {questions} questions, killed at {moments}: {len(again)} calls of {len(asked)}, "
        f"{ledger.uncertain()} were on their way at a kill"
    )
    print(line)
    assert len(again) - len(asked) <= ledger.uncertain() <= 2 * 16, line
    return line


def test_a_judge_that_is_killed_asks_nothing_twice(tmp_path):
    survive(tmp_path, 3, 40, kills=1)


@pytest.mark.slow
def test_five_models_and_five_hundred_questions(tmp_path):
    survive(tmp_path, 5, 500)
