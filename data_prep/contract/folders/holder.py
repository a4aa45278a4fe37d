"""Who holds a lock: a host, and a process that is told from all others before and after it."""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

BEAT_SECONDS = 10.0  # interval at which the holder renews a lock
SILENCE_SECONDS = 60.0  # time without renewal after which a holder on another host counts as gone


def holder() -> dict[str, Any]:
    """This process, as a lock names it."""
    return {**place(), "pid": os.getpid(), "started": process_mark()}


def is_gone(of_lock: dict[str, Any]) -> bool | None:
    """Return whether the process that a lock names has ended; None if it runs, or ran, elsewhere."""
    if {"host": of_lock["host"], "pid_namespace": of_lock["pid_namespace"]} != place():
        return None
    started = process_mark(of_lock["pid"])
    return started is None or started != of_lock["started"]


def end_after_takeover(other: dict[str, Any], what: object) -> None:
    """End this process at once, with exit code 2: another holds its lock, and two would write to the same place."""
    line = f"process {other['pid']} on {other['host']} has taken over {what}, because this one seemed dead: it ends"
    print(line, file=sys.stderr, flush=True)
    os._exit(2)


def place() -> dict[str, Any]:
    """The host, and the container if it has process ids of its own: a process id is unique within both."""
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "pid_namespace": str(namespace.readlink()) if namespace.is_symlink() else "",
    }


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
