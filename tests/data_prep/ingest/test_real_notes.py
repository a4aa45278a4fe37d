"""Real notes: the layouts of MIMIC read, tags made plain words, and nothing sent where it must not go."""

import csv
import dataclasses
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import Example, Note, Reject, read_parquet
from data_prep.ingest import real_notes
from data_prep.ingest.real_notes import RealNotesConfig, with_placeholders
from data_prep.synthesize import instructions
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.teachers.endpoint.allowed_hosts import is_own_host, why_not_send
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.text_stages import api

MIMIC3 = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT".split(",")
TEXT = """Admission Date:  [**2151-7-16**]       Discharge Date:  [**2151-8-4**]

Mr. [**Known lastname 1234**] is a [**Age over 90 **] year old man seen at [**Hospital1 18**] by
Dr. [**First Name8 (NamePattern2) **] [**Last Name (NamePattern1) 77**].
Call [**Telephone/Fax (1) 5555**] in [**City 9**]. Given lasix 40 mg i.v., "twice, daily"."""


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header, *rows])
    return path


def noteevents(path: Path) -> Path:
    def row(number: int, category: str, text: str, error: str = "") -> list[object]:
        return [number, 100 + number // 2, 200, "2151-08-04", "", "", category, "Report", "", error, text]

    rows = [
        row(1, "Discharge summary", TEXT),
        row(2, "Discharge summary", "Another note of somebody else, long enough to be one.", "1"),
        row(3, "Nursing/other", "Resting, no distress."),
        row(4, "Discharge summary", "   "),
        row(5, "Discharge summary", "Third note. Stable."),
    ]
    return write_csv(path, MIMIC3, rows)


def read(folder: Path) -> tuple[list[Note], list[Reject]]:
    files = read_manifest(folder, "notes")["files"]
    notes = [note for file in files for note in read_parquet(folder / file["name"], Note)]
    return notes, list(read_parquet(folder / "rejected.parquet", Reject))


def test_mimic_iii_is_read_by_category(tmp_path: Path):
    source = noteevents(tmp_path / "NOTEEVENTS.csv")
    real_notes.run(RealNotesConfig(source, tmp_path / "out", category="discharge summary"))
    notes, rejects = read(tmp_path / "out")
    assert [(n.id, n.report_id, n.note_type) for n in notes] == [
        ("NOTEEVENTS-1", "100", "discharge summary"),
        ("NOTEEVENTS-5", "102", "discharge summary"),
    ]
    assert sorted((r.id, r.reason) for r in rejects) == [("NOTEEVENTS-2", "marked_as_error"), ("NOTEEVENTS-4", "empty")]
    assert all(n.restricted and "not for publication" in n.licence for n in notes)
    real_notes.run(RealNotesConfig(source, tmp_path / "all"))
    assert [n.note_type for n in read(tmp_path / "all")[0]] == [
        "discharge summary",
        "nursing/other",
        "discharge summary",
    ]


def test_tags_become_plain_words():
    text = with_placeholders(TEXT)
    assert "[**" not in text
    assert text.startswith("Admission Date:  [DATE]       Discharge Date:  [DATE]")
    assert "Mr. [NAME] is a [AGE] year old man seen at [HOSPITAL] by\nDr. [NAME] [NAME]." in text
    assert 'Call [PHONE] in [LOCATION]. Given lasix 40 mg i.v., "twice, daily".' in text
    assert with_placeholders("seen by ___ on ___; a rule ________") == "seen by [REMOVED] on [REMOVED]; a rule ________"
    assert with_placeholders("[**Something odd**]") == "[REMOVED]"


def test_mimic_iv_and_other_columns_are_read(tmp_path: Path):
    header = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text".split(",")
    source = write_csv(
        tmp_path / "discharge.csv", header, [["10-DS-21", 10, 22, "DS", 21, "", "", "Name: ___ is well."]]
    )
    real_notes.run(RealNotesConfig(source, tmp_path / "out", category="DS"))
    ((note,), _) = read(tmp_path / "out")
    assert (note.id, note.report_id, note.text) == ("discharge-10-DS-21", "10", "Name: [REMOVED] is well.")
    odd = write_csv(tmp_path / "odd.csv", ["who", "what"], [["p7", "A note."], ["p8", "Another."]])
    options = {"text_column": "what", "patient_column": "who", "source_name": "here"}
    real_notes.run(RealNotesConfig(odd, tmp_path / "odd", **options))
    assert [(n.id, n.report_id) for n in read(tmp_path / "odd")[0]] == [("here-odd-2", "p7"), ("here-odd-3", "p8")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text_column": "BODY"}, "--text-column BODY is not among the columns: ROW_ID"),
        ({"category": "Radiology"}, "no notes of category 'Radiology'"),
        ({"source": Path("nowhere.csv")}, "nowhere.csv: no such"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, options, says):
    config = RealNotesConfig(noteevents(tmp_path / "NOTEEVENTS.csv"), tmp_path / "out")
    with pytest.raises(UserError, match=says):
        real_notes.run(dataclasses.replace(config, **options))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- where they go


def test_nothing_is_sent_unless_the_host_is_named(tmp_path: Path):
    source = tmp_path / "notes"
    real_notes.run(RealNotesConfig(noteevents(tmp_path / "NOTEEVENTS.csv"), source))
    with FakeEndpoint(lambda *_: completion("What was given for it, and how often?")) as endpoint:
        config = InstructionsConfig(source, tmp_path / "out", teacher=api(endpoint), pool_notes=2)
        for allowed in ("", "gpu.internal"):
            with pytest.raises(UserError, match=r"must not leave the institution.*--allow-remote"):
                instructions.run(dataclasses.replace(config, allow_remote=allowed))
        assert not endpoint.requests
        instructions.run(dataclasses.replace(config, allow_remote="127.0.0.1"))
        assert endpoint.requests
    examples = [e for p in (tmp_path / "out").glob("instructions-*.parquet") for e in read_parquet(p, Example)]
    assert all(e.restricted for e in examples)
    instructions.run(InstructionsConfig(source, tmp_path / "offline"))


def test_a_host_out_in_the_world_is_never_allowed():
    assert "not a host of your own" in why_not_send("https://api.openai.com/v1", "api.openai.com")
    assert "--allow-remote names localhost" in why_not_send("https://api.openai.com/v1", "localhost")
    assert why_not_send("http://10.1.2.3:8000/v1", "10.1.2.3") == ""
    inside = ("localhost", "127.0.0.1", "::1", "192.168.0.9", "gpu7", "vllm.internal", "box.local")
    outside = ("8.8.8.8", "api.openai.com", "localhost.example.com", "2001:4860:4860::8888", "internal.example.org")
    assert all(map(is_own_host, inside))
    assert not any(map(is_own_host, outside))
