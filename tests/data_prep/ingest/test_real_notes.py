"""Real notes: the layouts of MIMIC read, tags made plain words, and nothing sent where it must not go."""

import csv
import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from asclepius_jax.evaluate.answers import answers
from asclepius_jax.evaluate.questions import questions
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import is_restricted, read_manifest
from data_prep.contract.records import Example, Note, Reject, read_parquet
from data_prep.curate import release, split
from data_prep.ingest import real_notes
from data_prep.ingest.real_notes import RealNotesConfig
from data_prep.pack import run as pack
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.teachers.endpoint.allowed_hosts import is_own_host, why_not_send
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.made_inputs import example, write_records
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


MIMIC4 = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text".split(",")


def mimic_iv_row(code: str, number: int, text: str) -> list[object]:
    return [f"{number}-{code}-1", number, 22, code, 1, "2180-05-06", "", text]


def test_addenda_are_set_apart_unless_they_are_wanted(tmp_path: Path):
    third = [
        [1, 7, 200, "", "", "", "Discharge summary", kind, "", "", f"{kind} text."] for kind in ("Report", "Addendum")
    ]
    third[1][0] = 2
    source = write_csv(tmp_path / "NOTEEVENTS.csv", MIMIC3, third)
    real_notes.run(RealNotesConfig(source, tmp_path / "out"))
    notes, rejects = read(tmp_path / "out")
    assert [note.text for note in notes] == ["Report text."]
    assert [(reject.id, reject.reason) for reject in rejects] == [("NOTEEVENTS-2", "addendum")]
    real_notes.run(RealNotesConfig(source, tmp_path / "all", addenda=True))
    assert [note.note_type for note in read(tmp_path / "all")[0]] == ["discharge summary", "discharge summary addendum"]
    assert read_manifest(tmp_path / "all", "notes")["addenda"] is True

    rows = [mimic_iv_row(code, k, f"{code} text.") for k, code in enumerate(("DS", "AD", "RR", "AR"))]
    source = write_csv(tmp_path / "notes.csv", MIMIC4, rows)

    def types(**options: object) -> list[str]:
        real_notes.run(RealNotesConfig(source, tmp_path / "iv", **options))
        return [note.note_type for note in read(tmp_path / "iv")[0]]

    assert types() == ["discharge summary", "radiology report"]
    assert read_manifest(tmp_path / "iv", "notes")["rejected"] == {"addendum": 2}
    assert types(category="DS") == ["discharge summary"]
    assert types(category="DS", addenda=True) == ["discharge summary", "discharge summary addendum"]
    assert types(category="AR") == ["radiology report addendum"]
    assert types(category="Radiology report", addenda=True) == ["radiology report", "radiology report addendum"]
    # Codes mean this in MIMIC-IV alone.
    source = write_csv(tmp_path / "own.csv", ["id", "type", "text"], [[1, "AR", "A letter."]])
    assert types() == ["ar"]


def test_of_a_folder_of_mimic_its_notes_are_read(tmp_path: Path, capsys):
    folder = tmp_path / "mimic-iv-note-2.2"
    (folder / "note").mkdir(parents=True)
    for name, code in (("discharge", "DS"), ("radiology", "RR")):
        path = write_csv(folder / "note" / f"{name}.csv", MIMIC4, [mimic_iv_row(code, 1, f"{code} text.")])
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        write_csv(folder / "note" / f"{name}_detail.csv", ["note_id", "field_name"], [["1-DS-1", "author"]])
    (folder / "LICENSE.txt").write_text("Of PhysioNet")
    real_notes.run(RealNotesConfig(folder, tmp_path / "out"))
    assert [note.id for note in read(tmp_path / "out")[0]] == ["mimic-iv-note-2.2-1-DS-1", "mimic-iv-note-2.2-1-RR-1"]
    assert "reading note/discharge.csv.gz, note/radiology.csv.gz; the other 3 files" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"holds details of notes, not notes: pass discharge\.csv"):
        real_notes.run(RealNotesConfig(folder / "note/discharge_detail.csv", tmp_path / "no"))
    third = tmp_path / "mimic-iii"
    third.mkdir()
    noteevents(third / "NOTEEVENTS.csv")
    write_csv(third / "PATIENTS.csv", ["ROW_ID", "SUBJECT_ID"], [[1, 2]])
    real_notes.run(RealNotesConfig(third, tmp_path / "three"))
    assert len(read(tmp_path / "three")[0]) == 3
    with pytest.raises(UserError, match="is the output folder of another stage"):
        real_notes.run(RealNotesConfig(tmp_path / "three", tmp_path / "no"))


