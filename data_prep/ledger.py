"""Every request to a paid endpoint and its raw response, on disk: a run that is started again pays for nothing twice.

One SQLite file, one row a request:

    key TEXT PRIMARY KEY    hash of the canonical request: base URL, model, sampling parameters, seed, messages
    request TEXT            that request as JSON; it never holds an API key
    response TEXT           the body as it came, or NULL while the request is in flight
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.records import UserError

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, request TEXT NOT NULL, response TEXT);
CREATE TABLE IF NOT EXISTS frozen (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def canonical(request: Mapping[str, Any]) -> str:
    """One spelling for equal requests, whatever the order of their fields."""
    return json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Ledger:
    """The requests of one run. Safe against kill -9 at any point: each step is committed before the next begins."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(path, timeout=60, isolation_level=None)
            # NORMAL in WAL mode survives a killed process; a power cut may cost the last responses, not the file.
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cannot use {path} as the ledger of requests ({error}): name another with --ledger"
            ) from error

    def response(self, key: str) -> str | None:
        """The raw response of an earlier run; None where there is none, also if the request was in flight at a kill."""
        row = self._execute("SELECT response FROM requests WHERE key = ?", key).fetchone()
        return row[0] if row else None

    def begin(self, request: Mapping[str, Any]) -> str:
        """Commit a request as in flight, before it is sent; the key under which `finish` enters its response."""
        text = canonical(request)
        key = request_key(request)
        self._execute("INSERT INTO requests VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET response = NULL", key, text)
        return key

    def finish(self, key: str, response: str) -> None:
        """Commit the raw response, before anything parses it."""
        self._execute("UPDATE requests SET response = ? WHERE key = ?", response, key)

    def in_flight(self) -> int:
        """How many requests were sent, or about to be, and have no response."""
        return int(self._execute("SELECT count(*) FROM requests WHERE response IS NULL").fetchone()[0])

    def frozen(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value that is made once and stays: what later requests are built from must not move between runs."""
        row = self._execute("SELECT value FROM frozen WHERE name = ?", name).fetchone()
        if row is None:
            value = json.dumps(make(), ensure_ascii=False)
            self._execute("INSERT INTO frozen VALUES (?, ?)", name, value)
            return json.loads(value)
        return json.loads(row[0])

    def close(self) -> None:
        self.database.close()

    def _execute(self, statement: str, *values: str) -> sqlite3.Cursor:
        try:
            return self.database.execute(statement, values)
        except sqlite3.Error as error:
            raise UserError(
                f"the ledger {self.path} cannot be written or read ({error}): mend that and run again"
            ) from error


def request_key(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(request).encode()).hexdigest()
