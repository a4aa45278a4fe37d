"""Notes beside real ones: what is counted is what stands there, and likeness in wording shows in the bits."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from data_prep.clinical_text.headings import as_lines, headings_of
from data_prep.contract.errors import UserError
from data_prep.curate import compare
from data_prep.curate.compare import CompareConfig, bits_per_byte, look, run
from data_prep.synthesize import notes
from data_prep.synthesize.notes import NotesConfig
from tests.helpers.made_inputs import WORDS, note, write_records
from tests.helpers.places import shared


def texts(seed: int, count: int = 40, alphabet: list[str] = WORDS) -> list[str]:
    random = np.random.default_rng(seed)
    return [f"HISTORY:\nPt c/o {' '.join(random.choice(alphabet, 60))}.\nEXAM:\nBP 120/80." for _ in range(count)]


def test_headings_and_lines_of_a_dictated_text():
    text = "HISTORY:,  Well, and fine.,PLAN:,  1.  Go.,  VITAL SIGNS:,  BP 120/80,  Note the colon: no heading"
    assert headings_of(as_lines(text)) == ["HISTORY", "PLAN", "VITAL SIGNS"]
    assert headings_of("## Hospital course:\nfine, and more words\n**Exam**: soft") == ["HOSPITAL COURSE", "EXAM"]


def test_a_look_counts_what_stands_there():
    seen = look(texts(0), b"", 10_000)
    assert seen.notes == 40
    assert seen.words == (66.0, 66.0, 66.0)
    assert sorted(seen.headings) == [("EXAM", 1.0), ("HISTORY", 1.0)]
    assert seen.headings_a_note == 2
    # Pt, c/o and BP, beside the CT of the made words.
    ct = sum(len(re.findall(r"\bCT\b", text)) for text in texts(0))
    assert seen.abbreviations == pytest.approx(100 * (3 * 40 + ct) / (66 * 40))


def test_like_wording_needs_fewer_bits_after_what_it_is_like():
    same, before = compare.joined(texts(1)), compare.joined(texts(2))
    other = compare.joined(texts(3, alphabet=[word[::-1].upper() for word in WORDS]))[: len(same)]
    assert bits_per_byte(same, before) < 0.95 * bits_per_byte(same)
    assert bits_per_byte(same, before) < 0.9 * bits_per_byte(other, before)
    assert 0 < bits_per_byte(b"a" * 10_000) < 0.2
    assert 7.9 < bits_per_byte(np.random.default_rng(0).bytes(50_000)) < 8.3


def test_the_page_shows_both_sides(tmp_path: Path):
    mine = [dataclasses.replace(note(f"n{k}", text), note_type="operative note") for k, text in enumerate(texts(4))]
    rows = [{"types": ["Surgery"], "text": "<B>&:\n" + text} for text in texts(5)]
    (tmp_path / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = write_records(tmp_path / "notes", mine)
    figures = run(CompareConfig(source, tmp_path / "real.jsonl", tmp_path / "out/page.html"))
    assert figures["operative note"]["ours"]["notes"] == 40
    assert figures["operative note"]["real"]["notes"] == 20  # the other half was seen before
    assert figures["nursing note"] == {"ours": 0, "real": 0, "compared": False}
    page = (tmp_path / "out/page.html").read_text()
    assert "<h2>Operative note</h2>" in page
    assert "<B>" not in page
    assert not re.search(r"https?://", page)
    assert json.loads((tmp_path / "out/page.json").read_text()) == json.loads(json.dumps(figures))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"type_column": "kind"}, "no column kind among types, text"), ({"real": Path("nowhere")}, "--real nowhere")],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, options: dict, says: str):
    real = tmp_path / "real.jsonl"
    real.write_text(json.dumps({"types": ["Letters"], "text": "Dear all."}) + "\n")
    config = CompareConfig(write_records(tmp_path / "n", [note("a", "text")]), real, tmp_path / "o.html")
    with pytest.raises(UserError, match=says):
        run(dataclasses.replace(config, **options))
    with pytest.raises(UserError, match="no type has 10 notes in both"):
        run(config)
    assert not (tmp_path / "o.html").exists()


def test_real_notes_are_found_by_type(tmp_path: Path):
    notes.run(NotesConfig("data_prep/ingest/demo_reports.jsonl", tmp_path / "notes", note_types=("all",)))
    figures = run(CompareConfig(tmp_path / "notes", shared("data/mtsamples.jsonl"), tmp_path / "page.html"))
    assert [name for name, figure in figures.items() if figure["compared"]][:2] == [
        "discharge summary",
        "consultation letter",
    ]
    assert figures["discharge summary"]["real"]["notes"] == 21
