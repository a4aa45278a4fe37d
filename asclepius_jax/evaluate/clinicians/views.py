"""Render the templates of the page and the forms. The template engine escapes all values."""

import sqlite3
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from asclepius_jax.evaluate.clinicians import store
from asclepius_jax.evaluate.clinicians.guesses import Guess
from asclepius_jax.evaluate.clinicians.sentences import citations, numbered
from asclepius_jax.evaluate.clinicians.store import Item, Shown
from asclepius_jax.evaluate.clinicians.verdicts import (
    SEVERITIES,
    SPAN_TYPES,
    TREATMENTS,
    Draft,
    is_complete,
    pieces,
    score_text,
    settled_score,
)
from asclepius_jax.evaluate.judge.rubric import MEANINGS, OMISSIONS, SCORES

# The three questions: field, text, and (value, words) of each choice. Keys 1 to 9 select the choices in this order.
QUESTIONS = (
    (
        "incorrect",
        "Does it say anything incorrect, or irrelevant to the instruction?",
        (("no", "No"), ("yes", "Yes")),
    ),
    (
        "omitted",
        "Does it leave out anything that the note contains and the instruction asks for?",
        tuple(zip(OMISSIONS, ("Nothing", "Minor things only", "Something significant"), strict=True)),
    ),
    (
        "treatment",
        "Can the note answer the instruction, and does the answer act accordingly?",
        tuple(
            zip(
                TREATMENTS,
                (
                    "Yes, and it answers",
                    "Yes, but it says that it cannot",
                    "No, and it says so",
                    "No, but it answers",
                ),
                strict=True,
            )
        ),
    ),
)
CHOICES = tuple((field, value) for field, _, choices in QUESTIONS for value, _ in choices)
SHORTCUTS = (
    ("1 – 9", "choose that option for the current answer"),
    ("0", "cannot judge, on or off"),
    ("Enter", "next open answer, then the next item"),
    ("j  k", "next, previous answer"),
    ("n  p", "next, previous item"),
    ("m", "mark a hallucination: arrows move by words, Shift extends; Enter, then type and severity; Esc cancels"),
    ("c", "comment"),
    ("/", "search in the note: Enter next, Shift Enter previous, Esc closes"),
    ("Enter, Space", "on a number in brackets: show the sentence of the note that it cites; Esc goes back"),
    ("?", "show these keys"),
)


def exact(text: str) -> Markup:
    """Escaped text with carriage returns as entities.

    Browsers turn plain carriage returns into line feeds or drop them, which would shift the places that follow."""
    return escape(text).replace("\r", Markup("&#13;"))


environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(exact=exact, score_text=score_text, numbered=numbered)
environment.globals.update(
    scores=SCORES,
    meanings=MEANINGS,
    questions=QUESTIONS,
    choices=CHOICES,
    treatments=TREATMENTS,
    shortcuts=SHORTCUTS,
    span_types=SPAN_TYPES,
    severities=SEVERITIES,
    pieces=pieces,
    citations=citations,
    settled_score=settled_score,
    is_complete=is_complete,
)


def shown(template: str, values: dict[str, Any], status: int = 200) -> Response:
    return HTMLResponse(environment.get_template(template).render(values), status)


def message(text: str, status: int) -> Response:
    return shown("message.html", {"text": text}, status)


def next_open(items: list[Item]) -> int | None:
    return next((item.position for item in items if not item.complete), None)


def start_page(token: str, rater: str, items: list[Item], guesses: list[Guess], closed: bool) -> Response:
    done = sum(item.complete for item in items)
    begun = any(answer.draft != Draft() for item in items for answer in item.answers)
    training_open = any(item.kind == "training" and not item.complete for item in items)
    progress = {"done": done, "begun": begun, "next_open": next_open(items), "training_open": training_open}
    guessing = {"guesses": len(guesses), "guessed": sum(bool(guess.guess) for guess in guesses), "closed": closed}
    return shown("start.html", {"token": token, "rater": rater, "items": items, **progress, **guessing})


