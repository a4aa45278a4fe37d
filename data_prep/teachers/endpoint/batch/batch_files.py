"""The lines of a Batch API's files, and the ledger's operations on batches.

A batch of the ledger is open until all of its files are read, then read until they are deleted at the endpoint, and
then joined.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.teachers.endpoint import ledger_tables
from data_prep.teachers.endpoint.replies import one_line
from data_prep.teachers.endpoint.transport import EXHAUSTED, PASSING, is_free


@dataclass(frozen=True)
class Row:
    """A line of an output or error file: the raw response, or the reason why there is none."""

    key: str
    raw: str | None = None
    reason: str = ""
    status: int | None = None
    again: bool = True  # without a response: send the request again
    free: bool = True  # without a response: the endpoint has not charged it
    fatal: bool = False  # without a response: end the run


def read_row(line: bytes) -> Row | None:
    """Parse a line of an output or error file; None if it is unreadable."""
    try:
        row = json.loads(line)
        key = row["custom_id"]
        if not isinstance(key, str):
            return None
        response, error = row.get("response") or {}, row.get("error") or {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return Row(key, json.dumps(body))
        details = (body.get("error") if isinstance(body, dict) else None) or error
        code, message = str(details.get("code") or ""), one_line(details.get("message") or "no reason given")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    status = status if isinstance(status, int) else None
    exhausted = status == 402 or code in EXHAUSTED
    again = status is None or status == 429 or status >= 500 or status in PASSING
    fatal = status in (401, 403, 404) or exhausted
    reason = one_line(f"status {status}: {message}" if status else f"{code}: {message}")
    return Row(key, None, reason, status, again, status is None or is_free(status, json.dumps(body)), fatal)


def read_request(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """Parse a line of an input file to the request's key and body; None if it is unreadable."""
    try:
        row = json.loads(line)
        key, body = row["custom_id"], row["body"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return (key, body) if isinstance(key, str) and isinstance(body, dict) else None


def grouped(file: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    for line in file:
        group.append(line)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


# ---------------------------------------------------------------- operations on the ledger


def begin_batch(db: sqlite3.Connection, name: str, costs: Sequence[tuple[str, float]]) -> int:
    """Commit requests, each with the upper bound of its cost, as in flight with a batch.

    Returns the number of requests of which an earlier attempt may have been charged.
    """
    add_batch(db, name, None, "open")
    return sum(ledger_tables.begin(db, key, cost, name) for key, cost in costs)


def adopt_batch(db: sqlite3.Connection, name: str, batch_id: str, costs: Sequence[tuple[str, float]]) -> int:
    """As `begin_batch`, for a batch at the endpoint that the ledger does not know, nor perhaps its requests.

    Requests that are answered or in flight otherwise keep their state; they are paid for twice.
    """
    add_batch(db, name, batch_id, "open")
    db.executemany("INSERT OR IGNORE INTO calls (key, state) VALUES (?, 'planned')", [(key,) for key, _ in costs])
    uncertain = 0
    for key, cost in costs:
        free = db.execute("SELECT state IN ('planned', 'failed') FROM calls WHERE key = ?", (key,)).fetchone()[0]
        if free:
            uncertain += ledger_tables.begin(db, key, cost, name)
        else:
            db.execute("UPDATE calls SET uncertain = uncertain + 1, cost = cost + ? WHERE key = ?", (cost, key))
            uncertain += 1
    return uncertain


def enter_id(db: sqlite3.Connection, name: str, batch_id: str) -> None:
    db.execute("UPDATE batches SET id = ? WHERE name = ?", (batch_id, name))


def batches(db: sqlite3.Connection) -> list[tuple[str, str | None, str]]:
    """Name, id at the endpoint (None until it is known) and state of all batches, oldest first."""
    return db.execute("SELECT name, id, state FROM batches ORDER BY rowid").fetchall()


def add_batch(db: sqlite3.Connection, name: str, batch_id: str | None, state: str) -> None:
    db.execute("INSERT INTO batches VALUES (?, ?, ?)", (name, batch_id, state))


def set_state(db: sqlite3.Connection, name: str, state: str) -> None:
    db.execute("UPDATE batches SET state = ? WHERE name = ?", (state, name))


def members(db: sqlite3.Connection, name: str) -> list[tuple[str, float]]:
    return db.execute("SELECT key, reserved FROM calls WHERE state = 'in flight' AND batch = ?", (name,)).fetchall()


def finish_rows(db: sqlite3.Connection, answered: Sequence[tuple[Row, float | None]], refused: Sequence[Row]) -> int:
    """Record responses, with their cost or None if it is unknown, and refusals; the number of these perhaps charged."""
    for row, cost in answered:
        assert row.raw is not None
        ledger_tables.finish(db, row.key, row.raw)
        if cost is not None:
            ledger_tables.settle(db, row.key, cost)
    for row in refused:
        if row.free:
            ledger_tables.take_back(db, row.key)
        if not row.again:
            ledger_tables.fail(db, row.key)
        elif not row.free:
            _plan_again(db, "key = ?", row.key)
    return sum(not row.free for row in refused)


def give_back(db: sqlite3.Connection, name: str, unpaid: bool) -> tuple[int, float]:
    """Close a batch, and plan again the requests missing from its files; their number and the refund in USD."""
    missing = members(db, name)
    if unpaid:
        for key, _ in missing:
            ledger_tables.take_back(db, key)
    _plan_again(db, "state = 'in flight' AND batch = ?", name)
    db.execute("UPDATE batches SET state = 'read' WHERE name = ?", (name,))
    return len(missing), sum(reserved for _, reserved in missing) if unpaid else 0.0


def _plan_again(db: sqlite3.Connection, which: str, value: str) -> None:
    """Plan requests again that may have been charged."""
    db.execute(
        f"UPDATE calls SET state = 'planned', uncertain = uncertain + 1, reserved = 0, batch = NULL WHERE {which}",
        (value,),
    )
