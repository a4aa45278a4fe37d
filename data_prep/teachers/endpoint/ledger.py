"""The ledger stores every request to an endpoint and its raw response on disk, so that a rerun pays for nothing twice.

One SQLite file:

    requests   key, request                      the canonical request as JSON, never with an API key
    calls      key, state, kind, attempts, ...   planned → in flight → done, or failed; with the raw response
    batches    name, id, state                   files of requests that an endpoint processes for hours
    frozen     name, value                       values that later requests are built from

The key is the SHA-256 of the canonical request: base URL, model, sampling parameters, seed, messages, and, if present,
JSON schema, prompt hash and sample index. One thread writes: it takes the queued operations, commits once and then
notifies the waiting tasks. Thousands of requests share a commit, and the event loop never waits for a disk.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError

VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, request TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    uncertain INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    reserved REAL NOT NULL DEFAULT 0,
    batch TEXT,
    response TEXT
);
CREATE INDEX IF NOT EXISTS open_calls ON calls (state, batch) WHERE state = 'in flight';
CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, id TEXT, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS frozen (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# The first layout had request and response in one row, and no states.
FROM_VERSION_1 = """
INSERT INTO calls (key, state, attempts, response)
    SELECT key, CASE WHEN response IS NULL THEN 'in flight' ELSE 'done' END, 1, response FROM requests;
