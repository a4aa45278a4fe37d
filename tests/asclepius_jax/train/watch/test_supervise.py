"""When a run that ended is started again, and when not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asclepius_jax.train.watch.supervise import RESTARTS, SUPERVISED, newest, restarts_asked, supervise
from data_prep.contract.errors import UserError
from tests.helpers.places import ROOT

# Each start takes the next word: an exit code, and with + a new checkpoint before it.
RUN = """
import os, sys
from pathlib import Path
run = Path(sys.argv[1])
script = (run / "script").read_text().split()
(run / "script").write_text(" ".join(script[1:]))
assert os.environ["ASCLEPIUS_SUPERVISED"] == "1"
if script[0].endswith("+"):
    steps = [int(path.name) for path in (run / "checkpoints").iterdir()]
    (run / f"checkpoints/{max(steps, default=0) + 1}").mkdir()
os._exit(int(script[0].rstrip("+")))
"""


def watched(run: Path, script: str, restarts: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Exit code and the number of starts."""
    for number in (signal.SIGTERM, signal.SIGINT):
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        signal.getsignal(number)
    (run / "checkpoints").mkdir(parents=True)
    (run / "script").write_text(script)
    code = supervise([sys.executable, "-c", RUN, str(run)], run, restarts, first_wait=0.01)
    return code, len(script.split()) - len((run / "script").read_text().split())


@pytest.mark.parametrize(
    ("script", "restarts", "code", "starts"),
    [
        ("0 9 9", 3, 0, 1),
        ("1 1 0 9", 3, 0, 3),
        ("2 9 9", 3, 2, 1),  # a person must mend it
        ("130 9 9", 3, 130, 1),  # a person interrupted it
        ("1 3 1 9 9", 2, 1, 3),  # the third crash in a row without progress
        ("1+ 3+ 1+ 3+ 1+ 0 9", 1, 0, 6),  # it comes forward each time
        ("1+ 1 1 9", 2, 1, 3),  # progress, then two crashes: the first after progress counts as one
        ("1 2 9", 3, 2, 2),
    ],
)
def test_crashes_in_a_row_without_progress_are_counted(
    tmp_path: Path, monkeypatch, script: str, restarts: int, code: int, starts: int
):
    assert watched(tmp_path / "run", script, restarts, monkeypatch) == (code, starts)


def test_a_signal_is_passed_on_and_ends_the_watch(tmp_path: Path):
    """SIGTERM to the supervisor alone: the run saves and leaves, and is not started again."""
    child = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3)); print('up', flush=True); time.sleep(60)"
    )
    code = (
        "import sys; from pathlib import Path; from asclepius_jax.train.watch.supervise import supervise;"
        f"sys.exit(supervise([sys.executable, '-c', {child!r}], Path({str(tmp_path)!r}), 5, 0.01))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ,
                               cwd=ROOT)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    started = time.monotonic()
    process.terminate()
    assert process.wait(30) == 3
    assert time.monotonic() - started < 10
    assert process.stdout.read() == ""


def test_the_flag_the_variable_and_the_run_itself(monkeypatch):
    monkeypatch.delenv(SUPERVISED, raising=False)
    monkeypatch.setenv(RESTARTS, "4")
    assert restarts_asked(0) == 4
    assert restarts_asked(2) == 2
    monkeypatch.setenv(RESTARTS, "many")
    with pytest.raises(UserError, match="'many': each must be a number of 0 or more"):
        restarts_asked(0)
    monkeypatch.setenv(RESTARTS, "4")
    with pytest.raises(UserError, match="--restarts is -1"):
        restarts_asked(-1)
    monkeypatch.setenv(SUPERVISED, "1")
    assert restarts_asked(2) == 0


def test_progress_is_the_newest_finished_step(tmp_path: Path):
    assert newest(tmp_path) == 0
    for name in ("4", "12", "20.damaged", ".30.saving"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest(tmp_path) == 12
