"""Real notes without annotations, each with a generic instruction, as in the paper.

    MIMIC-III   NOTEEVENTS.csv: ROW_ID, SUBJECT_ID, HADM_ID, CHARTDATE, ..., CATEGORY, DESCRIPTION, CGID, ISERROR, TEXT;
                only its discharge summaries are used, without addenda
    MIMIC-IV    discharge.csv: note_id, subject_id, hadm_id, note_type, note_seq, charttime, storetime, text
    MTSamples   mtsamples.jsonl: id, name, types (a list), text; or mtsamples.csv, with its columns description,
                medical_specialty, sample_name, transcription, keywords. Its notes are public and not restricted.

There are no reference answers, so that a judge or clinicians must score these questions. A folder that contains
NOTEEVENTS.csv or discharge.csv may be given too.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import Question
from data_prep.clinical_text.headings import as_lines
from data_prep.contract.errors import UserError
from data_prep.contract.reading.rows import shown
from data_prep.contract.reading.source_files import SourceFile, suffixes_of
from data_prep.contract.records import TASKS, Note, Reject, seeded_fraction
from data_prep.contract.tables import rows_of
from data_prep.execution.progress import say
from data_prep.ingest.mimic import note_files
from data_prep.ingest.real_notes import RealNotesConfig, read

# Columns by which the owners' files are recognized.
COLUMNS = {
    "MIMIC-III": ("ROW_ID", "SUBJECT_ID", "CATEGORY", "ISERROR", "TEXT"),
    "MIMIC-IV": ("note_id", "subject_id", "note_type", "text"),
}

# Instructions for each task that nearly every note can answer.
INSTRUCTIONS = {
    "Named Entity Recognition": (
        "List every drug that the note names, with its dose where one is given.",
        "Which problems and diagnoses does the note name? List each one once.",
    ),
    "Abbreviation Expansion": (
        "Which abbreviations does the note use? Give the long form of each as it is meant here.",
        "Make a glossary of the abbreviations in the first half of this note.",
    ),
    "Relation Extraction": (
        "For each treatment in the note, say which problem it was given for.",
        "Match each test in the note with its result.",
    ),
    "Temporal Information Extraction": (
        "Draw up a timeline of the events in this note, earliest first, with the date or time of each as written.",
        "Which events in the note happened before the patient came, and which afterwards?",
    ),
    "Coreference Resolution": (
        "Which expressions in the note stand for the patient's main problem? List them as they are written.",
        "Take the first three pronouns in the note that do not stand for the patient, and say what each refers to.",
    ),
    "Paraphrasing": (
        "Say the main findings of this note in plain words that the patient would understand.",
        "Rewrite the assessment, or else the last paragraph of the note, in full sentences without abbreviations.",
    ),
    "Summarization": (
        "Summarize this note in at most five sentences.",
        "Give a one-paragraph handover of this patient to a colleague.",
    ),
    "Question Answering": (
        "What is the main reason for this encounter, and what was done about it?",
        "Which follow-up or further care does the note arrange?",
    ),
}
assert tuple(INSTRUCTIONS) == TASKS


def ask(note: Question, seed: int) -> Question:
    """The note with one instruction, whose task and wording depend on the seed and the note's id."""
    task = TASKS[int(seeded_fraction(seed, "task", note.note_id) * len(TASKS))]
    wordings = INSTRUCTIONS[task]
    wording = wordings[int(seeded_fraction(seed, "wording", note.note_id) * len(wordings))]
    return Question(
        f"{note.note_id}-ask",
        note.note_id,
        task,
        note.note,
        wording,
        "",
        note.note_type,
        note.source,
        "",
        note.restricted,
        note.report_id,
    )


def real_notes(source: Path, seed: int, category: str, name: str, table: str) -> Iterator[Question]:
    """Questions on the notes of a table of MIMIC, or of the folder that contains it.

    Skips addenda, rows marked as errors, empty rows and repeated ids, like real-notes, and says how many."""
    columns = COLUMNS[name]
    files = note_files(source, (table,))
    check_header(source, files, columns)
    rejected: Counter[str] = Counter()
    for note in read(RealNotesConfig(source, Path(), category=category, source_name=name), files):
        if isinstance(note, Note):
            base = Question("", note.id, "", note.text, "", "", note.note_type, name, "", True, note.report_id)
            yield ask(base, seed)
        elif isinstance(note, Reject):
            rejected[note.reason] += 1
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        say(f"{source}: left out {reasons}")


def check_header(source: Path, files: Sequence[SourceFile], columns: tuple[str, ...]) -> None:
    """Raise UserError if the first row of the first file lacks a column."""
    row = next(rows_of(files[:1]), None)
    if row is not None and row.values is not None:
        values = row.values
        if missing := [name for name in columns if name not in values]:
            raise UserError(f"{source} lacks the columns {', '.join(missing)}; it has {shown(values)}")


def mimic_iii(source: Path, seed: int) -> Iterator[Question]:
    yield from real_notes(source, seed, "Discharge summary", "MIMIC-III", "noteevents")


def mimic_iv(source: Path, seed: int) -> Iterator[Question]:
    yield from real_notes(source, seed, "", "MIMIC-IV", "discharge")


def kinds_of(cell: str) -> str:
    """The note types in a cell, which holds a list or one type."""
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = cell
    return "; ".join(map(str, listed)) if isinstance(listed, list) else cell


def mtsamples(source: Path, seed: int) -> Iterator[Question]:
    jsonl = suffixes_of(source.name)[0] == ".jsonl"
    columns = ("id", "types", "text") if jsonl else ("medical_specialty", "transcription")
    for number, row in enumerate(rows(source, columns, "mtsamples.jsonl or mtsamples.csv")):
        text = as_lines(row["text" if jsonl else "transcription"])
        if not text:
            continue
        kind = kinds_of(row["types"]) if jsonl else row["medical_specialty"]
        name = f"mtsamples-{row['id'] if jsonl else number}"
        yield ask(Question("", name, "", text, "", "", kind.strip(), "MTSamples"), seed)
