"""The ledger: what was paid for stays, whatever happens in between."""

import asyncio
import multiprocessing
import os
import sqlite3
import threading

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.folders.network_disks import is_on_network
from data_prep.teachers.base import TeacherConfig, ledger_path
from data_prep.teachers.endpoint import ledger as ledger_module
from data_prep.teachers.endpoint.ledger import Ledger, canonical, key_of, request_key
from data_prep.teachers.endpoint.ledger_tables import unpacked

REQUEST = {"base_url": "http://x/v1", "model": "m", "temperature": 1.0, "seed": 3, "messages": [{"role": "user"}]}


def numbered(seed):
    text = canonical({**REQUEST, "seed": seed})
    return key_of(text), text


async def send(ledger, seed, response=None, cost=0.0):
    """A request up to the point of being in flight, or answered."""
    key, text = numbered(seed)
    await ledger.plan(key, text, "note")
    await ledger.begin(key, cost)
    if response is not None:
        await ledger.finish(key, response)
    return key


def test_equal_requests_have_one_key_and_any_difference_another():
    assert request_key(REQUEST) == request_key(dict(reversed(REQUEST.items())))
    for name, value in {"base_url": "http://y/v1", "model": "n", "temperature": 0.5, "seed": 4, "messages": []}.items():
        assert request_key({**REQUEST, name: value}) != request_key(REQUEST), name


