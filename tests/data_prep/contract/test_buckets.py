"""Local copies of buckets: the same bytes on both sides, whatever the network does, and no half of anything."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.folders import holder as holders
from data_prep.contract.folders.buckets import local_copies, objects
from data_prep.contract.folders.buckets.addresses import as_url, bucket_path, local_path
from data_prep.contract.folders.buckets.local_copies import fetch, fetch_output, send, sending
from data_prep.contract.folders.buckets.objects import BucketPath
from data_prep.contract.folders.folder_lock import LOCK, locked
from data_prep.contract.manifests import read_manifest, verified_files
from tests.helpers.endpoints.object_store import BUCKET, ObjectStore, running, used
from tests.helpers.made_inputs import note, sentences, write_records
from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with running() as store:
        yield store


@pytest.fixture(params=["s3", "gs"])
def store(request, server: ObjectStore, monkeypatch, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store, whose failing requests are repeated soon."""
    soon = {"init_backoff": timedelta(seconds=0.01), "max_backoff": timedelta(seconds=0.05), "base": 2}
    monkeypatch.setitem(objects.RETRIES, "backoff", soon)
    with used(server, f"{request.param}://{BUCKET}", tmp_path / "cache", monkeypatch) as store:
        yield store


def write_notes(url: str, count: int = 3, seed: int = 0) -> Path:
    """A finished folder of notes in the copy of an address."""
    out = local_path(url)
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_records(
        out, [note(f"{seed}-{number}", text) for number, text in enumerate(sentences(count, 90, seed))]
    )


def other_machine(monkeypatch, tmp_path: Path, number: int = 0) -> None:
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / f"other-{number}"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("key", ["a", "a/b.csv", "a b/ü+&%/c=d?.txt", "x/" * 20 + "y"])
def test_an_object_is_read_as_it_was_written(store: ObjectStore, key: str):
    path = BucketPath.parse(f"{store.top}/{key}")
    path.write_bytes(key.encode() * 3)
    assert path.read_bytes() == store.read(key) == key.encode() * 3
    assert store.names() == [key]
    assert path.is_file()
    assert not path.is_dir()
    assert path in [*path.parent.iterdir()]
    assert path.stat().st_size == len(key.encode() * 3)
    path.unlink()
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(store: ObjectStore):
    for key in ("run/a", "run/b/c", "run-2/d", "runs"):
        store.write(key, b"1")
    run = BucketPath.parse(f"{store.top}/run/")
    assert [path.name for path in run.iterdir()] == ["a", "b"]
    assert sorted(path.key for path in run.rglob("*")) == ["run/a", "run/b/c"]
    run.remove_all()
    assert store.names() == ["run-2/d", "runs"]


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "gs://B/a", "s3://bucket/../a", "gs://bucket/a/./b"])
def test_an_address_that_no_folder_could_have_is_refused(url: str):
    with pytest.raises(UserError, match="is no address in a bucket"):
        BucketPath.parse(url)


def test_a_copy_and_its_address_name_each_other(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path))
    for url in ("s3://bucket/data/notes", "gs://b.c-d/x"):
        assert str(bucket_path(local_path(url))) == as_url(str(local_path(url))) == url
    assert bucket_path(tmp_path / "buckets") is None
    assert as_url("/elsewhere/data") == "/elsewhere/data"
    assert as_url("data") == "data"


def test_what_one_machine_sends_another_fetches(store: ObjectStore, monkeypatch, tmp_path: Path):
    out = write_notes(f"{store.top}/data/notes")
    before = content(out)
    send(f"{store.top}/data/notes")
    other_machine(monkeypatch, tmp_path)
    fetched = fetch(f"{store.top}/data/notes")
    assert fetched != out
    assert content(fetched) == before
    verified_files(fetched, read_manifest(fetched, "notes"))


def test_nothing_is_transferred_twice(store: ObjectStore):
    write_notes(f"{store.top}/notes")
    send(f"{store.top}/notes")
    store.requests.clear()
    send(f"{store.top}/notes")
    fetch(f"{store.top}/notes")
    assert not [path for method, path in store.requests if method == "PUT" or "notes-00000" in path]


