"""Convert real notes to a folder of notes, replacing the note stage, for the variant of the recipe that trains on them.

    asclepius real-notes --source NOTEEVENTS.csv --out data/real --category "Discharge summary"

Supported are MIMIC-III's NOTEEVENTS.csv (ROW_ID, SUBJECT_ID, HADM_ID, ..., CATEGORY, ISERROR, TEXT), MIMIC-IV's
discharge.csv and radiology.csv (note_id, subject_id, hadm_id, note_type, note_seq, ..., text), and any table whose
columns are set. Every record is marked as restricted: its text may only be sent to an endpoint of the institution that
is named explicitly.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import Generation, Note, Reject, file_hash, text_hash
from data_prep.contract.tables import Row, files_of, rows_of

SHARD_RECORDS = 10_000
LICENCE = "restricted: its data use agreement governs it, not for publication"
MOST_MALFORMED = 0.01

# Column names of each field, in any case, the most specific first.
COLUMNS = {
    "text": ("text", "note", "note_text", "content"),
    "id": ("row_id", "note_id", "id"),
    "patient": ("subject_id", "patient_id", "person_id", "hadm_id"),
    "category": ("category", "note_type", "type"),
    "error": ("iserror",),
}

# MIMIC-III replaces removed text by tags such as [**First Name (Titles) 123**]. Their words decide the placeholder.
TAG = re.compile(r"\[\*\*(.*?)\*\*\]", re.DOTALL)
PLACEHOLDERS = (
    ("AGE", re.compile(r"age over", re.IGNORECASE)),
    ("NAME", re.compile(r"name|initial|attending|dictator|\bMD\b|doctor", re.IGNORECASE)),
    ("HOSPITAL", re.compile(r"hospital|clinic|\bward\b|unit|\bUniversity", re.IGNORECASE)),
    ("PHONE", re.compile(r"phone|fax|pager|telephone|extension", re.IGNORECASE)),
    ("ID", re.compile(r"number|\bMD Number|record|\bID\b|clip|job|serial|e-?mail|url", re.IGNORECASE)),
    ("LOCATION", re.compile(r"location|street|address|state|country|city|town|zip|po box|apartment", re.IGNORECASE)),
    ("DATE", re.compile(r"date|month|year|holiday|day\b|^\s*\d{1,4}(?:[-/]\d{1,2}){0,2}\s*$", re.IGNORECASE)),
    ("ORGANIZATION", re.compile(r"company|employer|school", re.IGNORECASE)),
)
# MIMIC-IV replaces all removed text by three underscores.
BLANK = re.compile(r"(?<!_)_{3}(?!_)")


@dataclass(frozen=True)
class RealNotesConfig:
    source: Path
    """NOTEEVENTS.csv of MIMIC-III, discharge.csv or radiology.csv of MIMIC-IV, or any .csv, .json, .jsonl or .parquet
    file of notes."""

    out: Path
    """Output folder of notes; a finished folder of the same kind is replaced."""

    category: str = ""
    """Category of the notes to keep (MIMIC-III's CATEGORY, MIMIC-IV's note_type), such as "Discharge summary"; empty
    keeps all."""

    text_column: str = ""
    """Column with the text; empty to find it by its common names."""

    id_column: str = ""
    """Column with the id of the note; empty to find it by its common names."""

    patient_column: str = ""
    """Column with the id of the patient, which keeps a patient's notes together in splits; empty to find it by its
    common names."""

    source_name: str = ""
    """Source to record for the notes; empty for the file's name."""

    limit: int = 0
    """Number of notes after which to stop; 0 reads all."""


def placeholder(match: re.Match[str]) -> str:
    inside = match[1]
    return f"[{next((name for name, pattern in PLACEHOLDERS if pattern.search(inside)), 'REMOVED')}]"


def with_placeholders(text: str) -> str:
    """The text with a placeholder such as [NAME] for each tag or blank of the de-identification."""
    return BLANK.sub("[REMOVED]", TAG.sub(placeholder, text))


