"""A lock that keeps two processes from writing to one folder.

It names its holder, so that the lock of a killed process is recognized, also by another host on the same file system.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError

LOCK = "lock.json"
BEAT_SECONDS = 10.0  # interval at which the holder renews the lock
SILENCE_SECONDS = 60.0  # time without renewal after which a holder on another host counts as gone


_held: set[Path] = set()  # locks that this process holds


@contextlib.contextmanager
def locked(folder: Path, remedy: str = "choose another --out") -> Iterator[None]:
    """Context that holds the lock of a folder, which is created if it is missing.

    Removes the folder at the end if it was created here and is still empty. The lock of a killed process is taken over,
    and a line says so. Raises UserError, which ends in `remedy`, if another run holds the lock. A process that was
    suspended until another host took the folder over ends when it wakes, with exit code 2: see `beat`.
    """
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / LOCK
        while not create(path):
            wait_or_refuse(path, remedy)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): {remedy}") from error
    mine = read_holder(path)
    _held.add(path)
    ended = threading.Event()
    threading.Thread(target=beat, args=(path, mine, ended), daemon=True, name="lock").start()
    try:
        yield
    finally:
        ended.set()
        _held.discard(path)
        if mine is not None:
            remove(path, mine)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def create(path: Path) -> bool:
    """Create the lock. Returns False if it already exists."""
    holder = {**place(), "pid": os.getpid(), "started": process_mark()}
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(holder))
    except FileExistsError:
        return False
    except OSError:  # a full disk
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return True


def wait_or_refuse(path: Path, remedy: str) -> None:
    """Remove the lock if its holder is gone, otherwise raise UserError."""
    holder = read_holder(path)
    if holder is None:
        return  # just released
    process = f"process {holder['pid']} on {holder['host']}"
    if {"host": holder["host"], "pid_namespace": holder["pid_namespace"]} == place():
        started = process_mark(holder["pid"])
        # A process that replaced itself (exec) has the id of its predecessor, but holds none of its locks.
        is_self = holder["pid"] == os.getpid() and path not in _held
        if started is not None and started == holder["started"] and not is_self:
            raise UserError(f"{path.parent} is in use by {process}: wait for it, or {remedy}")
    elif (waited := seconds_until_renewed(path)) is not None:
        sign = f"its lock was renewed after {waited:.0f} s"
        raise UserError(f"{path.parent} is in use by {process} ({sign}): wait for it, or {remedy}")
    print(f"{path} was left by {process}, which is gone: taking over the folder", file=sys.stderr, flush=True)
    remove(path, holder)


def remove(path: Path, holder: dict[str, Any]) -> None:
    """Remove the lock of a holder, unless another process has taken it over in the meantime."""
    aside = path.with_name(f"{LOCK}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if read_holder(aside) == holder:
            aside.unlink()
        else:
            aside.rename(path)


def place() -> dict[str, Any]:
    """The host, and the container if it has process ids of its own: a process id is unique within both."""
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "pid_namespace": str(namespace.readlink()) if namespace.is_symlink() else "",
    }


def seconds_until_renewed(path: Path) -> float | None:
    """Watch the lock of another host. Returns the seconds until it was renewed, or None if it was not.

    Only modification times of the lock itself are compared, because the clocks of the hosts may differ.
    """
    started, before = time.monotonic(), modified(path)
    line = f"{path}: waiting up to {SILENCE_SECONDS:.0f} s to see whether its holder is still running"
    print(line, file=sys.stderr, flush=True)
    while (waited := time.monotonic() - started) < SILENCE_SECONDS:
        if modified(path) != before:
            return waited
        time.sleep(min(0.5, SILENCE_SECONDS / 10))
    return None


def modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def read_holder(path: Path) -> dict[str, Any] | None:
    """The content of a lock, or None if it is gone. Raises UserError for a file that is not a lock."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        holder = {"host": "an unknown host", "pid": 0}  # truncated by a full disk or a kill
    if not isinstance(holder, dict) or [type(holder.get(name)) for name in ("host", "pid")] != [str, int]:
        raise UserError(f"{path} is not a lock of asclepius: move it away, or choose another folder")
    return {"started": None, "pid_namespace": place()["pid_namespace"], **holder}


def beat(path: Path, mine: dict[str, Any] | None, ended: threading.Event) -> None:
    """Renew the lock until `ended`. Ends the process, at once, if another holds the lock.

    Two processes would otherwise write to the folder: no exception in this thread could stop the others of this one.
    """
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError, UserError):
            holder = read_holder(path)
            if holder is not None and holder != mine and not ended.is_set():
                other = f"process {holder['pid']} on {holder['host']}"
                line = f"{other} has taken over {path.parent}, because this one seemed dead: it ends"
                print(line, file=sys.stderr, flush=True)
                os._exit(2)
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