def test_what_changed_in_the_bucket_is_fetched_and_what_went_is_removed(store: ObjectStore):
    for key in ("d/a", "d/b"):
        store.write(key, b"old")
    folder = fetch(f"{store.top}/d")
    assert content(folder) == {"a": b"old", "b": b"old"}
    store.write("d/a", b"new")  # of the same size and, perhaps, in the same second
    store.delete("d/b")
    assert content(fetch(f"{store.top}/d")) == {"a": b"new"}


def test_the_manifest_comes_last_and_leaves_first(store: ObjectStore):
    url = f"{store.top}/data/notes"
    for seed in (0, 1):
        write_notes(url, seed=seed)
        store.requests.clear()
        send(url)
        changes = [
            (method, path.replace("%2E", ".")) for method, path in store.requests if method not in ("GET", "HEAD")
        ]
        changes = [(method, path) for method, path in changes if "asclepius" not in path]  # the lock
        assert changes[-1][1].endswith("manifest.json")
        assert changes[0][0] == ("PUT" if not seed else "POST" if "?delete" in changes[0][1] else "DELETE")
    verified_files(local_path(url), read_manifest(local_path(url), "notes"))


def test_a_kill_while_sending_leaves_no_finished_folder(store: ObjectStore, monkeypatch, tmp_path: Path):
    url = f"{store.top}/data/notes"
    write_notes(url)
    send(url)
    out = write_notes(url, count=5, seed=2)
    written = content(out)

    class Killed(BaseException):
        pass

    def upload(path: BucketPath, real=local_copies.upload) -> None:
        if path.name.startswith("notes-"):
            raise Killed
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(local_copies, "upload", upload)
        with pytest.raises(Killed):
            send(url)
    here = os.environ["ASCLEPIUS_CACHE"]
    other_machine(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="is not finished"):
        read_manifest(fetch(url), "notes")
    monkeypatch.setenv("ASCLEPIUS_CACHE", here)
    assert content(fetch_output(url)) == written  # what it had not sent is still here
    send(url)
    other_machine(monkeypatch, tmp_path, 1)
    assert content(fetch(url)) == written


def test_a_ledger_that_two_machines_changed_is_not_lost(store: ObjectStore, capsys):
    url = f"{store.top}/notes.ledger.sqlite"
    store.write("notes.ledger.sqlite", b"first")
    local = fetch(url)
    local.write_bytes(b"here")
    store.write("notes.ledger.sqlite", b"there")
    assert fetch_output(f"{store.top}/notes").name == "notes"
    assert local.read_bytes() == b"there"
    assert local.with_name(f".{local.name}.unsent").read_bytes() == b"here"
    assert "has changed since a run here was killed" in capsys.readouterr().err


def test_a_database_in_use_is_sent_as_it_is_between_transactions(store: ObjectStore, tmp_path: Path):
    import sqlite3

    url = f"{store.top}/notes"
    ledger = local_path(url).with_name("notes.ledger.sqlite")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(ledger)
    database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE calls (key TEXT)")
    for number in range(3):
        with database:
            database.execute("INSERT INTO calls VALUES (?)", (str(number),))
        send(f"{url}.ledger.sqlite", whole=False)
        copy = tmp_path / f"{number}.sqlite"
        copy.write_bytes(store.read("notes.ledger.sqlite"))
        assert sqlite3.connect(copy).execute("SELECT count(*) FROM calls").fetchone() == (number + 1,)
    database.close()
    with sending([url]):
        pass
    assert store.names() == ["notes.ledger.sqlite"]


@pytest.mark.parametrize("kind", ["503", "cut", "slow"])
def test_faults_of_the_network_change_no_byte(store: ObjectStore, monkeypatch, tmp_path: Path, kind: str):
    chance = random.Random(kind)
    share = 0.1 if kind == "slow" else 0.3
    store.fault = lambda method, path: kind if chance.random() < share and (kind != "cut" or method == "GET") else ""
    out = write_notes(f"{store.top}/data/notes", 20)
    send(f"{store.top}/data/notes")
    written = content(out)
    other_machine(monkeypatch, tmp_path)
    assert content(fetch(f"{store.top}/data/notes")) == written