def guess_page(token: str, rater: str, guesses: list[Guess], models: list[str]) -> Response:
    return shown("guess.html", {"token": token, "rater": rater, "guesses": guesses, "models": models})


def guess_forms(raters: list[tuple[str, list[Guess]]], models: list[str]) -> str:
    return environment.get_template("guess_paper.html").render(raters=raters, models=models)


def reference_of(db: sqlite3.Connection, item: Item) -> dict[str, Draft]:
    """Reference verdicts of a training item, by answer id."""
    if item.kind != "training":
        return {}
    found = {}
    for answer in item.answers:
        row = db.execute("SELECT draft FROM reference WHERE answer_id = ?", (answer.answer_id,)).fetchone()
        if row:
            found[answer.answer_id] = store.draft_of(row["draft"])
    return found


def item_page(
    token: str, items: list[Item], item: Item, question: sqlite3.Row, reference: dict[str, Draft]
) -> Response:
    done = sum(other.complete for other in items)
    here = {"items": items, "item": item, "question": question, "reference": reference, "done": done}
    return shown("item.html", {"token": token, **here})


def after_change(
    items: list[Item], item: Item, label: str, question: sqlite3.Row, reference: dict[str, Draft]
) -> dict[str, Any]:
    """Values with which the page's script updates the page after a change."""
    answer = next(answer for answer in item.answers if answer.label == label)
    score = settled_score(answer.draft)
    parts: Any = environment.get_template("answer.html").module
    return {
        "score": score,
        "score_text": score_text(score),
        "complete": is_complete(answer.draft),
        "item_complete": item.complete,
        "done": sum(other.complete for other in items),
        "text": parts.marked(answer, question["note"]),
        "marks": parts.marks(answer),
        "feedback": parts.feedback(answer, reference.get(answer.answer_id)) if item.kind == "training" else "",
    }


def differences(draft: Draft, reference: Draft) -> list[str]:
    """The reference's choices on the questions on which it differs from the rater."""
    found = []
    for field, _, choices in QUESTIONS:
        by_rater, by_reference = getattr(draft, field), getattr(reference, field)
        if by_rater != by_reference and by_reference is not None:
            value = {True: "yes", False: "no"}.get(by_reference, by_reference)
            found.append(dict(choices)[value])
    return found


def administration_page(db: sqlite3.Connection, token: str) -> Response:
    raters = []
    for rater in db.execute("SELECT id, name FROM raters ORDER BY name").fetchall():
        items = store.items_of(db, rater["id"])
        training = [item for item in items if item.kind == "training"]
        scored = [item for item in items if item.kind != "training"]
        done = [item for item in scored if item.complete]
        # An answer that is seen again is read faster, and counts in the agreement with oneself only.
        first = [item for item in scored if item.kind != "repeat"]
        seconds = sorted(item.seconds for item in first if item.complete)
        last = db.execute("SELECT max(time) FROM log WHERE rater = ?", (rater["name"],)).fetchone()[0]
        answers: list[Shown] = [answer for item in first for answer in item.answers]
        raters.append(
            {
                "name": rater["name"],
                "training": (sum(item.complete for item in training), len(training)),
                "scored": (len(done), len(scored)),
                "cannot_judge": sum(answer.draft.cannot_judge for answer in answers),
                "median_seconds": seconds[len(seconds) // 2] if seconds else None,
                "last": last,
            }
        )
    log = db.execute("SELECT * FROM log ORDER BY id DESC LIMIT 50").fetchall()
    return shown("administration.html", {"token": token, "raters": raters, "log": log})


def paper_page(db: sqlite3.Connection, raters: list[tuple[str, list[Item]]]) -> str:
    """Printable forms of all items that are not scored yet."""
    left = [
        (rater, [(item, store.question_of(db, item)) for item in items if not item.complete]) for rater, items in raters
    ]
    return environment.get_template("paper.html").render(raters=left)


environment.globals.update(differences=differences)
