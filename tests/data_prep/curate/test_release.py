"""Instructions go out in the published columns and come back; what must not leave does not; the card says it all."""

import dataclasses
import json
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import Certificate, Example, Reject, SecondReading, Turn, read_parquet
from data_prep.curate import release, split
from data_prep.curate.release import ReleaseConfig
from data_prep.curate.split import SplitConfig
from data_prep.ingest import published
from data_prep.ingest.published import AdoptConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from tests.helpers.hub_server import Hub, serving
from tests.helpers.made_inputs import GENERATION, example, write_records

CERTIFICATE = Certificate("7", stated=8, derived=1, unsupported=1)
EXAMPLES = [
    dataclasses.replace(example(f"e{k}", f"Note {k} µ.", f"What is {k}?", f"It is\n{k}."), certificate=CERTIFICATE)
    for k in range(6)
]
TURN = Turn("Summarization", "And then?", "Nothing.", GENERATION, GENERATION)
NAMES_SOMEBODY = dataclasses.replace(TURN, answer="Mrs. Jane Doe went home.")
ASKS_FOR_A_NUMBER = dataclasses.replace(TURN, question="Is (617) 555-0123 her number?")


def adopted(folder: Path) -> list[Example]:
    manifest = read_manifest(folder, "instructions")
    return [e for file in manifest["files"] for e in read_parquet(folder / file["name"], Example)]


def facts(e: Example) -> tuple:
    turns = [(turn.task, turn.question, turn.answer) for turn in e.follow_ups]
    return e.report_id, e.note, e.question, e.answer, e.task, turns


@pytest.mark.parametrize("turns", [(), (TURN, TURN)])
def test_what_is_released_comes_back(tmp_path: Path, turns: tuple):
    examples = [*EXAMPLES, dataclasses.replace(EXAMPLES[0], id="talk", question="Who?", follow_ups=turns)]
    source = write_records(tmp_path / "source", examples)
    release.run(ReleaseConfig(source, tmp_path / "out"))
    published.run(AdoptConfig(str(tmp_path / "out/train-00000-of-00001.parquet"), tmp_path / "back", "CC0"))
    back = adopted(tmp_path / "back")
    assert sorted(map(facts, back)) == sorted(map(facts, examples))
    assert {e.licence for e in back} == {"CC0"}


def test_datasets_loads_both_splits_in_the_published_columns(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    train = write_records(tmp_path / "train", EXAMPLES[:4])
    held_out = write_records(tmp_path / "held_out", [dataclasses.replace(e, article="b") for e in EXAMPLES[4:]])
    release.run(ReleaseConfig(train, tmp_path / "out", held_out))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 4, "test": 2}
    assert loaded["train"].column_names == ["patient_id", "note", "question", "answer", "task", "note_type", "article"]
    assert loaded["train"][0]["answer"] == "It is\n0."


def test_a_published_csv_is_read(tmp_path: Path):
    path = tmp_path / "synthetic.csv"
    path.write_text(
        "patient_id,note,question,answer,task\n"
        '1,"A note, with a comma.",What?,That.,named entity recognition\n'
        "2,Another.,Who?,She.,Fortune Telling\n"
        "3,Third.,Who?,,Summarization\n"
        '1,"A note, with a comma.",What?,That.,Named Entity Recognition\n'
    )
    published.run(AdoptConfig(str(path), tmp_path / "out"))
    (only,) = adopted(tmp_path / "out")
    assert (only.report_id, only.task, only.source) == ("1", "Named Entity Recognition", "synthetic")
    rejects = list(read_parquet(tmp_path / "out/rejected.parquet", Reject))
    assert sorted(reject.reason for reject in rejects) == ["duplicate", "empty", "unknown_task"]


def test_every_row_of_a_published_table_is_adopted_or_rejected_with_its_reason(tmp_path: Path):
    turn = {"task": "Summarization", "question": "Why?", "answer": "So."}
    row = {"Patient_ID": 1, "NOTE": "A note.", "question": "What?", "answer": "That.", "task": "Summarization"}
    rows = [
        {**row, "follow_ups": json.dumps([turn]), "restricted": "true"},
        {**row, "question": "Who?", "follow_ups": [turn]},
        {**row, "question": "Whose?", "follow_ups": ""},
        {**row, "question": "Where?", "follow_ups": [{**turn, "answer": ""}]},
        *({**row, "question": f"{k}?"} for k in range(400)),
        {**row, "follow_ups": "nonsense"},
        {**row, "follow_ups": [1]},
        {**row, "NOTE": ["a", "list"]},
        {**row, "answer": "\ud800"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    published.run(AdoptConfig(str(path), tmp_path / "out"))
    first, second, third, *_ = adopted(tmp_path / "out")
    assert [[t.answer for t in example.follow_ups] for example in (first, second, third)] == [["So."], ["So."], []]
    assert [example.restricted for example in (first, second)] == [True, False]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["in"], manifest["out"], manifest["restricted"]) == (408, 403, True)
    assert manifest["rejected"] == {"empty": 1, "malformed": 4}


def test_a_file_in_other_columns_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "other.csv"
    path.write_text("patient_id,note,instruction,answer\n1,a,b,c\n")
    with pytest.raises(UserError, match="no column question, task among patient_id, note, instruction, answer"):
        published.run(AdoptConfig(str(path), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"restricted": True}, "uses a real note"),
        ({"answer": "Ask Dr. Miller."}, r"contains an identifier \(name: 'Dr. Miller'\)"),
        ({"follow_ups": (TURN, NAMES_SOMEBODY)}, r"contains an identifier \(name: 'Mrs. Jane Doe'\)"),
        ({"follow_ups": (ASKS_FOR_A_NUMBER, TURN)}, r"contains an identifier \(phone: '\(617\) 555-0123'\)"),
    ],
)
def test_what_must_not_leave_is_refused(tmp_path: Path, change: dict, says: str):
    source = write_records(tmp_path / "source", [*EXAMPLES, dataclasses.replace(EXAMPLES[0], id="bad", **change)])
    with pytest.raises(UserError, match=says):
        release.run(ReleaseConfig(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"note": EXAMPLES[0].note}, "such as note "),
        ({"report_id": EXAMPLES[0].report_id}, "such as patient made report-e0"),
        ({"article": "https://doi.org/10.1000/A"}, "such as article 10.1000/a"),
    ],
)
def test_sides_that_share_a_note_patient_or_article_are_not_released(tmp_path: Path, change: dict, says: str):
    train = write_records(tmp_path / "train", [dataclasses.replace(e, article="10.1000/a") for e in EXAMPLES[:4]])
    outside = [dataclasses.replace(e, article="b") for e in EXAMPLES[4:]]
    held_out = write_records(tmp_path / "held_out", [*outside, dataclasses.replace(outside[0], id="bad", **change)])
    with pytest.raises(UserError, match=f"1 notes, patients or articles of {held_out} are in {train} too, {says}"):
        release.run(ReleaseConfig(train, tmp_path / "out", held_out))
    assert not (tmp_path / "out").exists()


