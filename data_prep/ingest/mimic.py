"""The layouts of MIMIC: which files of its folders hold notes, and which notes are addenda to others.

MIMIC-III   NOTEEVENTS.csv among 25 other tables; a discharge summary's DESCRIPTION is "Report" or "Addendum"
MIMIC-IV    note/discharge.csv, note/radiology.csv, each beside NAME_detail.csv, which holds fields of the notes;
            note_type is DS (discharge summary), RR (radiology report), or AD or AR for an addendum to one of these
"""

from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.reading.source_files import SourceFile, below, files_of, in_order, say_once

TABLES = ("noteevents", "discharge", "radiology")
DETAIL = "_detail"
TYPES = {"ds": "discharge summary", "ad": "discharge summary", "rr": "radiology report", "ar": "radiology report"}
CODES = {"ad": "ds", "ar": "rr"}


def table_of(file: SourceFile) -> str:
    return PurePosixPath(file.stem).name.lower()


def note_files(source: Path, tables: tuple[str, ...] = TABLES) -> list[SourceFile]:
    """The files with notes: of a folder of MIMIC its tables of notes, of another folder all files.

    Raises UserError if there are none, or if a table of details is passed.
    """
    if not source.is_dir():
        files = files_of(source)
        if table_of(files[0]) in [f"{table}{DETAIL}" for table in TABLES]:
            raise UserError(f"{source} holds details of notes, not notes: pass {source.name.replace(DETAIL, '')}")
        return files
    every = list(below(source))
    notes = [file for file in every if table_of(file) in tables]
    if not notes:
        return files_of(source)
    names = ", ".join(sorted(file.name for file in notes))
    if len(notes) < len(every):
        say_once(f"{source}: reading {names}; the other {len(every) - len(notes)} files are not tables of notes")
    return in_order(source, notes)


def type_of(values: dict[str, Any], category: str) -> tuple[str, str, bool]:
    """The code of a note's type ("ds"), its plain name ("discharge summary"), and True if the note is an addendum."""
    code = category.lower()
    if "note_seq" in values and code in TYPES:
        return CODES.get(code, code), TYPES[code], code in CODES
    is_addendum = str(values.get("description") or "").strip().lower() == "addendum"
    return code, code or "note", is_addendum
