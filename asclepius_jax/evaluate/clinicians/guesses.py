"""Did blinding work? After the last item, each rater guesses which model wrote each of ten answers.

The page shows the models' names only then, in alphabetical order, and closes the scores first: names that are known
while an answer can still be scored would undo the blinding that they are to test.
"""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asclepius_jax.evaluate.clinicians import store
from asclepius_jax.evaluate.clinicians.store import Item
from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction

ANSWERS = 10  # that each rater guesses at
MODELS = "models"  # setting: JSON list of the models' names, in alphabetical order


@dataclass(frozen=True)
class Guess:
    position: int  # 1, 2, ... among the rater's guesses
    item: int  # position of its item
    label: str
    answer_id: str
    question_id: str
    instruction: str
    text: str
    guess: str  # a model's name; empty if the rater has not guessed yet


def prepare(db: sqlite3.Connection, rater: str, seed: int) -> None:
    """Draw the answers that a rater will guess at: one of each of ten items, of models by chance."""
    row = db.execute("SELECT id FROM raters WHERE name = ?", (rater,)).fetchone()
    items = [item for item in store.items_of(db, row["id"]) if item.kind == "scored"]
    items.sort(key=lambda item: seeded_fraction(seed, "guess", rater, item.question_id))
    for position, item in enumerate(sorted(items[:ANSWERS], key=lambda item: item.position), 1):
        place = int(seeded_fraction(seed, "guessed label", rater, item.question_id) * len(item.answers))
        values = (row["id"], position, item.id, item.answers[place].label)
        db.execute("INSERT INTO guesses (rater_id, position, item_id, label) VALUES (?, ?, ?, ?)", values)


def models_of(db: sqlite3.Connection) -> list[str]:
    """Names to choose from; empty if the study has no guesses."""
    row = db.execute("SELECT value FROM study WHERE name = ?", (MODELS,)).fetchone()
    return json.loads(row["value"]) if row else []


def guesses_of(db: sqlite3.Connection, rater_id: int) -> list[Guess]:
    rows = db.execute(
        "SELECT guesses.position, items.position AS item, guesses.label, answer_id, answers.question_id, instruction, "
        "text, guess FROM guesses JOIN items ON items.id = guesses.item_id "
        "JOIN shown ON shown.item_id = guesses.item_id AND shown.label = guesses.label "
        "JOIN answers ON answers.id = answer_id JOIN questions ON questions.id = answers.question_id "
        "WHERE guesses.rater_id = ? ORDER BY guesses.position",
        (rater_id,),
    )
    return [Guess(**row) for row in rows]


def is_closed(db: sqlite3.Connection, rater_id: int) -> bool:
    """Report whether a rater has seen the models' names, after which scores cannot change."""
    return bool(db.execute("SELECT closed FROM raters WHERE id = ?", (rater_id,)).fetchone()["closed"])


def check_open(db: sqlite3.Connection, rater_id: int) -> None:
    if is_closed(db, rater_id):
        raise UserError("your scores are closed, because you have seen the names of the systems")


def close(db: sqlite3.Connection, rater: sqlite3.Row, items: list[Item], origin: str = "page") -> None:
    """Close a rater's scores, so that the names may be shown. Raises UserError while an item is open."""
    if not all(item.complete for item in items):
        raise UserError("score all items first: the names of the systems are shown after the last one")
    if not is_closed(db, rater["id"]):
        db.execute("UPDATE raters SET closed = 1 WHERE id = ?", (rater["id"],))
        log(db, rater["name"], (0, ""), ("scores", "open", "closed"), origin)


def save(db: sqlite3.Connection, rater: sqlite3.Row, guess: Guess, model: str, origin: str = "page") -> None:
    """Raises UserError if the names have not been shown yet, or if there is no such model."""
    if not is_closed(db, rater["id"]):
        raise UserError("score all items first: the names of the systems are shown after the last one")
    if model not in models_of(db):
        raise UserError(f"guess {model[:40]!r}: must be one of {', '.join(models_of(db))}")
    if model != guess.guess:
        values = (model, rater["id"], guess.position)
        db.execute("UPDATE guesses SET guess = ? WHERE rater_id = ? AND position = ?", values)
        log(db, rater["name"], (guess.item, guess.label), ("guess", guess.guess, model), origin)


def log(db: sqlite3.Connection, rater: str, place: tuple[int, str], change: tuple[str, str, str], origin: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    db.execute(
        "INSERT INTO log (time, rater, position, label, field, old, new, origin) VALUES (?,?,?,?,?,?,?,?)",
        (now, rater, *place, *change, origin),
    )


def unblinded(db: sqlite3.Connection, key: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Every guess that was made, with the model that wrote the answer and the number of models to choose from."""
    choices = len(models_of(db))
    return [
        {
            "rater": rater["name"],
            "question_id": guess.question_id,
            "model": key[guess.answer_id]["model"],
            "guess": guess.guess,
            "choices": choices,
        }
        for rater in db.execute("SELECT id, name FROM raters ORDER BY name").fetchall()
        for guess in guesses_of(db, rater["id"])
        if guess.guess
    ]
