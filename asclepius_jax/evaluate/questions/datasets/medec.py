"""MEDEC: clinical texts of numbered sentences, half of them with one planted medical error, as a CSV with the columns

    Text ID, Sentences, Error Flag, Error Type, Error Sentence ID, Corrected Sentence

`Sentences` has one line per sentence, which begins with its number.
"""

from collections.abc import Iterator
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.references import dump
from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError

COLUMNS = ("Text ID", "Sentences", "Error Flag", "Error Type", "Error Sentence ID", "Corrected Sentence")
TASK = "Error Detection"
INSTRUCTION = (
    "At most one of the numbered sentences holds a medical error. Answer with its number and the corrected sentence, "
    'as "number: sentence", or with "none" if all are right.'
)


def questions(source: Path, seed: int) -> Iterator[Question]:
    for row in rows(source, COLUMNS, f"MEDEC's CSV with the columns {', '.join(COLUMNS)}"):
        name, flag = row["Text ID"], row["Error Flag"].strip()
        if flag not in ("0", "1") or (flag == "1" and not row["Error Sentence ID"].strip().isdigit()):
            raise UserError(f"{source.name}: {name} has error flag {flag!r}, sentence {row['Error Sentence ID']!r}")
        sentence = int(row["Error Sentence ID"]) if flag == "1" else None
        corrected = row["Corrected Sentence"].strip() if flag == "1" else ""
        yield Question(
            id=f"{name}-error",
            note_id=name,
            task=TASK,
            note=row["Sentences"],
            instruction=INSTRUCTION,
            reference=dump("error", sentence=sentence, corrected=corrected),
            note_type=row["Error Type"] if flag == "1" else "no error",
            source="MEDEC",
        )
