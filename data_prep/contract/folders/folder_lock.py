"""A lock that keeps two processes from writing to one folder.

It names its holder, so that the lock of a killed process is recognized, also by another host on the same file system.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.folders import holder as holders
from data_prep.contract.folders.buckets.addresses import bucket_path
from data_prep.contract.folders.buckets.object_lock import locked_object

LOCK = "lock.json"
_held: dict[Path, dict[str, Any] | None] = {}  # locks that this process holds, and what it wrote into them


@contextlib.contextmanager
def locked(folder: Path, remedy: str = "choose another --out") -> Iterator[None]:
    """Context that holds the lock of a folder, which is created if it is missing.

    Removes the folder at the end if it was created here and is still empty. The lock of a killed process is taken over,
    and a line says so. Raises UserError, which ends in `remedy`, if another run holds the lock. A process that was
    suspended until another host took the folder over ends when it wakes, with exit code 2: see `beat`.
    """
    bucket = bucket_path(folder)
    if bucket is not None:
        with locked_object(bucket / LOCK, remedy), locked_folder(folder, remedy):
            yield
        return
    with locked_folder(folder, remedy):
        yield


@contextlib.contextmanager
def locked_folder(folder: Path, remedy: str) -> Iterator[None]:
    """Context as of `locked`, for processes that see the same file system."""
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / LOCK
        while not create(path):
            wait_or_refuse(path, remedy)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): {remedy}") from error
    mine = read_holder(path)
    _held[path] = mine
    ended = threading.Event()
    threading.Thread(target=beat, args=(path, mine, ended), daemon=True, name="lock").start()
    try:
        yield
    finally:
        ended.set()
        _held.pop(path, None)
        if mine is not None:
            remove(path, mine)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def create(path: Path) -> bool:
    """Create the lock. Returns False if it already exists."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(holders.holder()))
    except FileExistsError:
        return False
    except OSError:  # a full disk
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return True


def wait_or_refuse(path: Path, remedy: str) -> None:
    """Remove the lock if its holder is gone, otherwise raise UserError."""
    other = read_holder(path)
    if other is None:
        return  # just released
    process, gone = f"process {other['pid']} on {other['host']}", holders.is_gone(other)
    if gone is not None:
        # A process that replaced itself (exec) has the id of its predecessor, but holds none of its locks.
        is_self = other["pid"] == os.getpid() and path not in _held
        if not gone and not is_self:
            raise UserError(f"{path.parent} is in use by {process}: wait for it, or {remedy}")
    elif (waited := seconds_until_renewed(path)) is not None:
        sign = f"its lock was renewed after {waited:.0f} s"
        raise UserError(f"{path.parent} is in use by {process} ({sign}): wait for it, or {remedy}")
    print(f"{path} was left by {process}, which is gone: taking over the folder", file=sys.stderr, flush=True)
    remove(path, other)


def is_held(folder: Path) -> bool:
    """Return True if this process still holds the lock of a folder, which another one has not taken over."""
    path = folder.resolve() / LOCK
    try:
        return path in _held and read_holder(path) == _held[path]
    except (OSError, UserError):
        return False


def remove(path: Path, mine: dict[str, Any]) -> None:
    """Remove the lock of a holder, unless another process has taken it over in the meantime."""
    aside = path.with_name(f"{LOCK}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if read_holder(aside) == mine:
            aside.unlink()
        else:
            aside.rename(path)


def seconds_until_renewed(path: Path) -> float | None:
    """Watch the lock of another host. Returns the seconds until it was renewed, or None if it was not.

    Only modification times of the lock itself are compared, because the clocks of the hosts may differ.
    """
    started, before = time.monotonic(), modified(path)
    line = f"{path}: waiting up to {holders.SILENCE_SECONDS:.0f} s to see whether its holder is still running"
    print(line, file=sys.stderr, flush=True)
    while (waited := time.monotonic() - started) < holders.SILENCE_SECONDS:
        if modified(path) != before:
            return waited
        time.sleep(min(0.5, holders.SILENCE_SECONDS / 10))
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
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = {"host": "an unknown host", "pid": 0}  # truncated by a full disk or a kill
    if not isinstance(found, dict) or [type(found.get(name)) for name in ("host", "pid")] != [str, int]:
        raise UserError(f"{path} is not a lock of asclepius: move it away, or choose another folder")
    return {"started": None, "pid_namespace": holders.place()["pid_namespace"], **found}


def beat(path: Path, mine: dict[str, Any] | None, ended: threading.Event) -> None:
    """Renew the lock until `ended`. Ends the process, at once, if another holds the lock.

    Two processes would otherwise write to the folder: no exception in this thread could stop the others of this one.
    """
    while not ended.wait(holders.BEAT_SECONDS):
        with contextlib.suppress(OSError, UserError):
            other = read_holder(path)
            if other is not None and other != mine and not ended.is_set():
                holders.end_after_takeover(other, path.parent)
            os.utime(path)
