"""The tables of a ledger, and the operations on a request's row. Each operation is a part of a transaction.

A request is paid for more than once only if it is sent again after an attempt whose outcome is unknown or unusable:
`uncertain` counts these attempts, and `cost` keeps their upper bounds. An attempt that the endpoint refused by itself
is taken back, and leaves no trace in either.
"""

import sqlite3
import zlib
from dataclasses import dataclass

VERSION = 3  # layout 2 has requests and responses as text, which are read as they are
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
# The latest attempt may have been charged: no reply to it is known, or only one that is no use.
MAY_BE_CHARGED = "state IN ('in flight', 'done')"


LEVEL = 3  # of compression: nearly as small as the default level, at half its time


def packed(text: str) -> bytes:
    return zlib.compress(text.encode(), LEVEL)


def unpacked(value: str | bytes | None) -> str | None:
    return zlib.decompress(value).decode() if isinstance(value, bytes) else value


def add_functions(db: sqlite3.Connection) -> None:
    """Let SQL read and write the compressed columns: `packed(text)`, `unpacked(request)`, `unpacked(response)`."""
    for function in (packed, unpacked):
        db.create_function(function.__name__, 1, function, deterministic=True)


@dataclass(frozen=True)
class Call:
    """The state of a request in the ledger."""

    state: str  # "planned", "in flight", "done" or "failed"
    response: str | None
    batch: str | None  # name of the batch that contains it, while in flight


def plan(db: sqlite3.Connection, key: str, request: str, kind: str) -> Call:
    row = db.execute("SELECT state, unpacked(response), batch, kind FROM calls WHERE key = ?", (key,)).fetchone()
    if row is None:
        db.execute("INSERT INTO calls (key, state, kind) VALUES (?, 'planned', ?)", (key, kind))
        db.execute("INSERT INTO requests VALUES (?, packed(?))", (key, request))
        return Call("planned", None, None)
    if kind and not row[3]:  # known only from a batch that was found at the endpoint
        db.execute("UPDATE calls SET kind = ? WHERE key = ?", (kind, key))
        db.execute("INSERT OR IGNORE INTO requests VALUES (?, packed(?))", (key, request))
    return Call(*row[:3])


def begin(db: sqlite3.Connection, key: str, cost: float, batch: str | None = None) -> bool:
    """Begin an attempt; True if the one before may have been charged, so that the request may be paid for twice."""
    uncertain = db.execute(
        f"UPDATE calls SET uncertain = uncertain + 1 WHERE key = ? AND {MAY_BE_CHARGED}", (key,)
    ).rowcount
    db.execute(
        "UPDATE calls SET state = 'in flight', attempts = attempts + 1, cost = cost + ?1, reserved = ?1, batch = ?2, "
        "response = NULL WHERE key = ?3",
        (cost, batch, key),
    )
    return bool(uncertain)


def take_back(db: sqlite3.Connection, key: str) -> None:
    """Undo `begin`: the endpoint refused the attempt by itself, or was never reached."""
    db.execute(
        "UPDATE calls SET state = 'planned', cost = cost - reserved, reserved = 0, batch = NULL WHERE key = ?", (key,)
    )


def finish(db: sqlite3.Connection, key: str, response: str) -> None:
    db.execute("UPDATE calls SET state = 'done', response = packed(?), batch = NULL WHERE key = ?", (response, key))


def settle(db: sqlite3.Connection, key: str, cost: float) -> None:
    db.execute("UPDATE calls SET cost = cost - reserved + ?, reserved = 0 WHERE key = ?", (cost, key))


def fail(db: sqlite3.Connection, key: str) -> bool:
    """Give a request up; True if its last attempt may have been charged."""
    uncertain = db.execute(
        f"UPDATE calls SET uncertain = uncertain + 1 WHERE key = ? AND {MAY_BE_CHARGED}", (key,)
    ).rowcount
    db.execute("UPDATE calls SET state = 'failed', reserved = 0, batch = NULL WHERE key = ?", (key,))
    return bool(uncertain)


def take_over(db: sqlite3.Connection) -> int:
    """Plan the requests again that a dead run left in flight; their number.

    Requests in flight with an open batch are not among them, because the endpoint will report their outcome.
    """
    return db.execute(
        "UPDATE calls SET state = 'planned', uncertain = uncertain + 1, reserved = 0, batch = NULL "
        "WHERE state = 'in flight' AND (batch IS NULL OR batch NOT IN (SELECT name FROM batches WHERE state = 'open'))"
    ).rowcount
