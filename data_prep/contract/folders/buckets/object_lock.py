"""A lock in a bucket, which keeps two processes of any hosts from writing to one prefix.

The object is created on the condition that there is none, and renewed on the condition that it is the one last written:
the bucket itself lets only one of two processes succeed.
"""

import contextlib
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.folders import holder as holders
from data_prep.contract.folders.buckets.objects import BucketPath, explained


@contextlib.contextmanager
def locked_object(path: BucketPath, remedy: str) -> Iterator[None]:
    """Context that holds a lock. The lock of a process that is gone is taken over, and a line says so.

    Raises UserError, which ends in `remedy`, if another process holds it. A process that was suspended until another
    took the lock over ends when it wakes, with exit code 2.
    """
    ended = threading.Event()
    renewing = Renewing(path, take(path, remedy), ended)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if is_mine(read(path)[0]):
            path.unlink()


class Renewing(threading.Thread):
    """Renews a lock until `ended`, and ends the process if another has taken it over."""

    def __init__(self, path: BucketPath, version: dict[str, str], ended: threading.Event):
        super().__init__(daemon=True, name="bucket lock")
        self.path, self.version, self.ended = path, version, ended

    def run(self) -> None:
        while not self.ended.wait(holders.BEAT_SECONDS):
            # A bucket that cannot be reached now is asked again; whoever takes over has to wait longer than that.
            with contextlib.suppress(UserError, FileNotFoundError):
                self.renew()

    def renew(self) -> None:
        from obstore.exceptions import PreconditionError

        try:
            self.version = put(self.path, secrets.token_hex(8), self.version)
        except PreconditionError:
            other, version = read(self.path)
            if other and not is_mine(other):
                holders.end_after_takeover(other, self.path.parent)
            self.version = version  # of a request that was repeated because its answer was lost


def is_mine(lock: dict[str, Any]) -> bool:
    mine = holders.holder()
    return {name: lock.get(name) for name in mine} == mine


def put(path: BucketPath, nonce: str, version: dict[str, str] | None = None) -> dict[str, str]:
    """Write the lock if it is the one of this version, or if there is none. Returns its new version.

    Raises PreconditionError if it is not.
    """
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    content = json.dumps({**holders.holder(), "nonce": nonce}).encode()
    with contextlib.ExitStack() as held:
        held.enter_context(explained(str(path), "locking it"))
        try:
            done = path.store.put(path.key, content, mode=version or "create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:
            held.pop_all()
            raise PreconditionError(str(path)) from error
    return {name: done[name] for name in ("e_tag", "version") if done[name]}


def version_of(path: BucketPath) -> dict[str, str]:
    with explained(str(path), "locking it"):
        meta = path.store.head(path.key)
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}


def read(path: BucketPath) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a lock and its version; empty if there is none."""
    try:
        version = version_of(path)
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}, {}
    if not isinstance(found, dict) or not {"host", "pid", "started", "pid_namespace", "nonce"} <= found.keys():
        raise UserError(f"{path} is not a lock of asclepius: move it away, or choose another place")
    return found, version


def take(path: BucketPath, remedy: str) -> dict[str, str]:
    """Create the lock, or take over that of a process that is gone. Returns its version."""
    from obstore.exceptions import PreconditionError

    nonce = secrets.token_hex(8)
    while True:
        with contextlib.suppress(PreconditionError):
            return put(path, nonce)
        other, version = read(path)
        if not other:
            continue  # just released
        if other["nonce"] == nonce:
            return version  # written, though the answer was lost
        process, gone = f"process {other['pid']} on {other['host']}", holders.is_gone(other)
        if gone is False:
            raise UserError(f"{path.parent} is in use by {process}: wait for it, or {remedy}")
        if gone is None and is_renewed(path, other["nonce"]):
            raise UserError(f"{path.parent} is in use by {process} (its lock is renewed): wait for it, or {remedy}")
        with contextlib.suppress(PreconditionError):
            taken = put(path, nonce, version)
            line = f"{path} was left by {process}, which is gone: taking over"
            print(line, file=sys.stderr, flush=True)
            return taken


def is_renewed(path: BucketPath, nonce: str) -> bool:
    """Watch the lock of another host for a minute."""
    line = f"{path}: waiting up to {holders.SILENCE_SECONDS:.0f} s to see whether its holder is still running"
    print(line, file=sys.stderr, flush=True)
    until = time.monotonic() + holders.SILENCE_SECONDS
    while time.monotonic() < until:
        if read(path)[0].get("nonce") != nonce:
            return True
        time.sleep(min(2.0, holders.SILENCE_SECONDS / 10))
    return False
