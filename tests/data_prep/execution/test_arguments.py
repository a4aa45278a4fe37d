"""What every command makes of its arguments, and of what they name: expanded, refused in one line, never half done."""

import hashlib
import json
from pathlib import Path

from tests.helpers.command_line import Ask
from tests.helpers.made_inputs import note, write_records


def test_a_damaged_file_whose_hash_is_right_is_named(refused: Ask, tmp_path: Path):
    source = write_records(tmp_path / "notes", [note(f"n{k}", f"A note, number {k}.") for k in range(40)])
    manifest = json.loads((source / "manifest.json").read_text())
    file = source / manifest["files"][0]["name"]
    spoiled = file.read_bytes()[:100] + bytes(200) + file.read_bytes()[300:]
    file.write_bytes(spoiled)
    manifest["files"][0]["sha256"] = hashlib.sha256(spoiled).hexdigest()
    (source / "manifest.json").write_text(json.dumps(manifest))
    assert "does not contain readable records" in refused("instructions", "--source", source, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_no_file_can_have(refused: Ask, tmp_path: Path):
    assert "File name too long" in refused("notes", "--source", "x" * 300, "--out", tmp_path / "out")
    assert "is not UTF-8: rename the file" in refused("notes", "--source", "caf\udce9.csv", "--out", tmp_path / "out")


def test_a_home_folder_in_quotes_is_that_of_the_user(refused: Ask, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("~/a.csv", "~"):
        assert str(tmp_path) in refused("pack", "--source", source, "--out=~/out", "--tokenizer", "t")


def test_a_run_that_rejects_every_record_is_no_success(refused: Ask, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "Short."}\n')
    told = refused("notes", "--source", tmp_path / "a.jsonl", "--out", tmp_path / "out")
    assert "every record was rejected (1 " in told.splitlines()[-1]
    assert (tmp_path / "out/rejected.parquet").is_file()
