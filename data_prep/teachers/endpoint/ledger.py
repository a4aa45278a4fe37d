"""The ledger stores every request to an endpoint and its raw response on disk, so that a rerun pays for nothing twice.

One SQLite file:

    requests   key, request                      the canonical request as compressed JSON, never with an API key
    calls      key, state, kind, attempts, ...   planned → in flight → done, or failed; with the compressed raw response
    batches    name, id, state                   files of requests that an endpoint processes for hours
    frozen     name, value                       values that later requests are built from

The key is the SHA-256 of the canonical request: base URL, model, sampling parameters, seed, messages, and, if present,
JSON schema, prompt hash and sample index. One thread writes: it takes the queued operations, commits once and then
notifies the waiting tasks. Thousands of requests share a commit, and the event loop never waits for a disk.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data_prep.contract.errors import UserError
from data_prep.contract.folders.network_disks import is_on_network
from data_prep.execution.progress import say
from data_prep.teachers.endpoint import ledger_tables
from data_prep.teachers.endpoint.ledger_tables import Call

# Largest number of operations per commit; with more, the first would wait too long.
GROUP = 1000
# Wait for another program's lock before the first line about it, and between two lines.
BUSY_SECONDS, SECONDS_BETWEEN_LINES = 5.0, 60.0
# Primary result codes of SQLite for a database that another program has locked.
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)

T = TypeVar("T")


def canonical(request: Mapping[str, Any]) -> str:
    """The canonical JSON of a request, independent of the order of its fields."""
    return json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def request_key(request: Mapping[str, Any]) -> str:
    return key_of(canonical(request))


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def real_file(path: Path) -> Path:
    """The file that a ledger's path leads to, behind symbolic links, so that one ledger has one lock.

    Raises UserError for a file with several names: SQLite keeps what it has not yet moved into the file under a name
    that is derived from the file's, and would not find it under another.
    """
    try:
        file = path.resolve()
        names = file.stat().st_nlink if file.is_file() else 1
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UserError(
            f"cannot use {path} as the ledger of requests ({error}): choose another with --ledger"
        ) from error
    if names > 1:
        raise UserError(
            f"the ledger {path} has {names} names on its disk (hard links), under which replies would be lost: "
            "make a copy of it, and name the copy with --ledger"
        )
    return file


Operation = Callable[..., Any]  # a function of the database connection and further arguments


class Ledger:
    """The requests of one run. It survives kill -9 and a power cut, because each step is on the disk before the next.

    A lock of another program, such as a backup, is waited for as long as it lasts, because replies are paid for.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, real_file(path)
        self.lock_file: int | None = None
        self.lease = b""  # what this process wrote into the lock file
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.writer: threading.Thread | None = None
        # Guards the only connection, which the writing thread and the caller's thread share.
        self.one_at_a_time = threading.RLock()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(
                self.file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            ledger_tables.add_functions(self.database)
            self._patiently(self._open)
        except (OSError, sqlite3.Error, ValueError) as error:
            if hasattr(self, "database"):
                self.database.close()  # its lock would keep the next user of the file waiting
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"cannot use {path} as the ledger of requests ({error}): choose another with --ledger"
            ) from error

    def _open(self) -> None:
        # NORMAL would leave the last commits, which may be minutes of paid replies, to a power cut. EXTRA is FULL in
        # WAL mode; without it, a power cut could undo the switch to that mode, and with it everything.
        self.database.execute("PRAGMA synchronous=EXTRA")
        self.database.execute("PRAGMA fullfsync=1")  # macOS: through the disk's own cache
        if is_on_network(self.file):
            # WAL keeps an index in memory that hosts do not share; one process alone needs none of it.
            self.database.execute("PRAGMA locking_mode=EXCLUSIVE")
        self.database.execute("PRAGMA journal_mode=WAL")
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        if version > ledger_tables.VERSION:
            raise UserError(
                f"{self.path} is a ledger of layout {version}, this version reads up to {ledger_tables.VERSION}: "
                "update asclepius-jax, or choose another with --ledger"
            )
        tables = {row[0] for row in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        migration = ledger_tables.FROM_VERSION_1 if "requests" in tables and "calls" not in tables else ""
        if version < ledger_tables.VERSION:
            self.database.executescript(
                f"BEGIN IMMEDIATE; {ledger_tables.SCHEMA} {migration} "
                f"PRAGMA user_version = {ledger_tables.VERSION}; COMMIT"
            )

    # ------------------------------------------------------------ requests, one at a time or grouped

    async def plan(self, key: str, request: str, kind: str) -> Call:
        """Record a request that is to be sent, or return its state if it is known. `request` is its canonical JSON."""
        return await self.grouped(ledger_tables.plan, key, request, kind)

    async def begin(self, key: str, cost: float = 0.0) -> bool:
        """Commit a request as in flight, and the upper bound of its cost as spent, before it is sent.

        Returns True if an earlier attempt may have been charged, so that the request may be paid for twice.
        """
        return await self.grouped(ledger_tables.begin, key, cost)

    async def take_back(self, key: str) -> None:
        """Undo `begin`: the endpoint refused the request by itself or was never reached, so it charged nothing."""
        await self.grouped(ledger_tables.take_back, key)

    async def finish(self, key: str, response: str) -> None:
        """Commit the raw response, before anything parses it."""
        await self.grouped(ledger_tables.finish, key, response)

    async def fail(self, key: str) -> bool:
        """Give a request up until the next run; True if its last attempt may have been charged."""
        return await self.grouped(ledger_tables.fail, key)

    def settle(self, key: str, cost: float) -> None:
        """Replace the upper bound of an attempt's cost by its actual cost, without waiting for the commit."""
        self._enqueue(ledger_tables.settle, (key, cost), None)

    async def grouped(self, operation: Operation, *values: Any) -> Any:
        """Run an operation on the database in the writing thread, within its next commit."""
        future = asyncio.get_running_loop().create_future()
        self._enqueue(operation, values, future)
        return await future

    # ------------------------------------------------------------ the whole ledger

    def take_over(self) -> int:
        """Lock the ledger for this process; the number of requests that were in flight when an earlier run died.

        These requests may be paid for twice, because they are sent again when needed. Raises UserError if another run
        uses the ledger.
        """
        self._lock()
        return self._at_once(ledger_tables.take_over)

    def response(self, key: str) -> str | None:
        """The raw response of an earlier run; None if there is none."""
        row = self._select("SELECT unpacked(response) FROM calls WHERE key = ? AND state = 'done'", key).fetchone()
        return row[0] if row else None

    def counts(self) -> dict[str, int]:
        """The number of requests in each state."""
        return dict(self._select("SELECT state, count(*) FROM calls GROUP BY state").fetchall())

    def uncertain(self) -> int:
        """The number of attempts that may have been charged without a usable reply, and may have been paid for twice.

        They were in flight when runs died, timed out, were answered by a gateway, or got a reply that is no use.
        """
        return int(self._select("SELECT coalesce(sum(uncertain), 0) FROM calls").fetchone()[0])

    def spent(self) -> float:
        """The cost of all runs in USD: replies by their usage, other requests at their upper bounds."""
        return float(self._select("SELECT coalesce(sum(cost), 0) FROM calls").fetchone()[0])

    def answered(self, kind: str, most: int) -> Iterable[tuple[str, str]]:
        """Up to `most` requests of a kind with their responses, for estimates of token use."""
        return self._select(
            "SELECT unpacked(request), unpacked(response) FROM calls JOIN requests USING (key) "
            "WHERE state = 'done' AND kind = ? LIMIT ?",
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

    def identity(self) -> str:
        """A name of this ledger, which a copy of it at another place does not share."""
        number = self.frozen("ledger", lambda: uuid.uuid4().hex)
        return hashlib.sha256(f"{number} {self.file}".encode()).hexdigest()[:32]

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
            with contextlib.suppress(UserError):
                self._check_lease()
                self._lock_path().unlink(missing_ok=True)
            os.close(self.lock_file)
            self.lock_file = None

    # ------------------------------------------------------------ writing

    def _lock_path(self) -> Path:
        return self.file.with_name(f"{self.file.name}.lock")

    def _lock(self) -> None:
        while self.lock_file is None:
            try:
                descriptor = os.open(self._lock_path(), os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise self._broken(error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise UserError(
                    f"another run uses the ledger {self.path}: wait for it, or choose another with --ledger"
                ) from error
            # The previous owner may have removed the file between our opening and our locking it.
            if self._lock_path().exists() and os.path.samestat(os.fstat(descriptor), self._lock_path().stat()):
                self.lock_file, self.lease = descriptor, uuid.uuid4().hex.encode()
                os.ftruncate(descriptor, 0)
                os.write(descriptor, self.lease)
            else:
                os.close(descriptor)

    def _check_lease(self) -> None:
        """Raise UserError if another process has taken the ledger over, as it may on a disk that hosts share.

        A file server drops the locks of a host that it believes dead. If the host wakes up, its run must not go on
        writing what another one now writes.
        """
        if not self.lease:
            return
        try:
            lease = self._lock_path().read_bytes()
        except OSError:
            lease = b""
        if lease != self.lease:
            raise UserError(
                f"another run has taken over the ledger {self.path}, because this one seemed dead: it ends, and loses "
                "nothing that was committed"
            )

    def _select(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._at_once(lambda db: db.execute(statement, values))

    def _at_once(self, operation: Operation, *values: Any) -> Any:
        def run() -> Any:
            with self.one_at_a_time:
                return operation(self.database, *values)

        try:
            return self._patiently(run)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._broken(error) from error

    def _patiently(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is repeated for as long as another program locks the database."""
        started, next_line = time.monotonic(), 0.0
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
            waited = time.monotonic() - started
            if waited >= next_line:
                next_line = waited + SECONDS_BETWEEN_LINES
                say(
                    f"the ledger {self.path} is locked by another program (a backup?): waiting until it is released, "
                    f"for {waited:.0f} s so far; replies are kept, and nothing more is sent"
                )

    def _broken(self, error: Exception) -> UserError:
        return UserError(f"cannot read or write the ledger {self.path} ({error}): fix the cause and run this again")

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
            outcomes = self._commit(group)
            waiting = [(task[2], outcomes[i]) for i, task in enumerate(group) if task[2] is not None]
            if waiting:
                waiting[0][0].get_loop().call_soon_threadsafe(_resolve, waiting)

    def _commit(self, group: list[Any]) -> list[Any]:
        """The result of each operation, or its error. One that fails leaves the others as they are."""
        try:
            return self._patiently(lambda: self._transaction(group))
        except UserError as error:
            return [error] * len(group)
        except sqlite3.Error as error:
            if len(group) == 1:
                return [self._broken(error)]
        # The transaction failed as a whole, as on a full disk, where the smaller operations may still succeed.
        return [outcome for task in group for outcome in self._commit([task])]

    def _transaction(self, group: list[Any]) -> list[Any]:
        with self.one_at_a_time:
            try:
                self.database.execute("BEGIN IMMEDIATE")
                self._check_lease()  # only now: this process may have slept before it
                outcomes = [self._in_savepoint(operation, values) for operation, values, _ in group]
                self.database.execute("COMMIT")
                return outcomes
            finally:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")

    def _in_savepoint(self, operation: Operation, values: tuple[Any, ...]) -> Any:
        """The result of an operation, or its error after its changes were undone."""
        self.database.execute("SAVEPOINT operation")
        try:
            outcome = operation(self.database, *values)
        except Exception as error:  # one that ended this thread would let the run wait for ever
            if not self.database.in_transaction or is_locked(error):
                raise  # SQLite has undone the whole transaction, or it has to be repeated
            self.database.execute("ROLLBACK TO operation")
            # UnicodeError: a text that UTF-8 cannot encode.
            outcome = self._broken(error) if isinstance(error, sqlite3.Error | UnicodeError) else error
        self.database.execute("RELEASE operation")
        return outcome


def is_locked(error: Exception) -> bool:
    """Return True if another program has locked the database, which passes."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in LOCKED


def _resolve(waiting: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in waiting:
        if future.done():  # the waiting task was cancelled
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
