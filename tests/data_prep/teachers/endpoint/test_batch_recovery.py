"""What goes wrong between a batch and the ledger: downloads, queues, lost commits, files that stay or are gone."""

import contextlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import notes
from data_prep.teachers.base import BatchConfig
from data_prep.teachers.endpoint.batch import batch_api, batch_endpoint, batch_results
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.batch_runs import PRICES, config, left_open, text_of
from tests.helpers.endpoints.fake_batches import FakeBatches, bad, good
from tests.helpers.text_stages import read_notes, write_reports


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    for module in (batch_endpoint, batch_results):
        monkeypatch.setattr(module, "back_off", lambda attempt: 0.01)
    monkeypatch.setattr(batch_api, "POLLS_BETWEEN_TRIES", 1)


def answer(body, number):
    return good(body, text_of(body))


def states(path: Path) -> list[str]:
    with sqlite3.connect(path) as database:
        return [row[0] for row in database.execute("SELECT state FROM batches ORDER BY rowid")]


# ---------------------------------------------------------------- downloads


@pytest.mark.parametrize("states_sizes", [True, False])
@pytest.mark.parametrize("damage", ["short", "broken", "html"])
def test_a_download_that_is_damaged_is_repeated_and_nothing_is_paid_twice(tmp_path, damage, states_sizes):
    """Of a body that is cut off without a length in its headers, only the batch's or the file's figures can tell."""
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(answer) as endpoint:
        endpoint.states_sizes = states_sizes
        endpoint.cut = [damage]
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 9
    assert endpoint.line_counts() == [9]
    assert not endpoint.cut
    assert Ledger(tmp_path / "out.ledger.sqlite").uncertain() == 0


@pytest.mark.parametrize("damage", ["short", "broken"])
def test_a_download_that_stays_damaged_ends_the_run_and_is_read_by_a_later_one(tmp_path, damage):
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(answer) as endpoint:
        endpoint.cut = [damage] * 20
        with pytest.raises(UserError, match=r"arrive cut off .* replies, of 9 by|Batch API: cannot be reached"):
            notes.run(config(endpoint, source, tmp_path / "out", max_retries=1))
        endpoint.cut.clear()
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 9
    assert endpoint.line_counts() == [9]


def test_a_batch_that_nobody_waits_for_and_that_cannot_be_read_ends_the_run(tmp_path):
    """Four other reports come first; when the batch's own are asked for, it has failed already."""
    source, later = write_reports(tmp_path / "a.jsonl", 13), tmp_path / "later.jsonl"
    later.write_text("".join(Path(source).read_text().splitlines(keepends=True)[4:]))
    with FakeBatches(answer) as endpoint:
        left_open(endpoint, config(endpoint, str(later), tmp_path / "out"))
        endpoint.batches[0]["polls"] = 0
        endpoint.cut = ["broken"] * 99
        stage = config(endpoint, source, tmp_path / "out", max_retries=0)
        batches = BatchConfig(batch=True, batch_poll_seconds=0.05, batch_window=4)
        stage = replace(stage, shards=ShardsConfig(4), teacher=replace(stage.teacher, batches=batches))
        with pytest.raises(UserError, match="Batch API: cannot be reached"):
            notes.run(stage)
        endpoint.cut.clear()
        assert notes.run(stage)["out"] == 13
    assert sorted(endpoint.line_counts()) == [4, 9]


@pytest.mark.parametrize("call", range(1, 9))
def test_a_page_of_a_gateway_instead_of_an_answer_rejects_nothing(tmp_path, call):
    """Whatever is asked, it is asked again, or the run ends in one line and the next goes on."""
    source = write_reports(tmp_path / "a.jsonl", 5)
    with FakeBatches(answer) as endpoint:
        endpoint.pages = {call}
        with contextlib.suppress(UserError):
            notes.run(config(endpoint, source, tmp_path / "out"))
        manifest = notes.run(config(endpoint, source, tmp_path / "out"))
        assert (manifest["out"], manifest["rejected"]) == (5, {})
    assert endpoint.line_counts() == [5]


def test_a_file_that_is_named_late_is_waited_for(tmp_path):
    """A batch that has ended and counts its replies, but does not name their file yet."""
    source = write_reports(tmp_path / "a.jsonl", 5)

    with FakeBatches(answer) as endpoint:
        endpoint.name_files_late = 2
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 5
    assert endpoint.line_counts() == [5]