def test_a_response_is_there_after_reopening(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    key = asyncio.run(send(ledger, 1))
    assert ledger.response(key) is None
    assert ledger.counts() == {"in flight": 1}
    asyncio.run(ledger.finish(key, '{"raw": "é"}'))
    ledger.close()
    again = Ledger(tmp_path / "a.sqlite")
    assert again.response(key) == '{"raw": "é"}'
    assert again.counts() == {"done": 1}
    known = asyncio.run(again.plan(*numbered(1), "note"))
    assert (known.state, known.response) == ("done", '{"raw": "é"}')


def die_in_flight(path):
    ledger = Ledger(path)
    ledger.take_over()
    asyncio.run(send(ledger, 1, "paid", 0.5))
    asyncio.run(send(ledger, 2, None, 0.25))
    asyncio.run(ledger.plan(*numbered(3), "note"))
    os._exit(9)


def test_a_killed_process_leaves_what_it_paid_for_and_what_was_in_flight(tmp_path):
    path = tmp_path / "a.sqlite"
    process = multiprocessing.get_context("spawn").Process(target=die_in_flight, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    ledger = Ledger(path)
    assert ledger.response(numbered(1)[0]) == "paid"
    assert ledger.response(numbered(2)[0]) is None
    assert ledger.counts() == {"done": 1, "in flight": 1, "planned": 1}
    # The dead process held the lock; one request may be paid twice, and its worst cost stays on the books.
    assert ledger.take_over() == 1
    assert ledger.counts() == {"done": 1, "planned": 2}
    assert ledger.uncertain() == 1
    assert ledger.spent() == 0.75


def test_two_runs_cannot_share_a_ledger(tmp_path):
    first, second = Ledger(tmp_path / "a.sqlite"), Ledger(tmp_path / "a.sqlite")
    first.take_over()
    with pytest.raises(UserError, match="another run uses"):
        second.take_over()
    first.close()
    second.take_over()
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite"]


def test_a_run_that_was_believed_dead_writes_nothing_once_another_has_taken_over(tmp_path):
    """A file server drops the lock of a host that it does not hear; here the lock's file is removed."""

    async def go():
        sleeping = Ledger(tmp_path / "ledger.sqlite")
        sleeping.take_over()
        key = await send(sleeping, 1)
        await send(sleeping, 2, "paid")
        (tmp_path / "ledger.sqlite.lock").unlink()
        awake = Ledger(tmp_path / "ledger.sqlite")
        assert awake.take_over() == 1
        with pytest.raises(UserError, match="another run has taken over the ledger"):
            await sleeping.finish(key, "late")
        with pytest.raises(UserError, match="another run has taken over the ledger"):
            await send(sleeping, 3)
        sleeping.close()
        await send(awake, 1, "in time")
        assert awake.response(key) == "in time"
        assert awake.response(numbered(2)[0]) == "paid"
        assert awake.counts() == {"done": 2}
        with pytest.raises(UserError, match="another run uses the ledger"):
            Ledger(tmp_path / "ledger.sqlite").take_over()
        awake.close()
        assert not (tmp_path / "ledger.sqlite.lock").exists()

    asyncio.run(go())


def test_a_run_that_sleeps_at_the_start_of_a_commit_does_not_finish_it_after_a_takeover(tmp_path):
    async def go():
        sleeping = Ledger(tmp_path / "ledger.sqlite")
        sleeping.take_over()
        key = await send(sleeping, 1)

        def sleep(statement):
            if statement == "BEGIN IMMEDIATE":
                (tmp_path / "ledger.sqlite.lock").write_bytes(b"of another run")

        sleeping.database.set_trace_callback(sleep)
        with pytest.raises(UserError, match="another run has taken over the ledger"):
            await sleeping.finish(key, "late")
        sleeping.database.set_trace_callback(None)
        assert sleeping.counts() == {"in flight": 1}
        sleeping.close()

    asyncio.run(go())


def test_on_a_disk_of_the_network_one_process_has_the_database_alone(tmp_path, monkeypatch):
    assert not is_on_network(tmp_path)
    monkeypatch.setattr(ledger_module, "is_on_network", lambda file: True)
    one = Ledger(tmp_path / "ledger.sqlite")
    one.take_over()
    asyncio.run(send(one, 1, "reply"))
    # No index that other hosts would not see.
    assert not (tmp_path / "ledger.sqlite-shm").exists()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(tmp_path / "ledger.sqlite", timeout=0).execute("SELECT * FROM calls")
    one.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.response(numbered(1)[0]) == "reply"
    again.close()


@pytest.mark.parametrize("spelling", ["link", "link in another folder", "folder/../a.sqlite", "linked folder/a.sqlite"])
def test_a_ledger_under_another_name_has_the_same_lock(tmp_path, spelling):
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked folder").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("a.sqlite")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.sqlite").symlink_to(tmp_path / "link")
    other = tmp_path / spelling.replace("link in another folder", "elsewhere/a.sqlite")
    first, second = Ledger(tmp_path / "a.sqlite"), Ledger(other)
    first.take_over()
    with pytest.raises(UserError, match="another run uses"):
        second.take_over()
    first.close()
    second.take_over()
    second.close()


def test_a_ledger_with_two_names_is_refused_before_anything_is_read(tmp_path):
    """SQLite names its log of changes after the file, so that the one of another name would not be found."""
    Ledger(tmp_path / "a.sqlite").close()
    (tmp_path / "b.sqlite").hardlink_to(tmp_path / "a.sqlite")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"b\.sqlite has 2 names.*make a copy"):
        Ledger(tmp_path / "b.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "a.sqlite").symlink_to(tmp_path / "b.sqlite")
    (tmp_path / "b.sqlite").symlink_to(tmp_path / "a.sqlite")
    with pytest.raises(UserError, match=r"cannot use .*a\.sqlite as the ledger"):
        Ledger(tmp_path / "a.sqlite")


def test_a_link_to_an_output_folder_has_the_ledger_of_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = TeacherConfig()
    assert ledger_path(config, tmp_path / "link") == ledger_path(config, tmp_path / "real")
    (tmp_path / "link.ledger.sqlite").touch()  # of an earlier run, which paid for what is in it
    assert ledger_path(config, tmp_path / "link").name == "link.ledger.sqlite"


def together(ledger, *operations):
    """The outcomes of operations that arrive while the disk is busy, so that they share a commit."""

    async def go():
        with ledger.one_at_a_time:
            tasks = [asyncio.create_task(operation) for operation in operations]
            await asyncio.sleep(0.05)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(go())


def break_down(database):
    database.execute("UPDATE calls SET response = 'gone'")
    raise ZeroDivisionError


def test_an_operation_that_fails_leaves_its_neighbours_their_replies(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    keys = [asyncio.run(send(ledger, seed)) for seed in range(9)]
    outcomes = together(
        ledger,
        *(ledger.finish(key, "paid") for key in keys[:4]),
        ledger.finish(keys[4], "half a pair \ud83d"),
        ledger.grouped(lambda database: database.execute("SELECT nothing FROM nowhere")),
        ledger.grouped(break_down),
        *(ledger.finish(key, "paid") for key in keys[5:]),
    )
    assert [type(outcome) for outcome in outcomes] == [
        *[type(None)] * 4, UserError, UserError, ZeroDivisionError, *[type(None)] * 4
    ]  # fmt: skip
    ledger.close()
    again = Ledger(tmp_path / "a.sqlite")
    assert [again.response(key) for key in keys] == ["paid"] * 4 + [None] + ["paid"] * 4


def test_on_a_full_disk_what_fits_is_kept(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    keys = [asyncio.run(send(ledger, seed)) for seed in range(6)]
    pages = ledger.database.execute("PRAGMA page_count").fetchone()[0]
    ledger.database.execute(f"PRAGMA max_page_count={pages + 1}")
    replies = ["paid"] * 3 + [os.urandom(50_000).hex()] + ["paid"] * 2
    outcomes = together(ledger, *map(ledger.finish, keys, replies))
    assert [isinstance(outcome, UserError) for outcome in outcomes] == [False] * 3 + [True] + [False] * 2
    assert ledger.counts() == {"done": 5, "in flight": 1}


def test_many_at_once_share_commits_and_none_is_lost(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    commits = []
    ledger.database.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)

    async def all_at_once():
        await asyncio.gather(*(send(ledger, seed, f"reply {seed}") for seed in range(2000)))

    asyncio.run(all_at_once())
    assert len(commits) < 600, "6,000 steps"
    ledger.database.set_trace_callback(None)
    ledger.close()
    again = Ledger(tmp_path / "a.sqlite")
    assert again.counts() == {"done": 2000}
    assert all(again.response(numbered(seed)[0]) == f"reply {seed}" for seed in range(0, 2000, 97))


def test_a_step_is_committed_when_it_returns(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    key = asyncio.run(send(ledger, 1, "paid"))
    # Another connection sees committed rows alone.
    other = sqlite3.connect(tmp_path / "a.sqlite")
    ((state, response),) = other.execute("SELECT state, response FROM calls WHERE key = ?", (key,))
    assert (state, unpacked(response)) == ("done", "paid")


def test_texts_are_compressed_and_those_of_the_layout_before_are_read(tmp_path):
    text = canonical({"messages": ["The patient was admitted with fever. " * 200]})
    ledger = Ledger(tmp_path / "a.sqlite")
    key = key_of(text)
    asyncio.run(ledger.plan(key, text, "note"))
    asyncio.run(ledger.begin(key))
    asyncio.run(ledger.finish(key, text))
    assert ledger.database.execute("SELECT length(request) FROM requests").fetchone()[0] < len(text) / 20
    ledger.database.execute("UPDATE calls SET response = 'plain'")  # as layout 2 has it
    ledger.database.execute("UPDATE requests SET request = 'plain request'")
    assert ledger.response(key) == "plain"
    assert list(ledger.answered("note", 9)) == [("plain request", "plain")]
    ledger.database.execute("UPDATE calls SET response = x'00'")
    with pytest.raises(UserError, match="cannot read or write the ledger"):
        ledger.response(key)


def test_the_event_loop_never_waits_for_the_disk(tmp_path):
    """A writer from outside holds the database for a while: the loop must go on turning."""
    ledger = Ledger(tmp_path / "a.sqlite")
    other = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.4, lambda: other.execute("COMMIT")).start()

    async def turns_while_waiting():
        task, turns = asyncio.create_task(send(ledger, 1)), 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(turns_while_waiting()) > 15


def test_a_ledger_of_the_first_layout_keeps_what_was_paid_for(tmp_path):
    old = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    old.executescript(
        "CREATE TABLE requests (key TEXT PRIMARY KEY, request TEXT NOT NULL, response TEXT);"
        "CREATE TABLE frozen (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
        "INSERT INTO frozen VALUES ('pool', '[1]');"
    )
    for seed, response in ((1, "paid"), (2, None)):
        old.execute("INSERT INTO requests VALUES (?, ?, ?)", (*numbered(seed), response))
    old.close()
    for _ in range(2):
        ledger = Ledger(tmp_path / "a.sqlite")
        assert ledger.counts() == {"done": 1, "in flight": 1}
        assert asyncio.run(ledger.plan(*numbered(1), "note")).response == "paid"
        assert ledger.thawed("pool") == [1]
        ledger.close()


def test_a_ledger_of_a_later_layout_is_refused(tmp_path):
    sqlite3.connect(tmp_path / "a.sqlite").execute("PRAGMA user_version = 99").close()
    with pytest.raises(UserError, match="layout 99"):
        Ledger(tmp_path / "a.sqlite")


def test_a_frozen_value_is_made_once(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    assert ledger.thawed("pool") is None
    assert ledger.frozen("pool", lambda: {"a": ["b"]}) == {"a": ["b"]}
    assert Ledger(tmp_path / "a.sqlite").frozen("pool", lambda: pytest.fail("made again")) == {"a": ["b"]}


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "a.sqlite").write_text("not a database, but long enough to be looked at" * 40)
    with pytest.raises(UserError, match=r"cannot use .*a\.sqlite as the ledger"):
        Ledger(tmp_path / "a.sqlite")


def test_a_full_disk_is_one_line(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    pages = ledger.database.execute("PRAGMA page_count").fetchone()[0]
    ledger.database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(UserError, match="full"):
        asyncio.run(ledger.plan("key", os.urandom(50_000).hex(), "note"))
    assert isinstance(ledger.database, sqlite3.Connection)
