"""CASI, the clinical abbreviation sense inventory of the University of Minnesota: snippets of real notes.

    AnonymizedClinicalAbbreviationsAndAcronymsDataSet.txt, separated by "|", in Windows-1252, with or without a header
        abbreviation|long form|as it is written|start|end|section|snippet
        AC|acromioclavicular|AC|54|55|PHYSICAL EXAMINATION|... tenderness over the AC joint ...
    Coreference in its snippets (as annotated by Agrawal et al. 2022), as a CSV with the columns
        text,pronoun,antecedent          one or several right antecedents, separated by "|"

Rows that the annotators marked as unsure, a mistake or common English have no long form and are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.abbreviations import Use, forms, from_uses
from asclepius_jax.evaluate.questions.datasets.annotated_spans import find_words
from asclepius_jax.evaluate.questions.datasets.references import dump
from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.reading.characters import plain_text

FIELDS = 7
NO_SENSE = re.compile(r"unsured? sense|mistake|general english|name", re.IGNORECASE)


def base(note_id: str, text: str) -> Question:
    return Question("", note_id, "", text, "", "", "snippet", "CASI", "", restricted=True)


def abbreviations(source: Path, seed: int) -> Iterator[Question]:
    if not source.is_file():
        raise UserError(f"{source} is not a file: name AnonymizedClinicalAbbreviationsAndAcronymsDataSet.txt")
    uses = []
    with source.open(encoding="cp1252", errors="replace", newline="") as file:
        lines = plain_text(file.read()).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # The snippet is the last field and may itself contain a "|".
        fields = line.split("|", FIELDS - 1)
        if len(fields) < FIELDS:
            raise UserError(f"{source.name}:{number}: {len(fields)} fields; expected {FIELDS}, separated by |")
        short, long, written, start, _, _, text = (field.strip() for field in fields)
        if number == 1 and not start.isdigit():
            continue
        if NO_SENSE.fullmatch(long) or find_words(short, text) == (-1, -1):
            continue
        name = f"casi-{number}"
        uses.append(Use(name, name, written if written in text else short, forms(long), (), text))
    yield from from_uses([use for use in uses if occurs(use)], base("", ""))


def occurs(use: Use) -> bool:
    """Report whether the snippet contains the abbreviation in the same case."""
    return re.search(r"(?<!\w)" + re.escape(use.abbreviation) + r"(?!\w)", use.text) is not None


def coreference(source: Path, seed: int) -> Iterator[Question]:
    for number, row in enumerate(
        rows(source, ("text", "pronoun", "antecedent"), "a CSV of text, pronoun, antecedent"), 1
    ):
        name = f"casi-coreference-{row.get('id') or number}"
        antecedents = forms(row["antecedent"])
        if not antecedents or any(find_words(form, row["text"]) == (-1, -1) for form in antecedents):
            raise UserError(f"{source.name}: record {number}: its text does not contain the antecedent")
        note = base(name, row["text"])
        instruction = f'What does "{row["pronoun"].strip()}" stand for in this note? Answer in the words of the note.'
        reference = dump("form", gold=list(antecedents), others=[])
        yield replace(
            note, id=f"{name}-same", task="Coreference Resolution", instruction=instruction, reference=reference
        )
