"""Stage 2 from file to folder: with the offline teacher, and with an endpoint."""

import errno
import json
from pathlib import Path

import pytest
import tyro

from data_prep.contract import manifests
from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.ingest.case_reports import ReportsConfig
from data_prep.synthesize import notes
from data_prep.synthesize.note_types import NOTE_TYPES
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.prompts import note_prompt_hash
from data_prep.teachers.base import TeacherConfig
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion, failure
from tests.helpers.text_stages import TEXT, api, read_notes, write_reports


def test_every_report_becomes_a_note_that_says_where_it_comes_from(tmp_path):
    manifest = notes.run(NotesConfig(write_reports(tmp_path / "a.jsonl", 5), tmp_path / "out"))
    made, rejects = read_notes(tmp_path / "out")
    assert [note.id for note in made] == [f"r{k}-ds" for k in range(5)]
    assert (manifest["in"], manifest["out"], manifest["rejected"], rejects) == (5, 5, {}, [])
    note = made[3]
    assert (note.report_id, note.source, note.licence, note.article) == ("r3", "a", "CC0", "10/3")
    assert note.note_type == "discharge summary"
    assert (note.generation.teacher, note.generation.finish_reason) == ("offline", "stop")
    assert note.generation.prompt_hash == note_prompt_hash(NOTE_TYPES["discharge summary"])


def test_the_output_does_not_depend_on_workers(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 23)
    files = [
        notes.run(NotesConfig(source, tmp_path / f"{workers}", shards=ShardsConfig(4, workers)))["files"]
        for workers in (1, 2, 3)
    ]
    assert len(files[0]) == 6
    assert files[0] == files[1] == files[2]


def test_equal_notes_are_rejected_across_shards_and_the_first_stays(tmp_path):
    rows = [{"id": f"r{k}", "text": TEXT.format(age=30 + k % 3)} for k in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes.run(NotesConfig(str(tmp_path / "a.jsonl"), tmp_path / "out", shards=ShardsConfig(2, 2)))
    made, rejects = read_notes(tmp_path / "out")
    assert [note.id for note in made] == ["r0-ds", "r1-ds", "r2-ds"]
    assert {reject.reason for reject in rejects} == {"duplicate"}
    assert len(rejects) == 6


def test_malformed_rows_are_counted_among_the_rejects(tmp_path):
    write_reports(tmp_path / "a.jsonl", 120)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    lines[4] = "{broken"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    manifest = notes.run(NotesConfig(str(tmp_path / "a.jsonl"), tmp_path / "out"))
    assert (manifest["in"], manifest["out"], manifest["rejected"]) == (120, 119, {"malformed": 1})
    assert read_notes(tmp_path / "out")[1][0].id == "a.jsonl:5"


def test_an_endpoint_is_asked_once_for_each_report_and_never_again(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 9)

    def answer(body, n):
        report = body["messages"][1]["content"]
        age = report.split("A ")[-1].split("-year-old")[0]
        if age == "22":
            return completion(f"Pt {age} y/o", "length")
        if age == "23":
            return completion("I'm sorry, but I can't help with that.")
        if age == "24":
            return failure(500)
        return completion(f"HPI: {age} y/o F with chest pain. " * 10)

    with FakeEndpoint(answer) as endpoint:
        config = NotesConfig(source, tmp_path / "out", teacher=api(endpoint, max_tokens=99), shards=ShardsConfig(2))
        first = notes.run(config)
        made, rejects = read_notes(tmp_path / "out")
        asked = len(endpoint.requests)
        again = notes.run(config)
        assert len(endpoint.requests) == asked + 1, "only the one that failed is asked again"
    assert asked == 9 + 1, "a note that was cut is asked for once more, with more room"
    assert [body["max_tokens"] for body in endpoint.requests[:10]].count(198) == 1
    assert first["files"] == again["files"]
    assert [(r.id, r.reason) for r in rejects] == [("r2-ds", "truncated"), ("r3-ds", "refusal"), ("r4-ds", "error")]
    assert made[0].generation.model == "fake-1"
    assert made[0].text.endswith("chest pain.")
    assert [body["seed"] for body in endpoint.requests[:9]] != [0] * 9
    assert all(TEXT[20:60] in body["messages"][1]["content"] for body in endpoint.requests)


def test_a_bad_key_ends_the_run_and_leaves_no_folder(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeEndpoint(lambda body, n: failure(401)) as endpoint, pytest.raises(UserError, match="401"):
        notes.run(NotesConfig(source, tmp_path / "out", teacher=api(endpoint), shards=ShardsConfig(2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.ledger.sqlite"]


def test_a_run_of_which_every_request_failed_is_not_finished(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 5)
    said = pytest.raises(UserError, match="every request failed, the last with: note: not a chat completion")
    with FakeEndpoint(lambda body, n: (200, {}, "<html>")) as endpoint, said:
        notes.run(NotesConfig(source, tmp_path / "out", teacher=api(endpoint), shards=ShardsConfig(2)))
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_broken_off_pays_for_the_rest_only(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 12)
    healthy = False

    def answer(body, n):
        return completion("word " * 30 + body["messages"][1]["content"][-400:]) if healthy or n < 7 else failure(401)

    with FakeEndpoint(answer) as endpoint:
        config = NotesConfig(source, tmp_path / "out", teacher=api(endpoint, concurrency=1), shards=ShardsConfig(3))
        with pytest.raises(UserError, match="401"):
            notes.run(config)
        broken_off = len(endpoint.requests)
        healthy = True
        assert notes.run(config)["out"] == 12
    assert len(endpoint.requests) - broken_off == 12 - 7


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    source = write_reports(tmp_path / "a.jsonl", 4)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifests, "write_parquet", full)
    with pytest.raises(UserError, match="the disk is full"):
        notes.run(NotesConfig(source, tmp_path / "out", shards=ShardsConfig(2, 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_is_no_collection_is_refused(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 2)
    with pytest.raises(UserError, match="no such file"):
        notes.run(NotesConfig(str(tmp_path / "absent.csv"), tmp_path / "out"))
    notes.run(NotesConfig(source, tmp_path / "out"))
    with pytest.raises(UserError, match="output folder of another stage"):
        notes.run(NotesConfig(str(tmp_path / "out"), tmp_path / "out2"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="contains no records"):
        notes.run(NotesConfig(str(tmp_path / "empty.jsonl"), tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_limit_takes_the_first_reports(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 9)
    notes.run(NotesConfig(source, tmp_path / "out", shards=ShardsConfig(limit=3)))
    assert [note.id for note in read_notes(tmp_path / "out")[0]] == ["r0-ds", "r1-ds", "r2-ds"]


def test_the_flags_read_as_users_know_them():
    line = (
        "--source a.csv --out b --teacher openai --base-url http://x/v1 --model m --workers 3 --limit 5 --licence CC0"
    )
    config = tyro.cli(NotesConfig, args=line.split())
    assert config == NotesConfig(
        "a.csv",
        Path("b"),
        reports=ReportsConfig(licence="CC0"),
        teacher=TeacherConfig("openai", "http://x/v1", "m"),
        shards=ShardsConfig(workers=3, limit=5),
    )
