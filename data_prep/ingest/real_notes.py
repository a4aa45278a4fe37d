"""Convert real notes to a folder of notes, replacing the note stage, for the variant of the recipe that trains on them.

    asclepius real-notes --source NOTEEVENTS.csv --out data/real --category "Discharge summary"

Supported are MIMIC-III's NOTEEVENTS.csv (ROW_ID, SUBJECT_ID, HADM_ID, ..., CATEGORY, ISERROR, TEXT), MIMIC-IV's
discharge.csv and radiology.csv (note_id, subject_id, hadm_id, note_type, note_seq, ..., text), and any table whose
columns are set. Every record is marked as restricted: its text may only be sent to an endpoint of the institution that
is named explicitly.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, writing_folder
from data_prep.contract.reading.rows import shown
from data_prep.contract.reading.source_files import content_of, stem_of
from data_prep.contract.records import Generation, Note, Reject
from data_prep.contract.tables import Row, SourceFile, cell_text, rows_of, storable
from data_prep.ingest.case_reports import Tally
from data_prep.ingest.mimic import note_files, type_of
from data_prep.ingest.placeholders import with_placeholders
from data_prep.ingest.scope import foreign

SHARD_RECORDS = 10_000
LICENCE = "restricted: its data use agreement governs it, not for publication"

# Column names of each field, in any case, the most specific first.
COLUMNS = {
    "text": ("text", "note", "note_text", "content"),
    "id": ("row_id", "note_id", "id"),
    "patient": ("subject_id", "patient_id", "person_id", "hadm_id"),
    "category": ("category", "note_type", "type"),
    "error": ("iserror",),
}
ADDENDA = ("ad", "ar", "addendum")  # categories that ask for addenda


@dataclass(frozen=True)
class RealNotesConfig:
    source: Path
    """NOTEEVENTS.csv of MIMIC-III, discharge.csv or radiology.csv of MIMIC-IV, a folder with these, or any .csv, .tsv,
    .json, .jsonl or .parquet file of notes. Text may be compressed (.gz, .bz2, .xz, .zst)."""

    out: Path
    """Output folder of notes; a finished folder of the same kind is replaced, unless it contains files of yours."""

    category: str = ""
    """Category of the notes to keep (MIMIC-III's CATEGORY, MIMIC-IV's note_type), such as "Discharge summary"; empty
    keeps all."""

    addenda: bool = False
    """Keep addenda to other notes, each as a note of its own. Otherwise they are rejected as `addendum`."""

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


def columns_of(values: dict[str, Any], config: RealNotesConfig, place: str, first: bool) -> dict[str, str]:
    """A dictionary of field to column name ("" if missing). Raises UserError if the first row lacks a required one."""
    configured = {"text": config.text_column, "id": config.id_column, "patient": config.patient_column}
    found = {}
    for field, names in COLUMNS.items():
        wanted = configured.get(field, "")
        if wanted and wanted not in values and first:
            raise UserError(f"{place}: --{field}-column {wanted} is not among the columns: {shown(values)}")
        found[field] = wanted or next((name for name in names if name in values), "")
    if not found["text"] and first:
        raise UserError(f"{place}: no text column among the columns: {shown(values)}; set it with --text-column")
    if config.category and not found["category"] and first:
        raise UserError(f"{place}: --category needs a column named category or note_type, not: {shown(values)}")
    return found


def to_note(row: Row, values: dict[str, Any], columns: dict[str, str], config: RealNotesConfig) -> Note:
    """Convert a row to a note. Raises ValueError, with the reason, if the row is malformed."""

    def field(name: str) -> str:
        return cell_text(values.get(columns[name]), columns[name]) if columns[name] else ""

    if columns["text"] not in values:
        raise ValueError(f"no text column among {shown(values) or 'none'}")
    source = config.source_name or stem_of(config.source)
    note_id = field("id") or row.name
    _, note_type, is_addendum = type_of(values, field("category"))
    return Note(
        id=f"{source}-{note_id}",
        report_id=field("patient") or note_id,
        note_type=f"{note_type} addendum" if is_addendum else note_type,
        text=with_placeholders(field("text")).strip(),
        source=source,
        licence=LICENCE,
        article="",
        generation=Generation("none", "a real note", "", 0, "stop"),
        restricted=True,
    )


def read(config: RealNotesConfig, files: list[SourceFile]) -> Iterator[Note | Reject | None]:
    """Each row as a note or a reject; None for a row of another category.

    Raises UserError if there is no text column, or if more than 1 % of the rows are malformed.
    """
    tally = Tally(str(config.source))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    columns: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows_of(files):
        try:
            if row.values is None:
                raise ValueError(row.error)
            names = tuple(row.values)
            if names not in found:
                found[names] = columns_of(row.values, config, row.place, first=not found)
            columns = found[names]
            category = cell_text(row.values.get(columns["category"]), "category") if columns["category"] else ""
            code, note_type, is_addendum = type_of(row.values, category)
            if config.category and config.category.strip().lower() not in (category.lower(), code, note_type):
                tally.count()
                yield None
                continue
            note = to_note(row, row.values, columns, config)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            tally.count(f"{row.place}: {error}")
            raw = row.raw or json.dumps(row.values, ensure_ascii=False, default=str)
            yield Reject(row.place, "malformed", storable(str(error)), storable(raw))
            continue
        tally.count()
        marked = str(row.values.get(columns["error"]) or "").strip() if columns["error"] else ""
        if marked in ("1", "1.0"):
            yield Reject.of(note, "marked_as_error", row.place)
        elif is_addendum and not config.addenda and config.category.strip().lower() not in ADDENDA:
            yield Reject.of(note, "addendum", f"{row.place}: kept with --addenda")
        elif not note.text:
            yield Reject.of(note, "empty", row.place)
        elif evidence := foreign(note.text):
            yield Reject.of(note, "language", evidence)
        elif note.id in seen:
            yield Reject.of(note, "duplicate_id", row.place)
        else:
            seen.add(note.id)
            yield note
    tally.finish()


def run(config: RealNotesConfig) -> None:
    """Write the folder of notes. Raises UserError for errors that the user can fix."""
    if not config.source.exists():
        raise UserError(f"{config.source}: no such file or folder")
    if (config.source / MANIFEST).is_file():
        raise UserError(f"{config.source} is the output folder of another stage: pass the notes themselves")
    files = note_files(config.source)
    inputs = {config.source.name: content_of(config.source, files)}
    with writing_folder(config.out, "notes", inputs) as writer:
        writer.facts = {"category": config.category, "addenda": config.addenda}
        writer.restricted = True
        shard: list[Note] = []
        for record in read(config, files):
            writer.counts["in"] += 1
            if isinstance(record, Reject):
                writer.reject([record])
            elif record is not None:
                shard.append(record)
            if len(shard) == SHARD_RECORDS:
                writer.add_shard(shard, Note)
                shard = []
            if config.limit and writer.counts["out"] + len(shard) >= config.limit:
                break
        if not shard and not writer.shards:
            wanted = f"notes of category {config.category!r}" if config.category else "notes"
            raise UserError(f"{config.source} contains no {wanted}: check its columns and categories")
        if shard:
            writer.add_shard(shard, Note)
    rejected = json.dumps(dict(writer.reasons)) if writer.reasons else "none"
    print(f"real-notes: {writer.counts['in']} rows, {writer.counts['out']} notes, rejected: {rejected} -> {config.out}")