ALTER TABLE requests DROP COLUMN response;
"""
# Largest number of operations per commit; with more, the first would wait too long.
GROUP = 1000


def canonical(request: Mapping[str, Any]) -> str:
    """The canonical JSON of a request, independent of the order of its fields."""
    return json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def request_key(request: Mapping[str, Any]) -> str:
    return key_of(canonical(request))


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Call:
    """The state of a request in the ledger."""

    state: str  # "planned", "in flight", "done" or "failed"
    response: str | None
    batch: str | None  # name of the batch that contains it, while in flight


Operation = Callable[..., Any]  # a function of the database connection and further arguments


class Ledger:
    """The requests of one run. It survives kill -9 at any point, because each step is committed before the next begins.

    synchronous=NORMAL in WAL mode survives a killed process. A power failure may lose the last responses, not the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock_file: int | None = None
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.writer: threading.Thread | None = None
        # Guards the only connection, which the writing thread and the caller's thread share.
        self.one_at_a_time = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self._bring_up_to_date()
        except (OSError, sqlite3.Error, ValueError) as error:
            if hasattr(self, "database"):
                self.database.close()  # its lock would keep the next user of the file waiting
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"cannot use {path} as the ledger of requests ({error}): choose another with --ledger"
            ) from error

    def _bring_up_to_date(self) -> None:
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UserError(
                f"{self.path} is a ledger of layout {version}, this version reads up to {VERSION}: "
                "update asclepius-jax, or choose another with --ledger"
            )
        tables = {row[0] for row in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        migration = FROM_VERSION_1 if "requests" in tables and "calls" not in tables else ""
        if version < VERSION:
            self.database.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} {migration} PRAGMA user_version = {VERSION}; COMMIT"
            )

    # ------------------------------------------------------------ requests, one at a time or grouped

    async def plan(self, key: str, request: str, kind: str) -> Call:
        """Record a request that is to be sent, or return its state if it is known. `request` is its canonical JSON."""
        return await self._grouped(_plan, key, request, kind)

    async def begin(self, key: str, cost: float = 0.0) -> None:
        """Commit a request as in flight, and the upper bound of its cost as spent, before it is sent."""
        await self._grouped(_begin, key, cost)

    async def finish(self, key: str, response: str) -> None:
        """Commit the raw response, before anything parses it."""
        await self._grouped(_finish, key, response)

    async def fail(self, key: str, state: str = "failed") -> None:
        """Record that no response arrived: for good, or for now with the state "planned"."""
        await self._grouped(_fail, key, state)

    def settle(self, key: str, cost: float) -> None:
        """Replace the upper bound of a request's cost by its actual cost, without waiting for the commit."""
        self._enqueue(_settle, (key, cost), None)

    async def grouped(self, operation: Operation, *values: Any) -> Any:
        """Run an operation on the database in the writing thread, within its next commit."""
        return await self._grouped(operation, *values)

    # ------------------------------------------------------------ the whole ledger

    def take_over(self) -> int:
        """Lock the ledger for this process; the number of requests that were in flight when an earlier run died.

        These requests may be paid for twice, because they are sent again when needed. Raises UserError if another run
        uses the ledger.
        """
        self._lock()
        return self._at_once(_take_over)

    def response(self, key: str) -> str | None:
        """The raw response of an earlier run; None if there is none."""
        row = self._select("SELECT response FROM calls WHERE key = ? AND state = 'done'", key).fetchone()
        return row[0] if row else None

    def counts(self) -> dict[str, int]:
        """The number of requests in each state."""
        return dict(self._select("SELECT state, count(*) FROM calls GROUP BY state").fetchall())

    def uncertain(self) -> int:
        """The number of requests in flight when runs died, all of which may have been paid for twice."""
        return int(self._select("SELECT coalesce(sum(uncertain), 0) FROM calls").fetchone()[0])

    def spent(self) -> float:
        """The cost of all runs in USD: replies by their usage, other requests at their upper bounds."""
        return float(self._select("SELECT coalesce(sum(cost), 0) FROM calls").fetchone()[0])

    def answered(self, kind: str, most: int) -> Iterable[tuple[str, str]]:
        """Up to `most` requests of a kind with their responses, for estimates of token use."""
        return self._select(
            "SELECT request, response FROM calls JOIN requests USING (key) WHERE state = 'done' AND kind = ? LIMIT ?",
            kind,
            most,
        ).fetchall()

    def open_batches(self) -> int:
        """The number of batches that have not been read yet."""
        return int(self._select("SELECT count(*) FROM batches WHERE state = 'open'").fetchone()[0])

    def frozen(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value that is made once and then stored, because later requests are built from it in every run."""
        value = self.thawed(name)
        if value is None:
            value = json.loads(json.dumps(make(), ensure_ascii=False))
            text = json.dumps(value, ensure_ascii=False)
            self._at_once(lambda db: db.execute("INSERT INTO frozen VALUES (?, ?)", (name, text)))
        return value

    def thawed(self, name: str) -> Any:
        """A value stored by `frozen`; None if there is none."""
        row = self._select("SELECT value FROM frozen WHERE name = ?", name).fetchone()
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        """Commit all queued operations, close the database and release the lock."""
        if self.writer:
            self.tasks.put(None)
            self.writer.join()
        self.database.close()
        if self.lock_file is not None:
            self._lock_path().unlink(missing_ok=True)
            os.close(self.lock_file)
            self.lock_file = None

    # ------------------------------------------------------------ writing

    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def _lock(self) -> None:
        while self.lock_file is None:
            descriptor = os.open(self._lock_path(), os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise UserError(
                    f"another run uses the ledger {self.path}: wait for it, or choose another with --ledger"
                ) from error
            # The previous owner may have removed the file between our opening and our locking it.
            if self._lock_path().exists() and os.path.samestat(os.fstat(descriptor), self._lock_path().stat()):
                self.lock_file = descriptor
            else:
                os.close(descriptor)

    def _select(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._at_once(lambda db: db.execute(statement, values))

    def _at_once(self, operation: Operation, *values: Any) -> Any:
        with self.one_at_a_time:
            try:
                return operation(self.database, *values)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._broken(error) from error

    def _broken(self, error: Exception) -> UserError:
        return UserError(f"cannot read or write the ledger {self.path} ({error}): fix the cause and run this again")

    async def _grouped(self, operation: Operation, *values: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._enqueue(operation, values, future)
        return await future

    def _enqueue(self, operation: Operation, values: tuple[Any, ...], future: asyncio.Future[Any] | None) -> None:
        if self.writer is None:
            self.writer = threading.Thread(target=self._write, name="ledger", daemon=True)
            self.writer.start()
        self.tasks.put((operation, values, future))

    def _write(self) -> None:
        """Until `close`: take the queued operations, commit once, and notify the waiting tasks."""
        stop = False
        while not stop:
            group = [self.tasks.get()]
            while len(group) < GROUP and not self.tasks.empty():
                group.append(self.tasks.get())
            stop = None in group
            group = [task for task in group if task]
            results, error = self._commit(group)
            waiting = [(task[2], results[i]) for i, task in enumerate(group) if task[2] is not None]
            if waiting:
                waiting[0][0].get_loop().call_soon_threadsafe(_resolve, waiting, error)

    def _commit(self, group: list[Any]) -> tuple[list[Any], UserError | None]:
        with self.one_at_a_time:
            try:
                self.database.execute("BEGIN IMMEDIATE")
                results = [operation(self.database, *values) for operation, values, _ in group]
                self.database.execute("COMMIT")
                return results, None
            except (sqlite3.Error, UnicodeError) as error:
                # UnicodeError: a text that UTF-8 cannot encode. Without the error, the run would wait forever.
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                return [None] * len(group), self._broken(error)


def _resolve(waiting: list[tuple[asyncio.Future[Any], Any]], error: UserError | None) -> None:
    for future, result in waiting:
        if future.done():  # the waiting task was cancelled
            continue
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _plan(db: sqlite3.Connection, key: str, request: str, kind: str) -> Call:
    row = db.execute("SELECT state, response, batch FROM calls WHERE key = ?", (key,)).fetchone()
    if row:
        return Call(*row)
    db.execute("INSERT INTO calls (key, state, kind) VALUES (?, 'planned', ?)", (key, kind))
    db.execute("INSERT INTO requests VALUES (?, ?)", (key, request))
    return Call("planned", None, None)


def _begin(db: sqlite3.Connection, key: str, cost: float) -> None:
    db.execute(
        "UPDATE calls SET state = 'in flight', attempts = attempts + 1, cost = cost + ?1, reserved = ?1, "
        "response = NULL, batch = NULL WHERE key = ?2",
        (cost, key),
    )


def _finish(db: sqlite3.Connection, key: str, response: str) -> None:
    db.execute("UPDATE calls SET state = 'done', response = ?, batch = NULL WHERE key = ?", (response, key))


def _fail(db: sqlite3.Connection, key: str, state: str) -> None:
    db.execute("UPDATE calls SET state = ?, batch = NULL WHERE key = ?", (state, key))


def _settle(db: sqlite3.Connection, key: str, cost: float) -> None:
    db.execute("UPDATE calls SET cost = cost - reserved + ?, reserved = 0 WHERE key = ?", (cost, key))


def _take_over(db: sqlite3.Connection) -> int:
    # Requests in flight with a batch are not uncertain, because the endpoint will report their outcome.
    return db.execute(
        "UPDATE calls SET state = 'planned', uncertain = uncertain + 1, reserved = 0 "
        "WHERE state = 'in flight' AND batch IS NULL"
    ).rowcount
