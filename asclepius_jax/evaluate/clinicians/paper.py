"""Scoring on paper: print forms, and enter the results as a table.

asclepius evaluate paper --study STUDY --out forms.html     forms to print, with notes, answers and boxes to tick
asclepius evaluate paper --study STUDY --out forms.csv      table to fill in from the forms, one row per answer
asclepius evaluate paper --study STUDY --back-in forms.csv  enter all rows, or none if one of them is invalid
asclepius evaluate paper --study STUDY --guesses --out guesses.html  once a rater has scored all items

    rater,item,answer,incorrect,omitted,treatment,score,comment
    Dr Ito,3,A,no,minor,answered,,"one dose is missing"
    Dr Ito,3,B,,,,0,"I do not know this drug"

The score is optional, because it follows from the three answers. If given, it must match them; 0 is "cannot judge".
"""

import csv
import io
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asclepius_jax.evaluate.clinicians import guesses, store
from asclepius_jax.evaluate.clinicians.ratings import csv_text
from asclepius_jax.evaluate.clinicians.store import Item, Shown
from asclepius_jax.evaluate.clinicians.verdicts import Draft, changed, is_complete, score_text, settled_score
from asclepius_jax.evaluate.judge.rubric import SCORES
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably

PLACE = ("rater", "item", "answer")
VERDICT = ("incorrect", "omitted", "treatment", "score", "comment")


@dataclass(frozen=True)
class PaperConfig:
    study: Path
    """Study folder."""

    out: Path | None = None
    """Forms to write: .html to print, .csv to fill in."""

    back_in: Path | None = None
    """Filled-in .csv to enter."""

    guesses: bool = False
    """Write, or enter, the forms on which raters guess which model wrote an answer, with the columns rater, item,
    answer and guess. They name the models, so only raters who have scored all items get one, and their scores are
    closed."""


def run(config: PaperConfig) -> None:
    """Write forms or enter filled-in ones. Raises UserError for invalid options or rows."""
    if (config.out is None) == (config.back_in is None):
        raise UserError("give one of --out FORMS.html, --out FORMS.csv and --back-in FORMS.csv")
    database = config.study / store.DATABASE
    if config.guesses:
        run_guesses(config, database)
        return
    if config.out is not None:
        with store.transaction(database) as db:
            write_durably(config.out, forms(db, config.out))
        print(f"Forms written to {config.out}, without answers that are already scored on the page")
    if config.back_in is not None:
        with store.transaction(database, write=True) as db:
            count = enter(db, config.back_in)
        print(f"{count} answers entered from {config.back_in}")


def forms(db: sqlite3.Connection, out: Path) -> str:
    if out.suffix not in (".html", ".csv"):
        raise UserError(f"--out {out}: it must end in .html or .csv")
    if out.suffix == ".html":
        from asclepius_jax.evaluate.clinicians.views import paper_page

        raters = db.execute("SELECT id, name FROM raters ORDER BY name").fetchall()
        return paper_page(db, [(row["name"], store.items_of(db, row["id"])) for row in raters])
    rows = [
        (rater, item.position, answer.label, *[""] * len(VERDICT))
        for (rater, _, _), (item, answer) in places_of(db).items()
        if answer.draft == Draft()
    ]
    return csv_text((*PLACE, *VERDICT), rows)


def run_guesses(config: PaperConfig, database: Path) -> None:
    """Write the forms for guessing, or enter them."""
    with store.transaction(database, write=True) as db:
        raters = db.execute("SELECT id, name FROM raters ORDER BY name").fetchall()
        made = {rater["name"]: (rater, guesses.guesses_of(db, rater["id"])) for rater in raters}
        if not any(found for _, found in made.values()):
            raise UserError(
                f"{config.study}: the study has no guesses; set it up with --guesses and two or more models"
            )
        if config.back_in is not None:
            print(f"{enter_guesses(db, config.back_in, made)} guesses entered from {config.back_in}")
            return
        assert config.out is not None
        if config.out.suffix not in (".html", ".csv"):
            raise UserError(f"--out {config.out}: it must end in .html or .csv")
        items = {name: store.items_of(db, rater["id"]) for name, (rater, _) in made.items()}
        done = [name for name in made if all(item.complete for item in items[name])]
        if not done:
            raise UserError("no rater has scored all items: the models' names are shown after the last one")
        for name in done:
            guesses.close(db, made[name][0], items[name], "paper")
        if config.out.suffix == ".html":
            from asclepius_jax.evaluate.clinicians.views import guess_forms

            text = guess_forms([(name, made[name][1]) for name in done], guesses.models_of(db))
        else:
            rows = [(name, g.item, g.label, g.guess) for name in done for g in made[name][1]]
            text = csv_text((*PLACE, "guess"), rows)
        write_durably(config.out, text)
    print(f"Forms of {', '.join(done)} written to {config.out}; their scores are closed")


