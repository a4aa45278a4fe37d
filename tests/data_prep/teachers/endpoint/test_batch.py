"""Batch mode against an emulation of the Batch API: what its counts deny, what its files lack, and crashes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.base import TeacherConfig
from data_prep.teachers.endpoint.batch import batch_api, batch_endpoint
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.batch_runs import PRICES, config, text_of
from tests.helpers.endpoints.fake_batches import EXPIRED, FakeBatches, bad, good
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.places import ROOT
from tests.helpers.text_stages import read_notes, write_reports


def test_a_batch_gives_the_folder_that_one_by_one_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    source = write_reports(tmp_path / "a.jsonl", 23)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        made = notes.run(config(endpoint, source, tmp_path / "batch"))
        again = notes.run(config(endpoint, source, tmp_path / "batch"))
    with FakeEndpoint(lambda body, n: completion(text_of(body))) as live:
        plain = TeacherConfig(teacher="openai", base_url=live.url, model="m")
        one_by_one = notes.run(NotesConfig(source, tmp_path / "live", teacher=plain, shards=ShardsConfig(4)))
    assert made["files"] == one_by_one["files"] == again["files"]
    # All reports wait together, so they are one batch; the rerun asks for nothing.
    assert endpoint.line_counts() == [23]
    assert endpoint.keys == {"Bearer sk-secret"}
    assert b"sk-secret" not in b"".join(path.read_bytes() for path in tmp_path.glob("batch*.sqlite*"))


def test_what_the_counts_deny_is_found_in_the_files_and_asked_for_again(tmp_path):
    """Of 24 requests: some in the error file, some in neither, one garbled; the counts say that all is well."""
    source = write_reports(tmp_path / "a.jsonl", 24)

    def answer(body, n):
        if n in (1, 5):
            return bad(500, "server_error")
        if n == 7:
            return EXPIRED
        if n in (9, 10, 11):
            return None
        if n == 13:
            return "output", {"response": {"status_code": 200, "body": {"choices": []}}}
        return good(body, text_of(body))

    with FakeBatches(answer) as endpoint:
        manifest = notes.run(config(endpoint, source, tmp_path / "out"))
        assert endpoint.line_counts() == [24, 6]
        assert all(each["request_counts"]["failed"] == 0 for each in endpoint.batches)
        # A completion that is no use is kept as an error of this run, and asked for in the next.
        assert manifest["rejected"] == {"error": 1}
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 24
    ledger = Ledger(tmp_path / "out.ledger.sqlite")
    assert ledger.counts() == {"done": 24}
    made, _ = read_notes(tmp_path / "out")
    assert [note.text for note in made] == [
        (f"HPI: {age} y/o F with chest pain. " * 10).strip() for age in range(20, 44)
    ]


def test_a_row_that_never_comes_costs_that_record_only(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 6)

    def answer(body, n):
        text = text_of(body)
        if "22 y/o" in text:
            return bad(400, "context_length_exceeded")
        if "23 y/o" in text:
            return None
        return good(body, text)

    with FakeBatches(answer) as endpoint:
        manifest = notes.run(config(endpoint, source, tmp_path / "out", max_retries=2))
    assert (manifest["out"], manifest["rejected"]) == (4, {"error": 2})
    assert endpoint.line_counts() == [6, 1, 1], "what the endpoint refuses for good is not asked for again"
    details = [reject.detail for reject in read_notes(tmp_path / "out")[1]]
    assert ["status 400" in details[0], "contains no reply" in details[1]] == [True, True]


def test_a_refused_parameter_is_left_out_of_the_next_batch(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 6)

    def answer(body, n):
        if "seed" not in body:
            return good(body, text_of(body))
        error = {"message": "Unsupported parameter: 'seed'", "param": "seed"}
        return "error", {"response": {"status_code": 400, "body": {"error": error}}, "error": None}

    with FakeBatches(answer) as endpoint:
        manifest = notes.run(config(endpoint, source, tmp_path / "out"))
    assert (manifest["out"], manifest["rejected"], manifest["parameters_omitted"]) == (6, {}, ["seed"])
    assert endpoint.line_counts() == [6, 6]


def test_a_reply_may_hold_what_text_readers_take_for_the_end_of_a_line(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeBatches(lambda body, n: good(body, text_of(body) + "\u2028next\x85and\r\nlast")) as endpoint:
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 3
    assert endpoint.line_counts() == [3]
    assert read_notes(tmp_path / "out")[0][0].text.endswith("\u2028next\x85and\r\nlast")


def test_files_stay_within_the_limits(tmp_path, monkeypatch):
    source = write_reports(tmp_path / "a.jsonl", 11)
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 4)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        notes.run(config(endpoint, source, tmp_path / "many"))
        # They are uploaded side by side: which arrives first is chance.
        assert sorted(endpoint.line_counts()) == [3, 4, 4]
        monkeypatch.setattr(batch_api, "MOST_BYTES", 6000)
        notes.run(config(endpoint, source, tmp_path / "large"))
    sizes = [len(endpoint.uploaded[each["input_file_id"]]) for each in endpoint.batches[3:]]
    assert len(sizes) > 3
    assert max(sizes) <= 6000


def test_questions_go_first_and_then_answers(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 5)
    notes.run(NotesConfig(source, tmp_path / "notes"))

    def answer(body, n):
        asks = body["messages"][1]["content"].startswith("Write one instruction")
        return good(body, f"What happened to patient {body['seed']}?" if asks else "Chest pain.")

    with FakeBatches(answer) as endpoint:
        teacher = config(endpoint, source, tmp_path).teacher
        stage = InstructionsConfig(tmp_path / "notes", tmp_path / "out", 2, teacher=teacher, pool_notes=0)
        assert instructions.run(stage)["out"] == 10
    # A note's second question waits for its first answer.
    assert endpoint.line_counts() == [5, 5, 5, 5]


def test_a_batch_costs_half_and_its_worst_is_reserved(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 20)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        notes.run(config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES)))
    ledger = Ledger(tmp_path / "out.ledger.sqlite")
    assert ledger.spent() == pytest.approx(20 * (100 * 1 + 50 * 4) / 1e6 / 2)


def test_max_cost_holds_over_batches_and_over_runs(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 20)
    # Each may cost about 6,000 / 2 millionths at worst, and does cost 150.
    budget = BudgetConfig(max_cost=0.012, **PRICES)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        notes.run(config(endpoint, source, tmp_path / "out", budget, max_tokens=500))
        counts = endpoint.line_counts()
        assert sum(counts) == 20
        assert counts[0] < 20
        low = BudgetConfig(max_cost=0.003, **PRICES)
        (tmp_path / "b").mkdir()
        with pytest.raises(UserError, match=r"--max-cost 0\.003"):
            notes.run(config(endpoint, write_reports(tmp_path / "b.jsonl", 40), tmp_path / "b", low, max_tokens=500))
    assert Ledger(tmp_path / "out.ledger.sqlite").spent() <= 0.012
    assert Ledger(tmp_path / "b.ledger.sqlite").spent() <= 0.003


def test_a_queue_that_is_full_is_waited_for_and_a_file_that_is_refused_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_api, "POLLS_BETWEEN_TRIES", 1)
    source = write_reports(tmp_path / "a.jsonl", 4)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        endpoint.fail_with = ["token_limit_exceeded"] * 5
        # Enough for one batch at its worst, not for two: what a failed one reserved must come back.
        budget = BudgetConfig(max_cost=0.03, **PRICES)
        assert notes.run(config(endpoint, source, tmp_path / "out", budget, max_retries=3))["out"] == 4
        assert endpoint.line_counts()[:6] == [4, 2, 1, 1, 1, 1]
        endpoint.fail_with = ["invalid_json_line"]
        with pytest.raises(UserError, match="told to say invalid_json_line"):
            notes.run(config(endpoint, source, tmp_path / "other"))
    # Nothing of a batch that failed as a whole was paid for.
    assert Ledger(tmp_path / "out.ledger.sqlite").spent() == pytest.approx(4 * 300 / 1e6 / 2)


def test_an_exhausted_quota_inside_a_batch_ends_the_run(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 4)
    said = pytest.raises(UserError, match=r"within batch .* told to say 429")
    with FakeBatches(lambda body, n: bad(429, "insufficient_quota")) as endpoint, said:
        notes.run(config(endpoint, source, tmp_path / "out"))
    assert len(endpoint.batches) == 1


def test_a_creation_that_fails_is_repeated_and_makes_one_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_endpoint, "back_off", lambda attempt: 0.01)
    source = write_reports(tmp_path / "a.jsonl", 4)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        endpoint.refuse_create = 2
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 4
    assert len(endpoint.batches) == 1


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from data_prep.synthesize import notes
from tests.helpers.endpoints.batch_runs import config
class endpoint: url = {url!r}
notes.run(config(endpoint, {source!r}, Path({out!r})))
"""