def test_every_truncation_and_deletion_is_noticed(store: ObjectStore, monkeypatch, tmp_path: Path):
    write_notes(f"{store.top}/notes", 8)
    send(f"{store.top}/notes")
    chance, saved = random.Random(1), {key: store.read(key) for key in store.names()}
    for number in range(20):
        key = chance.choice([*saved])
        if number % 2:
            store.delete(key)
        else:
            store.write(key, saved[key][: chance.randrange(len(saved[key]))])
        other_machine(monkeypatch, tmp_path, number)
        with pytest.raises(UserError):
            read_manifest(fetch(f"{store.top}/notes"), "notes")
        for name, data in saved.items():
            store.write(name, data)


def test_a_bucket_that_denies_is_told_in_one_line(store: ObjectStore):
    store.fault = lambda method, path: "403"
    with pytest.raises(UserError, match=r"access was denied while .*: set ") as error:
        fetch(f"{store.top}/notes")
    assert "\n" not in str(error.value)


HOLD = """
import sys, time
from data_prep.contract.folders.buckets.addresses import local_path
from data_prep.contract.folders import holder
from data_prep.contract.folders.folder_lock import locked
holder.BEAT_SECONDS = 0.2
if sys.argv[2]:
    holder.place = lambda: {"host": sys.argv[2], "pid_namespace": ""}
with locked(local_path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def hold(url: str, host: str = "", cache: Path | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, host],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **({"ASCLEPIUS_CACHE": str(cache)} if cache else {})},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_in_a_bucket_keeps_out_another_machine(store: ObjectStore, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr(holders, "SILENCE_SECONDS", 1.5)
    url = f"{store.top}/run"
    first = hold(url, "elsewhere", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"in use by process {first.pid} on elsewhere .*: wait for it, or choose"), \
            locked(local_path(url)):  # fmt: skip
        pass
    first.kill()
    first.wait()
    with locked(local_path(url)):
        assert json.loads(store.read(f"run/{LOCK}"))["pid"] == os.getpid()
    assert "was left by process" in capsys.readouterr().err
    assert not store.names()


def test_a_stopped_holder_ends_when_it_wakes(store: ObjectStore, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(holders, "SILENCE_SECONDS", 1.0)
    url = f"{store.top}/run"
    first = hold(url, "elsewhere", tmp_path / "elsewhere")
    first.send_signal(signal.SIGSTOP)
    with locked(local_path(url)):
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=20) == 2
        assert first.stderr is not None
        assert "has taken over" in first.stderr.read()
        time.sleep(0.5)
        assert json.loads(store.read(f"run/{LOCK}"))["pid"] == os.getpid()


@pytest.mark.parametrize("key", ["d/../../evil", "d/./a", "d//a"])
def test_an_object_cannot_leave_the_copies(store: ObjectStore, tmp_path: Path, key: str):
    store.write("d/good", b"1")
    store.write(key, b"2")
    with pytest.raises(UserError):
        fetch(f"{store.top}/d")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil"]


def test_an_object_in_the_way_of_a_folder_is_told(store: ObjectStore):
    store.write("d/a", b"1")
    store.write("d/a/b", b"2")
    with pytest.raises(UserError, match="cannot be written"):
        fetch(f"{store.top}/d")


def test_an_answer_that_is_lost_loses_no_lock(store: ObjectStore, monkeypatch):
    """The request was carried out and is repeated, which then meets the lock that it made itself."""
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.1)
    seen: list[str] = []

    def fault(method: str, path: str) -> str:
        seen.append(method)
        return "lost" if method == "PUT" and seen.count("PUT") in (1, 3, 6) else ""

    store.fault = fault
    with locked(local_path(f"{store.top}/run")):
        time.sleep(2)
        assert json.loads(store.read(f"run/{LOCK}"))["pid"] == os.getpid()
    assert not store.names()