def test_a_file_that_is_gone_is_said_before_anything_is_paid_again(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 5)
    with FakeBatches(answer) as endpoint:
        stage = config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES))
        left_open(endpoint, stage)
        endpoint.batches[0]["polls"] = -1
        endpoint.work(endpoint.batches[0])
        del endpoint.files["output-batch-0"]
        with pytest.raises(
            UserError, match=r"file output-batch-0 of batch batch-0 is not at the endpoint .* 5 replies"
        ):
            notes.run(stage)
        assert endpoint.line_counts() == [5]
        spent = Ledger(tmp_path / "out.ledger.sqlite").spent()
        assert notes.run(stage)["out"] == 5
    ledger = Ledger(tmp_path / "out.ledger.sqlite")
    assert ledger.uncertain() == 5
    assert ledger.spent() == pytest.approx(spent + 5 * 300 / 1e6 / 2)


def test_paid_replies_beside_a_line_that_ends_the_run_are_kept(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 12)

    def exhausted(body, number):
        return bad(429, "insufficient_quota") if number == 0 else good(body, text_of(body))

    with FakeBatches(exhausted) as endpoint:
        with pytest.raises(UserError, match="told to say 429"):
            notes.run(config(endpoint, source, tmp_path / "out"))
        assert Ledger(tmp_path / "out.ledger.sqlite").counts() == {"done": 11, "planned": 1}


# ---------------------------------------------------------------- a queue that is full


def test_a_file_that_is_too_large_for_the_queue_is_split(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 11)
    with FakeBatches(answer) as endpoint:
        endpoint.most_queued = 3
        assert notes.run(config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES)))["out"] == 11
    worked_on = [count for count, batch in zip(endpoint.line_counts(), endpoint.batches, strict=True) if batch["fits"]]
    assert sum(worked_on) == len(endpoint.requests) == 11
    assert len(endpoint.batches) < 20
    ledger = Ledger(tmp_path / "out.ledger.sqlite")
    assert (ledger.uncertain(), ledger.spent()) == (0, pytest.approx(11 * 300 / 1e6 / 2))


def test_a_queue_without_room_for_one_request_ends_the_run(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeBatches(answer) as endpoint:
        endpoint.most_queued = 0
        with pytest.raises(UserError, match=r"queue of the Batch API has no room.* run this again"):
            notes.run(config(endpoint, source, tmp_path / "out", max_retries=1))
        endpoint.most_queued = 99
        assert notes.run(config(endpoint, source, tmp_path / "out", max_retries=1))["out"] == 3


def test_a_file_that_fails_its_validation_names_the_line_and_its_request(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 3)
    problem = {"code": "invalid_value", "line": 2, "param": "body.model", "message": "no such model"}
    with FakeBatches(answer) as endpoint:
        endpoint.fail_with = [[problem] * 50]
        with pytest.raises(
            UserError, match=r"line 2, request \w{64} of the ledger, body.model: no such model"
        ) as caught:
            notes.run(config(endpoint, source, tmp_path / "out"))
    key = str(caught.value).split("request ")[1].split()[0]
    assert key in str(endpoint.uploaded["file-0"].splitlines()[1])
    assert "47 more problems" in str(caught.value)
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- lost commits


def test_a_batch_that_the_ledger_has_lost_is_adopted(tmp_path, capsys):
    """The ledger is put back as it was before the batch, as after a power cut on a disk that had lied to it."""
    ledger, aside = tmp_path / "out.ledger.sqlite", tmp_path / "aside.sqlite"
    few, source = write_reports(tmp_path / "few.jsonl", 2), write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(answer) as endpoint:
        stage = config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES))
        notes.run(replace(stage, source=few))
        shutil.copy(ledger, aside)
        left_open(endpoint, stage)
        ledger.unlink()
        shutil.copy(aside, ledger)
        endpoint.batches[1]["polls"] = 1
        endpoint.cut = ["short"]  # of its input, from which its requests are known
        assert notes.run(stage)["out"] == 9
        assert endpoint.line_counts() == [2, 7]
        assert "found batch batch-1 of this ledger: its 7 requests are not sent again" in capsys.readouterr().err
        book = Ledger(ledger)
        assert (book.uncertain(), book.counts()) == (0, {"done": 9})
        assert book.spent() == pytest.approx(9 * 300 / 1e6 / 2)
        assert len(list(book.answered("note", 99))) == 9
        book.close()
        # Put back once more: the batch was read and its files are deleted, so its requests must be paid for again.
        ledger.unlink()
        shutil.copy(aside, ledger)
        assert notes.run(stage)["out"] == 9
        assert "does not know batch batch-1, whose files were read and deleted" in capsys.readouterr().err
        notes.run(stage)
        assert "batch-1" not in capsys.readouterr().err
    assert endpoint.line_counts() == [2, 7, 7]


