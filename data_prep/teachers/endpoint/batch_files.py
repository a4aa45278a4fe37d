"""The lines of a Batch API's files, and the ledger's operations on batches."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data_prep.teachers.endpoint.replies import one_line
from data_prep.teachers.endpoint.transport import EXHAUSTED, PASSING


@dataclass(frozen=True)
class Row:
    """A line of an output or error file: the raw response, or the reason why there is none."""

    key: str
    raw: str | None = None
    reason: str = ""
    status: int | None = None
    again: bool = True  # without a response: send the request again
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
    return Row(key, None, f"status {status}: {message}" if status else f"{code}: {message}", status, again, fatal)


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


def begin_batch(db: sqlite3.Connection, name: str, costs: Sequence[tuple[float, str, str]]) -> None:
    db.execute("INSERT INTO batches VALUES (?, NULL, 'open')", (name,))
    db.executemany(
        "UPDATE calls SET state = 'in flight', attempts = attempts + 1, cost = cost + ?1, reserved = ?1, batch = ?2, "
        "response = NULL WHERE key = ?3",
        costs,
    )


def enter_id(db: sqlite3.Connection, name: str, batch_id: str) -> None:
    db.execute("UPDATE batches SET id = ? WHERE name = ?", (batch_id, name))


def open_batches(db: sqlite3.Connection) -> list[tuple[str, str | None]]:
    return db.execute("SELECT name, id FROM batches WHERE state = 'open' ORDER BY rowid").fetchall()


def members(db: sqlite3.Connection, name: str) -> list[tuple[str, float]]:
    return db.execute("SELECT key, reserved FROM calls WHERE state = 'in flight' AND batch = ?", (name,)).fetchall()


def finish_rows(db: sqlite3.Connection, answered: Sequence[Row], refused: Sequence[Row]) -> None:
    db.executemany(
        "UPDATE calls SET state = 'done', response = ?, batch = NULL WHERE key = ?",
        [(row.raw, row.key) for row in answered],
    )
    db.executemany(
        "UPDATE calls SET state = ?, batch = NULL, cost = cost - reserved, reserved = 0 WHERE key = ?",
        [("planned" if row.again else "failed", row.key) for row in refused],
    )


def give_back(db: sqlite3.Connection, name: str, unpaid: bool) -> tuple[int, float]:
    """Close a batch, and plan again the requests missing from its files; their number and the refund in USD."""
    missing = members(db, name)
    refund = sum(reserved for _, reserved in missing) if unpaid else 0.0
    db.execute(
        "UPDATE calls SET state = 'planned', batch = NULL, cost = cost - CASE WHEN ? THEN reserved ELSE 0 END, "
        "reserved = 0 WHERE state = 'in flight' AND batch = ?",
        (unpaid, name),
    )
    db.execute("UPDATE batches SET state = 'joined' WHERE name = ?", (name,))
    return len(missing), refund
