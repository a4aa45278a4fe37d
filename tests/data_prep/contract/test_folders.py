"""Folders on disk: whole or not at all, and refused where they are not what they should be."""

import errno
import json

import pytest

from data_prep.contract import manifests
from data_prep.contract.errors import UserError
from data_prep.contract.folders import holder
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder
from data_prep.contract.records import Generation, Note, Reject, read_parquet

GENERATION = Generation("offline", "rules", "abc", 7, "stop")


def note(k):
    return Note(f"r{k}-ds", f"r{k}", "discharge summary", f"text {k} µ", "here", "CC0", "", GENERATION)


def write(out, shards=3, kind="notes"):
    with writing_folder(out, kind, {"in.csv": "hash"}) as writer:
        for shard in range(shards):
            writer.add_shard([note(10 * shard + k) for k in range(2)], Note)
            writer.counts["in"] += 3
            writer.reject([Reject.of(note(99 - shard), "empty", "why")])
    return read_manifest(out, kind)


def test_records_come_back_equal_and_in_order(monkeypatch, tmp_path):
    manifest = write(tmp_path / "notes")
    paths = verified_files(tmp_path / "notes", manifest)
    assert [path.name for path in paths] == [f"notes-0000{k}-of-00003.parquet" for k in range(3)]
    assert [n for path in paths for n in read_parquet(path, Note)] == [
        note(10 * s + k) for s in range(3) for k in (0, 1)
    ]
    assert (manifest["in"], manifest["out"], manifest["rejected"]) == (9, 6, {"empty": 3})
    rejects = list(read_parquet(tmp_path / "notes" / "rejected.parquet", Reject))
    assert [reject.id for reject in rejects] == ["r99-ds", "r98-ds", "r97-ds"], "in the order in which they came"
    assert json.loads(rejects[0].record)["text"] == "text 99 µ"


def test_datasets_loads_the_records_without_the_rejects(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "notes")
    loaded = datasets.load_dataset(str(tmp_path / "notes"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == 6
    assert loaded["train"][0]["generation"]["seed"] == 7


def test_a_second_run_replaces_the_first_whole(tmp_path):
    write(tmp_path / "notes", shards=3)
    write(tmp_path / "notes", shards=1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["notes"]
    assert len(list((tmp_path / "notes").glob("notes-*.parquet"))) == 1


def test_a_run_that_fails_leaves_the_old_folder(tmp_path):
    old = write(tmp_path / "notes")

    def fail():
        with writing_folder(tmp_path / "notes", "notes", {}) as writer:
            writer.add_shard([note(1)], Note)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_manifest(tmp_path / "notes", "notes") == old
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path, monkeypatch):
    left = tmp_path / ".notes.asclepius/new"
    left.mkdir(parents=True)
    (left / "notes-00009.parquet").write_text("half")
    (left.parent / "lock.json").write_text('{"host": "')  # of a process killed in its first millisecond
    monkeypatch.setattr(holder, "SILENCE_SECONDS", 0.1)
    assert write(tmp_path / "notes")["out"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
    assert not list((tmp_path / "notes").glob("*00009*"))


@pytest.mark.parametrize("function", ["write_parquet", "write_durably"])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch, function):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifests, function, full)
    with pytest.raises(UserError, match="the disk is full"):
        write(tmp_path / "notes")
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for kind in ("notes", "instructions"):
        with pytest.raises(UserError, match="choose another --out"):
            write(tmp_path / "mine", kind=kind)
    write(tmp_path / "notes")
    with pytest.raises(UserError, match="does not contain finished instructions"):
        write(tmp_path / "notes", kind="instructions")
    (tmp_path / "notes" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="choose another --out"):
        write(tmp_path / "notes")


def test_an_output_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        write(tmp_path / "file" / "notes")


def test_unfinished_and_foreign_folders_are_refused(tmp_path):
    out = tmp_path / "notes"
    with pytest.raises(UserError, match="no such folder"):
        read_manifest(out, "notes")
    write(out)
    with pytest.raises(UserError, match="contains notes, not instructions"):
        read_manifest(out, "instructions")
    for text, says in [("{", "not JSON"), ("[]", "not written by asclepius"), ('{"schema": 99}', "schema 99")]:
        (out / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=says):
            read_manifest(out, "notes")
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        read_manifest(out, "notes")


def test_a_changed_or_missing_shard_is_refused(tmp_path):
    manifest = write(tmp_path / "notes")
    shard = tmp_path / "notes" / manifest["files"][1]["name"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet does not match"):
        verified_files(tmp_path / "notes", manifest)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        verified_files(tmp_path / "notes", manifest)
