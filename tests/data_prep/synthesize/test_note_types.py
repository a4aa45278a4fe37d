"""Each type of note has its own sections, takes what it may of a report, and is not written where there is nothing."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.records import Note, Reject, read_parquet
from data_prep.synthesize import notes
from data_prep.synthesize.note_types import NOTE_TYPES, types_named, types_of_report
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.prompts import note_messages, note_prompt_hash
from data_prep.teachers.offline.cues import COURSE, SECTIONS
from data_prep.teachers.offline.layouts import FINDINGS, LAYOUTS
from data_prep.teachers.offline.note import write_note

DEMO_FILE = "data_prep/ingest/demo_reports.jsonl"
DEMO = [json.loads(line)["text"] for line in Path(DEMO_FILE).read_text(encoding="utf-8").splitlines()]
HEADING = re.compile(r"^([A-Z][A-Z ,-]+):$", re.MULTILINE)


def headings(note: str) -> list[str]:
    return HEADING.findall(note)


def test_layouts_are_of_known_types_and_take_known_sections():
    assert list(LAYOUTS) == [name for name in NOTE_TYPES if name in LAYOUTS]
    assert len({row.code for row in NOTE_TYPES.values()}) == len(NOTE_TYPES) == 8
    for row in LAYOUTS.values():
        assert set(row.takes) <= {*SECTIONS, FINDINGS}
        assert set(row.needs) <= set(row.takes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_note_has_its_types_headings_in_order(name: str):
    row = LAYOUTS[name]
    written = [note for report in DEMO if (note := write_note(report, name))]
    assert written
    for note in written:
        assert note.startswith(LAYOUTS[name].title)
        found = headings(note)
        lists = ["DIAGNOSES", "CONDITION AT DISCHARGE", "DISCHARGE MEDICATIONS"] if row.lists else []
        assert set(found) <= {*row.takes, *lists}
        assert len(set(found)) == len(found)
        assert set(LAYOUTS[name].needs) <= set(found)


def test_a_note_tells_nothing_that_its_writer_cannot_know():
    """At admission nobody knows the course; the discharge summary of the same report tells it."""
    told = 0
    for report in DEMO:
        _, _, later = write_note(report).partition(f"\n{COURSE}:\n")
        for sentence in re.split(r"(?<=[.])\s+", later.split("\n\n")[0]):
            if len(sentence) > 40:
                told += 1
                for name in ("history and physical", "emergency department note"):
                    assert sentence not in write_note(report, name)
    assert told > 40


def test_where_a_report_has_nothing_for_a_type_no_note_is_written():
    report = "A 30-year-old man presented with a cough for 3 days. He was given advice and went home."
    assert write_note(report, "operative note") == write_note(report, "radiology report") == ""
    assert write_note(report)


def test_types_are_drawn_by_the_reports_id_and_evenly():
    every = types_named(("all",))
    drawn = Counter(row.name for k in range(4000) for row in types_of_report(f"r{k}", every, 2, 0))
    assert drawn.keys() == NOTE_TYPES.keys()
    assert all(abs(count - 1000) < 120 for count in drawn.values())
    assert types_of_report("r1", every, 3, 0)[:2] == types_of_report("r1", every, 2, 0)
    assert types_of_report("r1", every, 0, 0) == every
    assert types_named(("nursing note", "nursing note")) == [NOTE_TYPES["nursing note"]]


def test_a_stage_writes_the_types_that_are_asked_for(tmp_path: Path):
    notes.run(NotesConfig(DEMO_FILE, tmp_path / "out", note_types=("all",), per_report=3))
    found = [note for path in sorted((tmp_path / "out").glob("notes-*.parquet")) for note in read_parquet(path, Note)]
    rejects = list(read_parquet(tmp_path / "out/rejected.parquet", Reject))
    assert len(found) + len(rejects) == 3 * len(DEMO)
    assert {reject.reason for reject in rejects} <= {"declined", "too_short"}
    assert len({note.id for note in found}) == len(found)
    assert all(note.id == f"{note.report_id}-{NOTE_TYPES[note.note_type].code}" for note in found)
    # Another type is another request: its texts are told apart by the hash of all that was asked.
    assert len({note.generation.prompt_hash for note in found}) == len({note.note_type for note in found})


def test_the_prompt_names_what_the_type_is():
    for row in NOTE_TYPES.values():
        text = note_messages("REPORT", row)[1]["content"]
        assert all(part in text for part in (row.name, row.headings, row.scope, row.style, "REPORT"))
    assert len({note_prompt_hash(row) for row in NOTE_TYPES.values()}) == len(NOTE_TYPES)


@pytest.mark.parametrize(
    ("types", "count", "says"),
    [
        (("soap",), 0, "--note-types soap"),
        ((), 0, "none"),
        (("nursing note",), 2, "--per-report 2"),
        (("all",), -1, "-1"),
    ],
)
def test_types_and_counts_that_are_none_are_refused(tmp_path: Path, types, count, says):
    with pytest.raises(UserError, match=says):
        notes.run(NotesConfig(DEMO_FILE, tmp_path / "out", note_types=types, per_report=count))
    assert not (tmp_path / "out").exists()
