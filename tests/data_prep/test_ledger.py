"""The ledger: what was paid for stays, whatever happens in between."""

import multiprocessing
import os
import sqlite3

import pytest

from data_prep.ledger import Ledger, request_key
from data_prep.records import UserError

REQUEST = {"base_url": "http://x/v1", "model": "m", "temperature": 1.0, "seed": 3, "messages": [{"role": "user"}]}


def test_equal_requests_have_one_key_and_any_difference_another():
    assert request_key(REQUEST) == request_key(dict(reversed(REQUEST.items())))
    for name, value in {"base_url": "http://y/v1", "model": "n", "temperature": 0.5, "seed": 4, "messages": []}.items():
        assert request_key({**REQUEST, name: value}) != request_key(REQUEST), name


def test_a_response_is_there_after_reopening(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
    key = ledger.begin(REQUEST)
    assert ledger.response(key) is None
    assert ledger.in_flight() == 1
    ledger.finish(key, '{"raw": "é"}')
    ledger.close()
    again = Ledger(tmp_path / "a.sqlite")
    assert again.response(request_key(REQUEST)) == '{"raw": "é"}'
    assert again.in_flight() == 0


def die_in_flight(path):
    ledger = Ledger(path)
    ledger.finish(ledger.begin({**REQUEST, "seed": 1}), "paid")
    ledger.begin({**REQUEST, "seed": 2})
    os._exit(9)


def test_a_killed_process_leaves_what_it_paid_for_and_what_was_in_flight(tmp_path):
    path = tmp_path / "a.sqlite"
    process = multiprocessing.get_context("spawn").Process(target=die_in_flight, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    ledger = Ledger(path)
    assert ledger.response(request_key({**REQUEST, "seed": 1})) == "paid"
    assert ledger.response(request_key({**REQUEST, "seed": 2})) is None
    assert ledger.in_flight() == 1


def test_a_frozen_value_is_made_once(tmp_path):
    ledger = Ledger(tmp_path / "a.sqlite")
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
        ledger.begin({**REQUEST, "messages": ["x" * 100_000]})
    assert isinstance(ledger.database, sqlite3.Connection)
