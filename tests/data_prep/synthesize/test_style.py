"""The style pass changes words and never a fact; every edit is recorded; taking them back gives the checked text."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clinical_text.vocabulary.lexicon import PLAIN_WORDS
from data_prep.contract.errors import UserError
from data_prep.contract.records import Note, read_parquet
from data_prep.synthesize import notes, style
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.style import ABBREVIATIONS, CLIPPED, KINDS, apply, from_json, to_json, undo

TEXT = """HISTORY OF PRESENT ILLNESS:
The patient was given aspirin twice daily for hypertension. She had a history of myalgia.
- There was mild edema; no fracture. Blood pressure was 120/80 mmHg in the left arm."""
PIECES = [
    *ABBREVIATIONS,
    *PLAIN_WORDS,
    "The patient was given ",
    "There was mild ",
    "no ",
    "left ",
    "5 mg ",
    ". ",
    "\n",
    "- ",
]


def read(folder: Path) -> list[Note]:
    return [note for path in sorted(folder.glob("notes-*.parquet")) for note in read_parquet(path, Note)]


def test_each_kind_of_rule_is_applied():
    styled, edits = apply(TEXT, 1.0, 0)
    assert (
        styled
        == """HISTORY OF PRESENT ILLNESS:
Pt given aspirin b.i.d. for HTN. She had a h/o muscle pain.
- mild swelling; no fx. BP was 120/80 mmHg in the left arm."""
    )
    assert {edit.kind for edit in edits} == set(KINDS)


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.floats(0, 1), st.integers(0, 5))
def test_every_edit_can_be_taken_back(pieces: list[str], rate: float, seed: int):
    text = "".join(pieces)
    styled, edits = apply(text, rate, seed)
    assert undo(styled, from_json(to_json(edits))) == text
    assert apply(text, rate, seed) == (styled, edits)


def test_the_rate_is_the_share_of_places():
    text = "hypertension, " * 2000
    assert apply(text, 0.0, 0) == (text, [])
    assert abs(len(apply(text, 0.3, 0)[1]) - 600) < 70
    # Another note, other places; and a higher rate keeps what a lower one edited.
    assert apply(text, 0.3, 0, "a") != apply(text, 0.3, 0, "b")
    assert set(old_places(text, 0.2)) < set(old_places(text, 0.6))


def old_places(text: str, rate: float) -> list[int]:
    """Where the edits of a text stood before them."""
    places, shift = [], 0
    for edit in apply(text, rate, 0)[1]:
        places.append(edit.start + shift)
        shift += len(edit.old) - len(edit.new)
    return places


def test_no_rule_touches_a_number_a_side_or_a_negation():
    """But for the years of an age, in words that hold no number."""
    guarded = re.compile(r"\d|\b(?:no|not|never|denied|without|left|right|upper|lower)\b", re.IGNORECASE)
    assert not [words for words in (*ABBREVIATIONS, *PLAIN_WORDS) if guarded.search(words)]
    for _, new in CLIPPED:
        assert not guarded.search(new)
    styled, _ = apply(TEXT, 1.0, 0)
    assert re.findall(r"\d+|left|\bno\b", styled) == re.findall(r"\d+|left|\bno\b", TEXT)


def test_a_text_that_is_not_the_styled_one_is_refused():
    styled, edits = apply(TEXT, 1.0, 0)
    with pytest.raises(ValueError, match="is not at offset"):
        undo(styled.replace("b.i.d.", "t.i.d."), edits)


def test_notes_are_checked_before_they_are_styled(tmp_path: Path):
    """Taking the recorded edits back gives the notes of a run without style."""
    source = "data_prep/ingest/demo_reports.jsonl"
    notes.run(NotesConfig(source, tmp_path / "plain"))
    notes.run(NotesConfig(source, tmp_path / "styled", style=0.8))
    plain, styled = read(tmp_path / "plain"), read(tmp_path / "styled")
    assert all(not note.style for note in plain)
    assert [undo(note.text, from_json(note.style)) for note in styled] == [note.text for note in plain]
    assert sum(a.text != b.text for a, b in zip(plain, styled, strict=True)) > 20
    with pytest.raises(UserError, match=r"--style 1\.5"):
        notes.run(NotesConfig(source, tmp_path / "plain", style=1.5))


def test_headings_stay():
    assert apply("HISTORY OF PRESENT ILLNESS:\nFOLLOW-UP", 1.0, 0)[1] == []
    assert style.like("Hypertension", "HTN") == "HTN"
