"""One run to a folder; what a dead one left is taken over, and said."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.folders import folder_lock
from data_prep.contract.folders import holder as holders
from data_prep.contract.folders.folder_lock import LOCK, locked
from data_prep.contract.folders.holder import process_mark, process_started
from tests.helpers.places import ROOT

HOLD = """
import sys, time
from pathlib import Path
from data_prep.contract.folders import holder
from data_prep.contract.folders.folder_lock import locked
holder.BEAT_SECONDS = float(sys.argv[2])
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def holder(folder: Path, beat: float = holders.BEAT_SECONDS) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(beat)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write_lock(folder: Path, **holder: object) -> Path:
    folder.mkdir()
    (folder / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": 1, "started": "", **holder}))
    return folder


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path: Path, capsys):
    first = holder(tmp_path / "run")
    told = rf"run is in use by process {first.pid} on {re.escape(socket.gethostname())}: wait for it, or"
    with pytest.raises(UserError, match=told), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / LOCK).is_file()
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # ended and not waited for: a zombie holds nothing
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert f"was left by process {first.pid} on" in capsys.readouterr().err
    first.wait()


def test_a_folder_that_stays_empty_is_taken_away(tmp_path: Path):
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        pass
    assert (tmp_path / "run").is_dir()


def test_an_id_that_came_round_again_is_another_process(tmp_path: Path, capsys):
    boot, ticks = process_mark(os.getppid()).split()
    folder = write_lock(tmp_path / "run", pid=os.getppid(), started=f"{boot} {int(ticks) - 1}")
    with locked(folder):
        pass
    assert f"was left by process {os.getppid()}" in capsys.readouterr().err


def test_a_clock_that_is_set_makes_no_other_process_of_a_holder(tmp_path: Path, monkeypatch):
    first = holder(tmp_path / "run")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    with pytest.raises(UserError, match="in use by process"), locked(tmp_path / "run"):
        pass
    first.kill()
    first.wait()


@pytest.mark.skipif(process_mark() is None, reason="no /proc on this system")
def test_the_start_of_a_process_is_known_to_a_tick():
    """A start that seemed a second earlier would lie before the end of the start before it."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    for _ in range(3):
        before = time.time()
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        after = time.time()
        started = process_started(process.pid)
        process.communicate(b"\n")
        assert before - 2 * tick <= started <= after + tick
        assert process_started(process.pid) is None


def touch(path: Path, ended: threading.Event) -> None:
    """As a holder does whose clock is far off."""
    for second in itertools.count(1_000_000_000):
        os.utime(path, (second, second))
        if ended.wait(0.1):
            return


@pytest.mark.parametrize("lives", [True, False])
def test_a_holder_on_another_host_is_watched_for_a_sign_of_life(tmp_path: Path, monkeypatch, capsys, lives: bool):
    folder = write_lock(tmp_path / "run", host="elsewhere", pid=7)
    if lives:
        ended = threading.Event()
        thread = threading.Thread(target=touch, args=(folder / LOCK, ended))
        thread.start()
        with pytest.raises(UserError, match=r"process 7 on elsewhere \(its lock was renewed"), locked(folder):
            pass
        ended.set()
        thread.join()
        return
    monkeypatch.setattr(holders, "SILENCE_SECONDS", 0.5)
    with locked(folder):
        pass
    said = capsys.readouterr().err
    assert "to see whether its holder is still running" in said
    assert "was left by process 7 on elsewhere, which is gone: taking over the folder" in said


def test_a_lock_that_was_cut_short_is_no_obstacle(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(holders, "SILENCE_SECONDS", 0.2)
    (tmp_path / LOCK).write_text('{"host": "els')
    with locked(tmp_path):
        pass


def test_a_file_of_the_users_is_not_taken_for_a_lock(tmp_path: Path):
    for text in ("[]", '{"packages": {"left-pad": "1.0"}}', "7", '{"host": 3, "pid": "x"}'):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(UserError, match="not a lock of asclepius"), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).read_text() == text


def test_two_threads_do_not_share_a_folder(tmp_path: Path):
    with locked(tmp_path), pytest.raises(UserError, match="in use by process"), locked(tmp_path):
        pass


def test_process_ids_of_another_container_mean_other_processes(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(holders, "SILENCE_SECONDS", 0.2)
    folder = write_lock(tmp_path / "run", pid=os.getppid(), started=process_mark(os.getppid()), pid_namespace="pid:[7]")
    with locked(folder):
        pass
    assert "to see whether its holder is still running" in capsys.readouterr().err


def test_a_lock_taken_over_by_another_is_left_to_it(tmp_path: Path):
    folder = write_lock(tmp_path / "run", pid=7)
    stale = folder_lock.read_holder(folder / LOCK)
    (folder / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 8}))
    folder_lock.remove(folder / LOCK, stale)
    assert json.loads((folder / LOCK).read_text())["pid"] == 8
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_run_that_wakes_after_another_host_took_over_ends_and_leaves_the_lock(tmp_path: Path):
    """It would otherwise write beside the other, and take away the other's lock at its end."""
    first = holder(tmp_path / "run", beat=0.1)
    first.send_signal(signal.SIGSTOP)
    theirs = json.dumps({"host": "elsewhere", "pid": 8, "started": "1", "pid_namespace": ""})
    (tmp_path / "run" / LOCK).write_text(theirs)
    first.send_signal(signal.SIGCONT)
    told = first.communicate(timeout=20)[1]
    assert (first.returncode, told.count("\n")) == (2, 1)
    assert f"process 8 on elsewhere has taken over {tmp_path / 'run'}" in told
    assert (tmp_path / "run" / LOCK).read_text() == theirs


def test_the_lock_of_another_is_not_released(tmp_path: Path):
    with locked(tmp_path):
        (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 8}))
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == 8


def test_a_folder_under_another_name_has_the_same_lock(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    for other in (tmp_path / "link", tmp_path / "run" / ".." / "run"):
        with locked(tmp_path / "run"), pytest.raises(UserError, match="in use by process"), locked(other):
            pass
