"""A lock that keeps two runs from writing to one folder. It names its holder, so that a stale lock is recognized."""

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
BEAT_SECONDS = 10.0  # interval at which the holder renews the lock
SILENCE_SECONDS = 60.0  # time without renewal after which a holder on another host counts as gone


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Context that holds the lock of the run folder, through process 0 of the job.

    Removes the folder at the end if it was created here and is still empty. The lock of a killed run is taken over,
    and a line says so. Raises UserError if another run holds the lock.
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
    """Create the lock. Returns False if it already exists."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_mark()}
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(holder))
    except FileExistsError:
        return False
    return True


def wait_or_refuse(path: Path) -> None:
    """Remove the lock if its holder is gone, otherwise raise UserError."""
    holder = read_holder(path)
    if holder is None:
        return  # just released
    process = f"process {holder.get('pid')} on {holder.get('host')}"
    if holder.get("host") == socket.gethostname():
        started = process_mark(holder["pid"])
        if started is not None and started == holder["started"] and holder["pid"] != os.getpid():
            raise UserError(f"{path.parent} is in use by {process}: wait for it, or choose another --run-dir")
    elif (waited := seconds_until_renewed(path)) is not None:
        raise UserError(
            f"{path.parent} is in use by {process} (its lock was renewed after {waited:.0f} s): "
            "wait for it, or choose another --run-dir"
        )
    print(f"{path} was left by {process}, which is gone: taking over the run", flush=True)
    path.unlink(missing_ok=True)


def seconds_until_renewed(path: Path) -> float | None:
    """Watch the lock of another host. Returns the seconds until it was renewed, or None if it was not.

    Only modification times of the lock itself are compared, because the clocks of the hosts may differ.
    """
    started, before = time.monotonic(), modified(path)
    print(f"{path}: waiting up to {SILENCE_SECONDS:.0f} s to see whether its holder is still running", flush=True)
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
        return {"host": "an unknown host", "pid": 0, "started": None}  # truncated by a full disk or a kill


def beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def process_started(pid: int | None = None) -> float | None:
    """Start time of a process on this host, in seconds since 1970. None if it is gone or this is not Linux."""
    if (ticks := start_ticks(pid)) is None:
        return None
    # `btime` in /proc/stat would be simpler, but it is truncated to whole seconds.
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def process_mark(pid: int | None = None) -> str | None:
    """Boot id of this host and clock tick at which a process started. None if it is gone or this is not Linux.

    Process ids are reused. Together with this mark they identify one process, even if the host's clock is changed.
    """
    if (ticks := start_ticks(pid)) is None:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id")  # hidden in some sandboxes
    return f"{boot.read_text().strip() if boot.exists() else ''} {ticks}"


def start_ticks(pid: int | None = None) -> int | None:
    """Clock ticks from the boot of this host to the start of a process. None if it is gone or this is not Linux."""
    try:
        fields = Path(f"/proc/{pid or os.getpid()}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":  # a zombie: ended, but not yet reaped by its parent
        return None
    return int(fields[19])