def columns_of(values: Mapping[str, Any], config: RealNotesConfig, place: str) -> dict[str, str]:
    """A dictionary of field to column name ("" if missing). Raises UserError if a required column is missing."""
    configured = {"text": config.text_column, "id": config.id_column, "patient": config.patient_column}
    by_lower = {str(name).lower(): str(name) for name in values}
    found = {}
    for field, names in COLUMNS.items():
        wanted = configured.get(field, "")
        if wanted and wanted not in values:
            raise UserError(f"{place}: --{field}-column {wanted} is not among the columns: {', '.join(values)}")
        found[field] = wanted or next((by_lower[name] for name in names if name in by_lower), "")
    if not found["text"]:
        raise UserError(f"{place}: no text column among the columns: {', '.join(values)}; set it with --text-column")
    if config.category and not found["category"]:
        raise UserError(f"{place}: --category needs a column named category or note_type, not: {', '.join(values)}")
    return found


def to_note(row: Row, values: Mapping[str, Any], columns: dict[str, str], config: RealNotesConfig) -> Note:
    def field(name: str) -> str:
        value = values.get(columns[name]) if columns[name] else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return "" if value is None else str(value).strip()

    source = config.source_name or config.source.stem
    note_id = field("id") or row.name
    return Note(
        id=f"{source}-{note_id}",
        report_id=field("patient") or note_id,
        note_type=field("category").lower() or "note",
        text=with_placeholders(field("text")).strip(),
        source=source,
        licence=LICENCE,
        article="",
        generation=Generation("none", "a real note", "", 0, "stop"),
        restricted=True,
    )


def read(config: RealNotesConfig) -> Iterator[Note | Reject | None]:
    """Each row as a note or a reject; None for a row of another category."""
    columns: dict[str, str] | None = None
    seen: set[str] = set()
    for row in rows_of(files_of(config.source)):
        if row.values is None:
            yield Reject(row.place, "malformed", row.error, row.raw.encode(errors="backslashreplace").decode())
            continue
        columns = columns or columns_of(row.values, config, row.place)
        category = str(row.values.get(columns["category"]) or "").strip().lower()
        if config.category and category != config.category.strip().lower():
            yield None
            continue
        note = to_note(row, row.values, columns, config)
        marked = str(row.values.get(columns["error"]) or "").strip() if columns["error"] else ""
        if marked in ("1", "1.0"):
            yield Reject.of(note, "marked_as_error", row.place)
        elif not note.text:
            yield Reject.of(note, "empty", row.place)
        elif note.id in seen:
            yield Reject.of(note, "duplicate_id", row.place)
        else:
            seen.add(note.id)
            yield note


def run(config: RealNotesConfig) -> None:
    """Write the folder of notes. Raises UserError for errors that the user can fix."""
    if not config.source.exists():
        raise UserError(f"{config.source}: no such file or folder")
    files = files_of(config.source)
    inputs = {config.source.name: text_hash(*(file_hash(path) for path in files))}
    with writing_folder(config.out, "notes", inputs) as writer:
        writer.facts = {"category": config.category}
        shard: list[Note] = []
        malformed = 0
        for record in read(config):
            writer.counts["in"] += 1
            if isinstance(record, Reject):
                malformed += record.reason == "malformed"
                writer.reject([record])
            elif record is not None:
                shard.append(record)
            if len(shard) == SHARD_RECORDS:
                writer.add_shard(shard, Note)
                shard = []
            if config.limit and writer.counts["out"] + len(shard) >= config.limit:
                break
        if malformed > max(1, MOST_MALFORMED * writer.counts["in"]):
            raise UserError(f"{config.source}: {malformed} of {writer.counts['in']} rows are malformed, more than 1 %")
        if not shard and not writer.shards:
            wanted = f"notes of category {config.category!r}" if config.category else "notes"
            raise UserError(f"{config.source} contains no {wanted}: check its columns and categories")
        if shard:
            writer.add_shard(shard, Note)
    rejected = json.dumps(dict(writer.reasons)) if writer.reasons else "none"
    print(f"real-notes: {writer.counts['in']} rows, {writer.counts['out']} notes, rejected: {rejected} -> {config.out}")