def test_rows_of_json_with_other_keys_are_read(tmp_path: Path):
    rows = [
        {"note_id": "a", "text": "One.", "category": "X"},
        {"category": "X", "NOTE": "Two.", "ID": 7, "subject_id": 3.0},
        {"category": "X", "note_id": "c", "content": "Three.", "iserror": 1},
        {"note_id": "d", "text": "Four."},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    real_notes.run(RealNotesConfig(source, tmp_path / "out", category="x"))
    notes, rejects = read(tmp_path / "out")
    assert [(note.id, note.report_id, note.text) for note in notes] == [("a-a", "a", "One."), ("a-7", "3", "Two.")]
    assert [(reject.id, reject.reason) for reject in rejects] == [("a-c", "marked_as_error")]
    source.write_text(
        "".join(json.dumps({"note_id": k, "text": text}) + "\n" for k, text in enumerate("abc")) + '{"x": 1}'
    )
    real_notes.run(RealNotesConfig(source, tmp_path / "out"))
    assert [(r.reason, r.detail) for r in read(tmp_path / "out")[1]] == [("malformed", "no text column among x")]


# ---------------------------------------------------------------- where they go


def test_a_folder_made_of_restricted_ones_is_restricted(tmp_path: Path, small_tokenizer):
    source = noteevents(tmp_path / "NOTEEVENTS.csv")
    real_notes.run(RealNotesConfig(source, tmp_path / "notes", source_name="MIMIC-III"))
    instructions.run(InstructionsConfig(tmp_path / "notes", tmp_path / "instructions"))
    split.run(split.SplitConfig(tmp_path / "instructions", tmp_path / "split", held_out=0.5))
    pack.run(pack.PackConfig(tmp_path / "notes", tmp_path / "packed", small_tokenizer, row_length=64))
    questions.run(questions.QuestionsConfig(tmp_path / "instructions", tmp_path / "questions"))
    answers.run(answers.AnswersConfig(tmp_path / "questions", ("rules=offline:",), tmp_path / "answers"))
    folders = ("notes", "instructions", "split/train", "split/held_out", "packed", "questions", "answers/rules")
    for folder in folders:
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert manifest["restricted"] is True, folder
        card = tmp_path / folder / "README.md"
        assert folder == "packed" or "**Restricted: real patient notes" in card.read_text()
        assert folder == "packed" or "Synthetic" not in card.read_text()
    assert read_manifest(tmp_path / "notes", "notes")["sources"] == ["MIMIC-III"]
    assert ", from MIMIC-III." in (tmp_path / "notes/README.md").read_text()
    with pytest.raises(UserError, match="must not leave the institution"):
        release.run(release.ReleaseConfig(tmp_path / "instructions", tmp_path / "released"))
    # A record does not lose its restriction on the way through a file.
    shard = next((tmp_path / "notes").glob("notes-*.parquet"))
    with pytest.raises(UserError, match="a restricted record must not become a case report"):
        notes.run(notes.NotesConfig(str(shard), tmp_path / "again"))


def test_a_folder_that_says_so_is_restricted_whatever_its_records_say(tmp_path: Path):
    folder = write_records(tmp_path / "a", [example("e", "Fever.", "Which?", "None.")])
    assert not is_restricted(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["restricted"] is False
    (folder / "manifest.json").write_text(json.dumps({**manifest, "restricted": True}))
    assert is_restricted(folder)
    assert is_restricted(folder / manifest["files"][0]["name"])
    with pytest.raises(UserError, match=r"a is restricted: .* must not be published"):
        release.run(release.ReleaseConfig(folder, tmp_path / "released"))


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