def test_a_batch_of_another_ledger_is_left_alone(tmp_path):
    source, more = write_reports(tmp_path / "a.jsonl", 3), write_reports(tmp_path / "more.jsonl", 5)
    with FakeBatches(answer) as endpoint:
        notes.run(config(endpoint, source, tmp_path / "one"))
        shutil.copy(tmp_path / "one.ledger.sqlite", tmp_path / "two.ledger.sqlite")
        left_open(endpoint, config(endpoint, more, tmp_path / "one"))
        notes.run(config(endpoint, more, tmp_path / "two"))  # a copy, which goes its own way
        assert endpoint.line_counts() == [3, 2, 2]
        assert endpoint.batches[1]["input_file_id"] in endpoint.files
        endpoint.batches[1]["polls"] = 0
        assert notes.run(config(endpoint, more, tmp_path / "one"))["out"] == 5
    assert endpoint.line_counts() == [3, 2, 2]


# ---------------------------------------------------------------- files at the endpoint


def test_the_files_of_a_batch_are_deleted_when_it_is_recorded(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 6)
    with FakeBatches(lambda body, n: bad(500, "server_error") if n == 2 else answer(body, n)) as endpoint:
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 6
        assert endpoint.files == {}
        assert len(endpoint.deleted) == 5, "two inputs, two outputs, one file of errors"
        endpoint.fail_with = ["invalid_json_line"]
        with pytest.raises(UserError, match="told to say invalid_json_line"):
            notes.run(config(endpoint, write_reports(tmp_path / "b.jsonl", 7), tmp_path / "out"))
        assert endpoint.files == {}
    assert states(tmp_path / "out.ledger.sqlite") == ["joined"] * 3


def test_what_could_not_be_deleted_is_deleted_by_a_later_run(tmp_path, capsys):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeBatches(answer) as endpoint:
        endpoint.refuse_delete = 2  # the client tries twice
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 3
        assert "file file-0 was not deleted at the endpoint" in capsys.readouterr().err
        assert states(tmp_path / "out.ledger.sqlite") == ["read"]
        assert len(endpoint.files) == 2
        notes.run(config(endpoint, write_reports(tmp_path / "b.jsonl", 4), tmp_path / "out"))
        assert endpoint.files == {}
    assert states(tmp_path / "out.ledger.sqlite") == ["joined", "joined"]


def test_an_upload_whose_batch_was_never_created_is_deleted(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeBatches(answer) as endpoint:
        endpoint.refuse_create = 2
        with pytest.raises(UserError, match="Batch API: answered 500"):
            notes.run(config(endpoint, source, tmp_path / "out", max_retries=0))
        assert len(endpoint.files) == 1
        endpoint.refuse_create = 0
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 3
        assert endpoint.files == {}
    assert endpoint.line_counts() == [3]


def test_a_run_with_many_failures_can_be_run_again(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 75)

    def refusing(body, number):
        text = text_of(body)
        return bad(400, "context_length_exceeded") if int(text.split()[1]) % 3 == 0 else good(body, text)

    with FakeBatches(refusing) as endpoint:
        first = notes.run(config(endpoint, source, tmp_path / "out"))
        again = notes.run(config(endpoint, source, tmp_path / "out"))
    assert (first["out"], first["rejected"]) == (50, {"error": 25})
    assert again["files"] == first["files"]
    assert endpoint.line_counts() == [75, 25]
    assert len(read_notes(tmp_path / "out")[0]) == 50


def test_half_a_surrogate_pair_in_a_line_of_errors_ends_no_run(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 3)
    half = b"no \\ud83d".decode("unicode_escape")
    error = {"message": half, "code": half}
    row = ("error", {"response": {"status_code": 400, "body": {"error": error}}, "error": None})
    with FakeBatches(lambda body, n: answer(body, n) if n else row) as endpoint:
        for _ in range(2):
            notes.run(config(endpoint, source, tmp_path / "out", max_retries=0))