def enter_guesses(db: sqlite3.Connection, path: Path, made: dict[str, tuple[sqlite3.Row, list[guesses.Guess]]]) -> int:
    """Enter all guesses of a table, or none if one of them is invalid."""
    count = 0
    for number, row in rows_of(path, ("guess",)):
        if not row["guess"]:
            continue
        where = f"{path} row {number}"
        name, item, label = place_of(row, where)
        rater, found = made.get(name, (None, []))
        guess = next((each for each in found if (each.item, each.label) == (item, label)), None)
        if rater is None or guess is None:
            raise UserError(f"{where}: {row['rater']!r} has no guess at answer {row['answer']} of item {row['item']}")
        try:
            guesses.save(db, rater, guess, row["guess"], "paper")
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        count += 1
    if not count:
        raise UserError(f"{path}: no row is filled in")
    return count


def places_of(db: sqlite3.Connection) -> dict[tuple[str, int, str], tuple[Item, Shown]]:
    """Every answer shown to every rater, by (rater, item, answer label) as in the table."""
    return {
        (rater["name"], item.position, answer.label): (item, answer)
        for rater in db.execute("SELECT id, name FROM raters ORDER BY name").fetchall()
        for item in store.items_of(db, rater["id"])
        for answer in item.answers
    }


def enter(db: sqlite3.Connection, path: Path) -> int:
    places, seen = places_of(db), dict[tuple[str, int, str], int]()
    for number, row in rows_of(path):
        if not any(row[name] for name in VERDICT):
            continue  # not filled in
        where = f"{path} row {number}"
        place = place_of(row, where)
        if place not in places:
            raise UserError(f"{where}: no answer {row['answer']} in item {row['item']} of {row['rater']!r}")
        if place in seen:
            raise UserError(f"{where}: duplicate verdict on the answer of row {seen[place]}")
        item, answer = places[place]
        if answer.draft != Draft():
            raise UserError(f"{where}: answer {place[2]} of item {place[1]} is already scored on the page")
        seen[place] = number
        store.save(db, place[0], item, answer, verdict_of(row, answer, where), "paper")
    if not seen:
        raise UserError(f"{path}: no row is filled in")
    return len(seen)


def rows_of(path: Path, wanted: tuple[str, ...] = VERDICT) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, row), numbered as in a spreadsheet, where the heading is row 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from error
    heading = text.partition("\n")[0]
    # Spreadsheets separate by semicolons in countries with a decimal comma.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in heading else ",", strict=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    if missing := [name for name in (*PLACE, *wanted) if name not in names and name not in ("score", "comment")]:
        raise UserError(f"{path} lacks the column {', '.join(missing)}: write the table with --out FORMS.csv")
    reader.fieldnames = names
    try:
        for number, row in enumerate(reader, 2):
            if None in row or None in row.values():
                raise UserError(f"{path} row {number}: the number of cells differs from the heading")
            yield number, {name: row.get(name, "").strip() for name in (*PLACE, *wanted)}
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from error


def place_of(row: dict[str, str], where: str) -> tuple[str, int, str]:
    if not (row["item"].isascii() and row["item"].isdigit()):
        raise UserError(f"{where}: item {row['item']!r} is not a number")
    return row["rater"], int(row["item"]), row["answer"].upper()


def verdict_of(row: dict[str, str], answer: Shown, where: str) -> Draft:
    score = row.pop("score")
    if score not in ("", "0", *map(str, SCORES)):
        raise UserError(f"{where}: score {score!r} is off the scale: 1 to 4, or 0 for cannot judge")
    fields = {name: value if name == "comment" else value.lower() for name, value in row.items()}
    try:
        draft = changed(Draft(), answer.text, {**fields, "cannot_judge": "yes" if score == "0" else "no"})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if not is_complete(draft):
        raise UserError(f"{where}: give incorrect, omitted and treatment, or the score 0 for cannot judge")
    if score and int(score) != settled_score(draft):
        settled = settled_score(draft)
        raise UserError(f"{where}: score {score}, but the three answers give {settled} {score_text(settled)}")
    return draft
