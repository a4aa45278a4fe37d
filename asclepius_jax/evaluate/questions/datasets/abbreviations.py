"""Abbreviations in context with their right long forms, from a CSV with these columns:

    abbreviation,sense,text                   optional: note_id, others
    MS,multiple sclerosis,"... MS since 2004, on interferon ..."

`sense` and `others` may contain several forms, separated by "|": spellings of the right sense, and senses that the
abbreviation has elsewhere. Without `others`, these are the abbreviation's senses in other rows of the table.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asclepius_jax.evaluate.questions.datasets.references import dump, normal
from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.reading.source_files import stem_of

LAYOUT = "a CSV with the columns abbreviation, sense, text"


class Use(NamedTuple):
    """An abbreviation in one text."""

    id: str
    note_id: str
    abbreviation: str
    senses: tuple[str, ...]
    others: tuple[str, ...]
    text: str


def forms(cell: str) -> tuple[str, ...]:
    return tuple(form.strip() for form in cell.split("|") if form.strip())


def questions(source: Path, seed: int) -> Iterator[Question]:
    uses, stem = [], stem_of(source)
    for number, row in enumerate(rows(source, ("abbreviation", "sense", "text"), LAYOUT), 1):
        if not forms(row["sense"]) or not row["abbreviation"].strip():
            raise UserError(f"{source.name}: record {number} is missing its abbreviation or sense")
        note_id = row.get("note_id") or f"{stem}-{number}"
        senses, others = forms(row["sense"]), forms(row.get("others", ""))
        uses.append(Use(f"{stem}-{number}", note_id, row["abbreviation"].strip(), senses, others, row["text"]))
    yield from from_uses(uses, Question("", "", "", "", "", "", "", stem))


def from_uses(uses: list[Use], base: Question) -> Iterator[Question]:
    """Questions about the uses. `base` gives the source, note type and restriction of all of them."""
    inventory: dict[str, set[str]] = {}
    for use in uses:
        inventory.setdefault(use.abbreviation, set()).update(use.senses)
    for use in uses:
        if not re.search(r"(?<!\w)" + re.escape(use.abbreviation) + r"(?!\w)", use.text):
            raise UserError(f"{use.id}: its text does not contain the abbreviation {use.abbreviation!r}")
        same = {normal(sense) for sense in use.senses}
        others = use.others or tuple(sorted(o for o in inventory[use.abbreviation] if normal(o) not in same))
        yield Question(
            id=f"{use.id}-abbreviation",
            note_id=use.note_id,
            task="Abbreviation Expansion",
            note=use.text,
            instruction=f'What does "{use.abbreviation}" stand for in this note? Answer with its long form alone.',
            reference=dump("form", gold=list(use.senses), others=list(others)),
            note_type=base.note_type,
            source=base.source,
            restricted=base.restricted,
        )