def killed_when(event: threading.Event, endpoint, source: str, out: Path) -> None:
    """A run in a process of its own, killed with -9 once `event` is set."""
    code = RUN.format(root=str(ROOT), url=endpoint.url, source=source, out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    if not event.wait(30):
        process.kill()
        raise AssertionError(process.communicate())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_batch_whose_id_was_never_heard_is_found_again(tmp_path):
    """Killed between the creation of a batch and the moment its id would have been committed."""
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        notes.run(config(endpoint, source, tmp_path / "another"))  # batches of other runs stand beside it
        endpoint.created.clear()
        endpoint.hold_created.clear()
        killed_when(endpoint.created, endpoint, source, tmp_path / "out")
        endpoint.hold_created.set()
        ledger = Ledger(tmp_path / "out.ledger.sqlite")
        assert ledger.counts() == {"in flight": 9}
        assert ledger.open_batches() == 1
        ledger.close()
        live = TeacherConfig(teacher="openai", base_url=endpoint.url, model="m")
        with pytest.raises(UserError, match="run this with --batch until they are"):
            notes.run(NotesConfig(source, tmp_path / "out", teacher=live))
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 9
    assert len(endpoint.batches) == 2, "one for each run: the orphan is read, not asked for again"
    assert Ledger(tmp_path / "out.ledger.sqlite").uncertain() == 0


def test_a_batch_that_was_never_created_gives_its_requests_back(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(lambda body, n: good(body, text_of(body))) as endpoint:
        stage = config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES))
        endpoint.refuse_create = 99
        with pytest.raises(UserError, match="Batch API: answered 500"):
            notes.run(config(endpoint, source, tmp_path / "out", BudgetConfig(**PRICES), max_retries=0))
        assert Ledger(tmp_path / "out.ledger.sqlite").open_batches() == 1
        endpoint.refuse_create = 0
        assert notes.run(stage)["out"] == 9
    assert len(endpoint.batches) == 1
    assert Ledger(tmp_path / "out.ledger.sqlite").spent() == pytest.approx(9 * 300 / 1e6 / 2)


def test_a_run_killed_while_its_batch_is_worked_on_reads_it_later(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 9)
    with FakeBatches(lambda body, n: good(body, text_of(body)), polls=10**9) as endpoint:
        killed_when(endpoint.polled, endpoint, source, tmp_path / "out")
        ledger = Ledger(tmp_path / "out.ledger.sqlite")
        assert (ledger.counts(), ledger.open_batches()) == ({"in flight": 9}, 1)
        ledger.close()
        endpoint.batches[0]["polls"] = 0
        assert notes.run(config(endpoint, source, tmp_path / "out"))["out"] == 9
    assert endpoint.line_counts() == [9]
