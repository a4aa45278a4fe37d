"""Database of a study, study.sqlite: each rater's items and answers in order, their verdicts, and a log of changes.

A change and its log entry are committed together, before the page says "saved".
"""

import dataclasses
import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.clinicians.verdicts import Draft, Span, is_complete
from data_prep.contract.errors import UserError

DATABASE = "study.sqlite"
VERSION = 3
BUSY_SECONDS = 5.0
# A row of `shown` is one answer shown to one rater, with its label and draft. `kind` is training, scored or repeat.
# Version 2 added the guesses of models, and `closed`: scores cannot change once a rater has seen the models' names.
# Version 3 added the time for which each answer was the current one of its item.
ADDED = {
    2: (
        "CREATE TABLE guesses (rater_id INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL, "
        "item_id INTEGER NOT NULL REFERENCES items, label TEXT NOT NULL, guess TEXT NOT NULL DEFAULT '', "
        "PRIMARY KEY (rater_id, position))",
        "ALTER TABLE raters ADD COLUMN closed INTEGER NOT NULL DEFAULT 0",
    ),
    3: ("ALTER TABLE shown ADD COLUMN seconds REAL NOT NULL DEFAULT 0",),
}
SCHEMA = """
CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE raters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token_hash TEXT NOT NULL UNIQUE);
CREATE TABLE questions (id TEXT PRIMARY KEY, task TEXT NOT NULL, note_type TEXT NOT NULL, note TEXT NOT NULL,
    instruction TEXT NOT NULL);
CREATE TABLE answers (id TEXT PRIMARY KEY, question_id TEXT NOT NULL REFERENCES questions, text TEXT NOT NULL);
CREATE TABLE reference (answer_id TEXT PRIMARY KEY REFERENCES answers, draft TEXT NOT NULL);
CREATE TABLE items (id INTEGER PRIMARY KEY, rater_id INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL,
    question_id TEXT NOT NULL REFERENCES questions, kind TEXT NOT NULL, seconds REAL NOT NULL DEFAULT 0,
    seen REAL NOT NULL DEFAULT 0, UNIQUE (rater_id, position));
CREATE TABLE shown (item_id INTEGER NOT NULL REFERENCES items, label TEXT NOT NULL,
    answer_id TEXT NOT NULL REFERENCES answers, draft TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (item_id, label));
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, rater TEXT NOT NULL,
    position INTEGER NOT NULL, label TEXT NOT NULL, field TEXT NOT NULL, old TEXT NOT NULL, new TEXT NOT NULL,
    origin TEXT NOT NULL);
CREATE TRIGGER log_keeps BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
CREATE TRIGGER log_stays BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
"""


class Busy(UserError):
    """Raised when another program has locked the database."""


@dataclass(frozen=True)
class Shown:
    """One answer shown to one rater."""

    label: str
    answer_id: str
    text: str
    draft: Draft
    seconds: float  # for which the item was visible and this was its current answer


@dataclass(frozen=True)
class Item:
    id: int
    position: int  # 1, 2, ... in this rater's own order
    question_id: str
    kind: str
    seconds: float
    answers: tuple[Shown, ...]

    @property
    def complete(self) -> bool:
        return all(is_complete(answer.draft) for answer in self.answers)


