"""Files of the user's survive every rerun, and two runs never mix in one folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.contract import manifests
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import (
    foreign_files,
    place_of,
    recording_files,
    working_folder,
    write_durably,
)
from data_prep.contract.manifests import read_manifest, writing_folder
from data_prep.contract.records import Generation, Note
from tests.helpers.places import ROOT

GENERATION = Generation("offline", "rules", "abc", 7, "stop")
NOTE = Note("r1-ds", "r1", "discharge summary", "text", "here", "CC0", "", GENERATION)


def write(out: Path, inputs: dict[str, str] | None = None) -> None:
    with writing_folder(out, "notes", inputs or {"in.csv": "hash"}) as writer:
        writer.add_shard([NOTE], Note)
        (writer.path / "tokenizer").mkdir()
        (writer.path / "tokenizer/tokenizer.json").write_text("{}")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add(out: Path) -> Path:
    (out / "my_annotations.xlsx").write_text("weeks of work")
    return out / "my_annotations.xlsx"


def add_deep(out: Path) -> Path:
    (out / "tokenizer/merges.txt").write_text("mine")
    return out / "tokenizer/merges.txt"


def add_folder(out: Path) -> Path:
    (out / "figures").mkdir()
    return out / "figures"


def add_link(out: Path) -> Path:
    (out / "latest").symlink_to("nowhere")
    return out / "latest"


def edit_card(out: Path) -> Path:
    with (out / "README.md").open("a") as file:
        file.write("\nWhat we found in these notes.")
    return out / "README.md"


@pytest.mark.parametrize("change", [add, add_deep, add_folder, add_link, edit_card])
def test_a_rerun_names_the_users_files_and_leaves_everything(tmp_path: Path, change):
    write(tmp_path / "notes")
    changed = change(tmp_path / "notes")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"did not write .*{changed.name}.*: move them away, or choose another --out"):
        write(tmp_path / "notes")
    assert tree(tmp_path) == before
    assert os.path.lexists(changed)


def test_a_file_put_in_during_the_run_costs_neither_the_file_nor_the_result(tmp_path: Path):
    write(tmp_path / "notes")

    def interrupted_by_work() -> None:
        with writing_folder(tmp_path / "notes", "notes", {}) as writer:
            writer.add_shard([NOTE, NOTE], Note)
            add(tmp_path / "notes")

    with pytest.raises(UserError, match=r"my_annotations.*The result of this run is in .*notes-new$"):
        interrupted_by_work()
    mine = tmp_path / "notes/my_annotations.xlsx"
    assert mine.read_text() == "weeks of work"
    assert read_manifest(tmp_path / "notes", "notes")["out"] == 1
    assert read_manifest(tmp_path / "notes-new", "notes")["out"] == 2


def test_the_leavings_of_a_file_manager_are_no_obstacle(tmp_path: Path):
    write(tmp_path / "notes")
    (tmp_path / "notes/.DS_Store").write_text("")
    write(tmp_path / "notes")
    assert not (tmp_path / "notes/.DS_Store").exists()


def test_a_manifest_that_says_the_kind_does_not_make_a_folder_ours(tmp_path: Path):
    out = tmp_path / "thesis"
    out.mkdir()
    for manifest in ({"kind": "notes"}, {"kind": "notes", "schema": 3, "files": "all"}):
        (out / "manifest.json").write_text(json.dumps(manifest))
        (out / "chapter.md").write_text("mine")
        with pytest.raises(UserError, match="choose another --out"):
            write(out)
        assert (out / "chapter.md").read_text() == "mine"


@pytest.mark.parametrize("name", [".notes.partial", ".notes.old", ".notes.asclepius"])
def test_hidden_folders_of_the_users_are_left_alone(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    if name == ".notes.asclepius":
        with pytest.raises(UserError, match="contains mine, which asclepius did not write: move it away"):
            write(tmp_path / "notes")
    else:
        write(tmp_path / "notes")
    assert (tmp_path / name / "mine").read_text() == "mine"


def test_a_symbolic_link_is_followed(tmp_path: Path):
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "notes").symlink_to("big_disk/notes")  # to a folder that is yet to come
    for _ in range(2):
        write(tmp_path / "notes")
        assert (tmp_path / "notes").is_symlink()
        assert (tmp_path / "big_disk/notes/manifest.json").is_file()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["big_disk", "notes"]
        assert [path.name for path in (tmp_path / "big_disk").iterdir()] == ["notes"]


def test_a_folder_that_cannot_be_replaced_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for out in (".", "..", "../inside", str(tmp_path)):
        with pytest.raises(UserError, match="current folder or contains it: name a folder to create"):
            write(Path(out))
    with pytest.raises(UserError, match="is a mounted disk"):
        place_of(Path("/proc"))


def test_an_input_is_never_replaced_by_its_own_output(tmp_path: Path):
    write(tmp_path / "data/notes")
    for out in ("data/notes", "data"):
        with pytest.raises(UserError, match="contains the input"):
            write(tmp_path / out, {str(tmp_path / "data/notes"): "hash"})
    assert read_manifest(tmp_path / "data/notes", "notes")["out"] == 1


HOLD = """
import sys, time
from pathlib import Path
from data_prep.contract.folders.output_folders import working_folder
with working_folder(Path(sys.argv[1])) as work:
    (work / "new").mkdir()
    (work / "new" / "half.parquet").write_text("half")
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_run_is_refused_and_a_killed_one_swept_up(tmp_path: Path):
    out = tmp_path / "notes"
    first = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, cwd=ROOT)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=rf"in use by process {first.pid} on .*: wait for it, or choose another --out"):
        write(out)
    assert (tmp_path / ".notes.asclepius/new/half.parquet").is_file(), "the first run's work is not touched"
    first.send_signal(signal.SIGKILL)
    first.wait()
    write(out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_run_killed_between_two_renames_loses_nothing(tmp_path: Path, capsys):
    write(tmp_path / "notes")
    (tmp_path / ".notes.asclepius").mkdir()
    (tmp_path / "notes").rename(tmp_path / ".notes.asclepius/old")
    with pytest.raises(RuntimeError), working_folder(tmp_path / "notes"):
        raise RuntimeError
    assert read_manifest(tmp_path / "notes", "notes")["out"] == 1
    assert "put back" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def take_over(work: Path) -> None:
    """As a run on another host does after this one fell silent."""
    (work / "lock.json").write_text('{"host": "elsewhere", "pid": 8, "started": ""}')
    shutil.rmtree(work / "new")
    (work / "new").mkdir()
    (work / "new/theirs.parquet").write_text("half")


def wake_up_after_takeover(work: Path) -> None:
    take_over(work)
    raise RuntimeError  # such as the end of its ledger


def test_a_run_that_wakes_after_a_takeover_leaves_the_work_of_the_other_alone(tmp_path: Path, monkeypatch):
    work = tmp_path / ".notes.asclepius"
    with pytest.raises(RuntimeError), writing_folder(tmp_path / "notes", "notes", {}):
        wake_up_after_takeover(work)
    assert (work / "new/theirs.parquet").is_file()
    shutil.rmtree(work)

    def write_and_sleep(path: Path, text: str) -> None:
        write_durably(path, text)
        if path.name == "manifest.json":
            take_over(work)

    monkeypatch.setattr(manifests, "write_durably", write_and_sleep)
    with pytest.raises(UserError, match=r"another run has taken over .*notes, because this one seemed dead"):
        write(tmp_path / "notes")
    assert (work / "new/theirs.parquet").is_file()
    assert not (tmp_path / "notes").exists()


def test_a_text_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    out = tmp_path / "page.html"
    out.write_text("old")
    out.chmod(0o600)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_durably(out, "new")
    assert out.read_text() == "old"
    monkeypatch.undo()
    (tmp_path / "link.html").symlink_to("page.html")
    write_durably(tmp_path / "link.html", "new")
    assert (out.read_text(), out.stat().st_mode & 0o777) == ("new", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "page.html"]
    write_durably(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


def test_a_folder_of_several_commands_knows_its_files(tmp_path: Path):
    with recording_files(tmp_path):
        (tmp_path / "ours").write_text("1")
    assert foreign_files(tmp_path) == []
    (tmp_path / "mine").write_text("2")
    with recording_files(tmp_path):
        (tmp_path / "ours too").write_text("3")
    assert foreign_files(tmp_path) == ["mine"]


EDITS = [
    ("files", None), ("files", {}), ("files", [7]), ("files", [{"name": "../../passwd", "records": 1, "sha256": ""}]),
    ("files", [{"name": "x", "records": "many", "sha256": ""}]), ("in", "many"), ("in", -1), ("out", 7), ("out", True),
    ("rejected", []), ("rejected", {"empty": "two"}), ("inputs", []), ("inputs", {"a": 1}), ("kind", 7), ("kind", None),
    ("schema", [3]), ("other_files", ["README.md"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_an_edited_manifest_is_one_line(tmp_path: Path, name: str, value):
    write(tmp_path / "notes")
    path = tmp_path / "notes/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, name: value}))
    with pytest.raises(UserError, match=r"manifest\.json|not notes"):
        read_manifest(tmp_path / "notes", "notes")
    del manifest[name]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"entry '{name}'|not written by asclepius"):
        read_manifest(tmp_path / "notes", "notes")[name]