def test_sides_of_two_splits_are_not_released(tmp_path: Path):
    records = [dataclasses.replace(e, article=e.id) for e in EXAMPLES]
    source = write_records(tmp_path / "source", records)
    for seed in (0, 1):
        split.run(SplitConfig(source, tmp_path / f"split{seed}", 0.5, seed=seed))
    release.run(ReleaseConfig(tmp_path / "split0/train", tmp_path / "out", tmp_path / "split0/held_out"))
    with pytest.raises(UserError, match="are not of one split"):
        release.run(ReleaseConfig(tmp_path / "split0/train", tmp_path / "out", tmp_path / "split1/held_out"))
    with pytest.raises(UserError, match=r"are in .*/split0/train too"):
        release.run(ReleaseConfig(tmp_path / "split0/train", tmp_path / "out", tmp_path / "split0/train"))


@pytest.mark.parametrize(
    ("licences", "hub"),
    [
        (["CC0", "CC BY-NC-SA 4.0"], "cc-by-nc-sa-4.0"),
        (["CC BY 4.0", "CC BY 4.0"], "cc-by-4.0"),
        (["CC0", "CC BY 4.0"], "other"),
        (["unknown", "CC0"], "other"),
    ],
)
def test_a_share_alike_licence_goes_on(tmp_path: Path, licences: list[str], hub: str):
    examples = [dataclasses.replace(EXAMPLES[k], licence=licence) for k, licence in enumerate(licences)]
    release.run(ReleaseConfig(write_records(tmp_path / "source", examples), tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert f"\nlicense: {hub}\n" in card


def test_the_card_tells_every_stage_and_the_faithfulness(tmp_path: Path):
    notes.run(
        NotesConfig("data_prep/ingest/demo_reports.jsonl", tmp_path / "notes", note_types=("history and physical",))
    )
    instructions.run(InstructionsConfig(tmp_path / "notes", tmp_path / "ins"))
    split.run(SplitConfig(tmp_path / "ins", tmp_path / "split", 0.3))
    release.run(ReleaseConfig(tmp_path / "split/train", tmp_path / "out", tmp_path / "split/held_out"))
    card = (tmp_path / "out/README.md").read_text()
    made = read_manifest(tmp_path / "notes", "notes")
    assert f"| notes (notes) | 24 | {made['out']} | {made['rejected']['declined']} declined |" in card
    assert f"| ins (instructions) | {made['out']} | " in card
    assert "| train (instructions) | " in card
    assert "offline, rules-1" in card
    release.run(ReleaseConfig(write_records(tmp_path / "source", EXAMPLES), tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert "Of 60 facts" in card
    assert (
        "48 are stated in the note, 6 follow from it by a named rule, and 6 (10.00%) are unsupported (rules 7)" in card
    )
    assert "**Question Answering.** What is 0?\n\n> It is\n> 0." in card
    assert "second reader" not in card


def test_the_card_tells_what_a_second_reader_said(tmp_path: Path):
    reader = SecondReading("gpt-4o", supported=3, not_stated=1, unread=2, not_asked=9)
    read = [dataclasses.replace(e, certificate=dataclasses.replace(e.certificate, reader=reader)) for e in EXAMPLES[:2]]
    release.run(ReleaseConfig(write_records(tmp_path / "source", read), tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert "A second reader (gpt-4o) compared the 12 sentences that the rules left open" in card
    assert "6 are supported, 0 contradicted and 2 not stated; for 4 there is no verdict" in card


def test_a_push_brings_the_data_set_and_nothing_else(tmp_path: Path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub: Hub
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        source = write_records(tmp_path / "source", EXAMPLES)
        release.run(ReleaseConfig(source, tmp_path / "out", push="lab/notes"))
    assert hub.created[0] == {"name": "notes", "organization": "lab", "type": "dataset", "visibility": "private"}
    assert set(hub.files) == {"README.md", "manifest.json", "train-00000-of-00001.parquet"}
    assert json.loads(hub.files["manifest.json"])["splits"] == {"train": 6}