@contextmanager
def transaction(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Transaction that is committed as a whole or not at all.

    Raises UserError if the file is not a study of this version, Busy if another program has locked it."""
    connection = None
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        if 1 <= (version := connection.execute("PRAGMA user_version").fetchone()[0]) < VERSION:
            upgrade(connection, version)
        elif version != VERSION:
            raise UserError(f"{path} has version {version}, but this program reads {VERSION}: set up the study again")
        yield connection
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise Busy(f"{path} is locked by another program: nothing was saved; close it or retry") from error
        if "unable to open" in str(error):
            raise UserError(f"{path} does not exist: set up a study with `asclepius evaluate study`") from error
        raise
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            raise
        raise UserError(f"{path} is not a study: set one up with `asclepius evaluate study`") from error
    finally:
        if connection is not None:
            connection.close()  # rolls back uncommitted changes


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Give an older study what later versions added, within the open transaction: no guesses, no time of answers."""
    for added in range(version + 1, VERSION + 1):
        for statement in ADDED[added]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def create(path: Path) -> None:
    """Create an empty study.

    Uses write-ahead logging: readers never wait for a writer, and a killed process leaves complete commits only."""
    path.touch(mode=0o600)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    upgrade(connection, 1)
    connection.commit()
    connection.close()


def token_hash(token: str) -> str:
    # A token is 32 random bytes, so neither a plain hash nor the lookup time reveals anything about it.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def setting(db: sqlite3.Connection, name: str) -> str:
    return db.execute("SELECT value FROM study WHERE name = ?", (name,)).fetchone()[0]


def add_rater(db: sqlite3.Connection, name: str, token: str, items: list[tuple[str, str, dict[str, str]]]) -> None:
    """Add a rater and their items in order. Each item is (question id, kind, answer ids by label)."""
    rater = db.execute("INSERT INTO raters (name, token_hash) VALUES (?, ?)", (name, token_hash(token)))
    for position, (question, kind, labelled) in enumerate(items, 1):
        values = (rater.lastrowid, position, question, kind)
        row = db.execute("INSERT INTO items (rater_id, position, question_id, kind) VALUES (?, ?, ?, ?)", values)
        for label, answer in labelled.items():
            db.execute("INSERT INTO shown (item_id, label, answer_id) VALUES (?, ?, ?)", (row.lastrowid, label, answer))


def rater_with(db: sqlite3.Connection, token: str) -> sqlite3.Row | None:
    return db.execute("SELECT id, name FROM raters WHERE token_hash = ?", (token_hash(token),)).fetchone()


def question_of(db: sqlite3.Connection, item: Item) -> sqlite3.Row:
    return db.execute("SELECT * FROM questions WHERE id = ?", (item.question_id,)).fetchone()


def items_of(db: sqlite3.Connection, rater_id: int) -> list[Item]:
    """A rater's items in order."""
    answers: dict[int, list[Shown]] = defaultdict(list)
    for row in db.execute(
        "SELECT item_id, label, answer_id, text, draft, seconds FROM shown JOIN answers ON answers.id = answer_id "
        "WHERE item_id IN (SELECT id FROM items WHERE rater_id = ?) ORDER BY item_id, label",
        (rater_id,),
    ):
        draft = draft_of(row["draft"])
        answers[row["item_id"]].append(Shown(row["label"], row["answer_id"], row["text"], draft, row["seconds"]))
    rows = db.execute(
        "SELECT id, position, question_id, kind, seconds FROM items WHERE rater_id = ? ORDER BY position", (rater_id,)
    )
    return [Item(**row, answers=tuple(answers[row["id"]])) for row in rows]


def draft_of(text: str) -> Draft:
    values = json.loads(text)
    return Draft(**{**values, "spans": tuple(Span(**span) for span in values.get("spans", ()))})


def json_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def spans_json(spans: tuple[Span, ...]) -> str:
    return json_of([dataclasses.asdict(span) for span in spans]) if spans else ""


def save(db: sqlite3.Connection, rater: str, item: Item, answer: Shown, draft: Draft, origin: str = "page") -> None:
    """Replace the answer's draft with `draft` and log every field that changed."""
    old, new = dataclasses.asdict(answer.draft), dataclasses.asdict(draft)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    db.execute("UPDATE shown SET draft = ? WHERE item_id = ? AND label = ?", (json_of(new), item.id, answer.label))
    for field in new:
        if new[field] != old[field]:
            before, after = json_of(old[field]), json_of(new[field])
            db.execute(
                "INSERT INTO log (time, rater, position, label, field, old, new, origin) VALUES (?,?,?,?,?,?,?,?)",
                (now, rater, item.position, answer.label, field, before, after, origin),
            )


def opened(db: sqlite3.Connection, item: Item, now: float) -> None:
    db.execute("UPDATE items SET seen = ? WHERE id = ?", (now, item.id))


def add_seconds(db: sqlite3.Connection, item: Item, seconds: Mapping[str, float], now: float) -> None:
    """Add time to an item and to its answers, by label.

    It is at most the time since the last addition, so that two open tabs are not counted twice."""
    given = {label: max(0.0, each) for label, each in seconds.items()}
    total = sum(given.values())
    seen = db.execute("SELECT seen FROM items WHERE id = ?", (item.id,)).fetchone()[0]
    counted = max(0.0, min(total, now - seen))
    db.execute("UPDATE items SET seconds = seconds + ?, seen = ? WHERE id = ?", (counted, now, item.id))
    for label, each in given.items():
        values = (counted * each / total if total else 0.0, item.id, label)
        db.execute("UPDATE shown SET seconds = seconds + ? WHERE item_id = ? AND label = ?", values)
