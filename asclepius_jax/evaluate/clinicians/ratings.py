"""Unblind a study: write the raters' verdicts, with model names, as a folder of ratings that includes ratings.csv
and guesses.csv.

asclepius evaluate ratings --study STUDY --key KEY.json --out evaluation/ratings
"""

import csv
import dataclasses
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.clinicians import guesses, store
from asclepius_jax.evaluate.clinicians.sentences import citations
from asclepius_jax.evaluate.clinicians.store import Item, Shown
from asclepius_jax.evaluate.clinicians.verdicts import TREATMENTS, Draft, is_complete, settled_score
from asclepius_jax.evaluate.records import Rating
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import file_hash


@dataclass(frozen=True)
class RatingsConfig:
    study: Path
    """Study folder."""

    key: Path
    """Key file of the study, which gives the model of each answer."""

    out: Path
    """Output folder for the ratings."""


def run(config: RatingsConfig) -> None:
    """Write the ratings of all complete verdicts. Raises UserError for a wrong key or an unscored study."""
    with store.transaction(config.study / store.DATABASE) as db:
        key, restricted = key_of(config.key, store.setting(db, "id"))
        rows = list(counted(db))
        notes = {row["id"]: row["note"] for row in db.execute("SELECT id, note FROM questions")}
        guessed = guesses.unblinded(db, key)
    for _, _, answer in rows:
        if answer.answer_id not in key:
            raise UserError(f"{config.key} is incomplete: answer {answer.answer_id} is missing")
    done = [row for row in rows if is_complete(row[2].draft)]
    ratings = [
        rating_of(rater, item, answer, key[answer.answer_id], notes[item.question_id]) for rater, item, answer in done
    ]
    if not ratings:
        raise UserError(f"{config.study}: nobody has scored an answer yet")
    with writing_folder(config.out, "ratings", {"key": file_hash(config.key)}) as writer:
        writer.counts["in"] = len(rows)
        writer.restricted = restricted
        writer.add_shard(ratings, Rating)
        names = [field.name for field in dataclasses.fields(Rating)]
        table = csv_text(names, ([getattr(rating, name) for name in names] for rating in ratings))
        (writer.path / "ratings.csv").write_text(table, encoding="utf-8", newline="")
        writer.facts["not_scored"] = len(rows) - len(ratings)
        writer.facts["guesses"] = guessed
        (writer.path / "guesses.csv").write_text(
            csv_text(GUESSED, ([guess[name] for name in GUESSED] for guess in guessed)), encoding="utf-8", newline=""
        )
    print(f"{len(ratings)} ratings in {config.out}; {len(rows) - len(ratings)} of {len(rows)} answers are still open")


def key_of(path: Path, study: str) -> tuple[dict[str, dict[str, str]], bool]:
    """The question and model of each answer, and True if the study contains real notes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        answers, key_study, restricted = content["answers"], content["study"], bool(content.get("restricted"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a key file: name the key.json that `asclepius evaluate study` wrote") from error
    if key_study != study:
        raise UserError(f"{path} is the key of another study")
    return answers, restricted


def counted(db: sqlite3.Connection) -> Iterator[tuple[str, Item, Shown]]:
    """Every (rater, item, answer) to score, without the training round."""
    for rater in db.execute("SELECT id, name FROM raters ORDER BY name").fetchall():
        for item in store.items_of(db, rater["id"]):
            if item.kind != "training":
                yield from ((rater["name"], item, answer) for answer in item.answers)


def rating_of(rater: str, item: Item, answer: Shown, key: dict[str, str], note: str) -> Rating:
    if key["question_id"] != item.question_id:
        raise UserError(f"the key is damaged: it assigns answer {answer.answer_id} to another question")
    return Rating(
        rater=rater,
        question_id=item.question_id,
        model=key["model"],
        repeat=int(item.kind == "repeat"),
        seconds=round(item.seconds, 1),
        answer_seconds=round(answer.seconds, 1),
        cites=bool(citations(answer.text, note)),
        **verdict_fields(answer.draft),
    )


def verdict_fields(draft: Draft) -> dict[str, Any]:
    """Fields of a Rating that follow from a complete draft."""
    answerable, recognised = TREATMENTS[draft.treatment or "answered"]
    return {
        "score": settled_score(draft),
        "incorrect": bool(draft.incorrect),
        "omitted": draft.omitted or "",
        "answerable": answerable,
        "recognised": recognised,
        "spans": store.spans_json(draft.spans),
        "comment": draft.comment,
    }


GUESSED = ("rater", "question_id", "model", "guess", "choices")
BLINDED = (
    *("rater", "item", "kind", "question_id", "label", "answer_id", "score", "incorrect", "omitted", "treatment"),
    *("seconds", "answer_seconds", "spans", "comment"),
)


def blinded_csv(db: sqlite3.Connection) -> str:
    """CSV for the administrator: every answer outside the training round, scored or not, without model names."""
    rows = []
    for rater, item, answer in counted(db):
        draft = answer.draft
        score = settled_score(draft) if is_complete(draft) else ""
        incorrect = "" if draft.incorrect is None else "yes" if draft.incorrect else "no"
        verdict = (score, incorrect, draft.omitted or "", draft.treatment or "")
        place = (rater, item.position, item.kind, item.question_id, answer.label, answer.answer_id)
        seconds = (round(item.seconds, 1), round(answer.seconds, 1))
        rows.append((*place, *verdict, *seconds, store.spans_json(draft.spans), draft.comment))
    return csv_text(BLINDED, rows)


def log_csv(db: sqlite3.Connection) -> str:
    rows = db.execute("SELECT * FROM log ORDER BY id")
    return csv_text([column[0] for column in rows.description], rows)


def csv_text(names: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([harmless(value) for value in row] for row in rows)
    return file.getvalue()


def harmless(value: object) -> object:
    """Prefix text that a spreadsheet would run as a formula with an apostrophe, which makes it plain text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
