"""Two runs never write into one folder: a lock that names its holder, and explains itself when the holder is gone."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from data_prep.contract.errors import UserError

LOCK = "lock.json"
BEAT_SECONDS = 10.0  # between signs of life
SILENCE_SECONDS = 60.0  # without one, after which a holder on another host counts as gone


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder while inside; process 0 does it for the job. A folder that stays empty is taken away.

    Raises UserError where another run holds it. A lock that a killed run left is taken over, with a line.
    """
    if jax.process_index() != 0:
        yield
        return
    made = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    while not create(path):
        wait_or_refuse(path)
    ended = threading.Event()
    threading.Thread(target=beat, args=(path, ended), daemon=True, name="lock").start()
    try:
        yield
    finally:
        ended.set()
        path.unlink(missing_ok=True)
        if made and not any(run_dir.iterdir()):
            run_dir.rmdir()


def create(path: Path) -> bool:
    """Whether the lock is now ours; False where one stands."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_mark()}
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(holder))
    except FileExistsError:
        return False
    return True


def wait_or_refuse(path: Path) -> None:
    """Remove a lock whose holder is gone; raise UserError where it lives."""
    holder = read_holder(path)
    if holder is None:
        return  # just released
    told = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("host") == socket.gethostname():
        started = process_mark(holder["pid"])
        if started is not None and started == holder["started"] and holder["pid"] != os.getpid():
            raise UserError(f"{path.parent} is in use by another run, {told}: wait for it, or choose another --run-dir")
    elif (since := seconds_alive(path)) is not None:
        raise UserError(
            f"{path.parent} is in use by another run, {told}, which gave a sign of life {since:.0f} s into the wait: "
            "wait for it, or choose another --run-dir"
        )
    print(f"{path} was left by {told}, which is gone: the run is taken over", flush=True)
    path.unlink(missing_ok=True)


def seconds_alive(path: Path) -> float | None:
    """Watch the lock of another host: when it was touched, or None where it was not.

    Times of one file are compared with each other alone: the hosts' clocks may differ.
    """
    started, before = time.monotonic(), modified(path)
    print(f"{path}: waiting up to {SILENCE_SECONDS:.0f} s to see whether its holder still lives", flush=True)
    while (waited := time.monotonic() - started) < SILENCE_SECONDS:
        if modified(path) != before:
            return waited
        time.sleep(min(0.5, SILENCE_SECONDS / 10))
    return None


def modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def read_holder(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {"host": "an unknown host", "pid": 0, "started": None}  # cut short by a full disk or a kill


def beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def process_started(pid: int | None = None) -> float | None:
    """When a process of this host began, in seconds since 1970; None where it is gone, or this is no Linux."""
    if (ticks := start_ticks(pid)) is None:
        return None
    # Not by `btime` of /proc/stat, which is cut to a whole second.
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def process_mark(pid: int | None = None) -> str | None:
    """The boot of this host and the tick of it in which a process began; None as of `process_started`.

    A process id comes round again; with this it names one process, whatever becomes of the host's clock.
    """
    if (ticks := start_ticks(pid)) is None:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id")  # which some sandboxes hide
    return f"{boot.read_text().strip() if boot.exists() else ''} {ticks}"


def start_ticks(pid: int | None = None) -> int | None:
    """Clock ticks from the boot of this host to the start of a process; None where it is gone, or this is no Linux."""
    try:
        fields = Path(f"/proc/{pid or os.getpid()}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":  # ended, and not yet waited for by whoever started it
        return None
    return int(fields[19])
