"""What an endpoint is paid, never more than was allowed; and its key, which is nowhere."""

import contextlib
import json
import sqlite3
import threading
import time
import traceback

import pytest

from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint import http
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.fake_endpoint import AT_ONCE, FakeEndpoint, completion, failure
from tests.helpers.text_stages import ask, usage


def test_max_cost_holds_with_many_in_flight(tmp_path):
    """Forty at once that cost what they may cost at most: without reservation all forty would be sent."""
    charged = 0.0
    # Each prompt is bounded by its bytes and a little; a reply by max_tokens: 1,000 tokens, a cent each.
    budget = BudgetConfig(max_cost=5.5, price_output=1000)

    def answer(body, n):
        nonlocal charged
        time.sleep(0.1)
        charged += 1.0
        return usage("x", 10, 1000)

    with FakeEndpoint(answer) as endpoint:
        said = pytest.raises(UserError, match=r"--max-cost 5\.5: 5\.0000 USD are spent")
        with said:
            ask(endpoint, tmp_path, count=40, max_tokens=1000, budget=budget)
        with said:  # the ledger remembers what earlier runs have spent
            ask(endpoint, tmp_path, count=40, max_tokens=1000, budget=budget)
    assert charged == len(endpoint.requests) == 5


def test_what_replies_use_is_settled_and_leaves_room_for_more(tmp_path):
    budget = BudgetConfig(max_cost=1.5, price_output=1000)
    with FakeEndpoint(lambda body, n: usage("x", 10, 20)) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, count=20, max_tokens=1000, budget=budget)
    assert len(replies) == 20
    assert teacher.meter.budget.spent == pytest.approx(20 * 0.02)
    assert Ledger(tmp_path / "ledger.sqlite").spent() == pytest.approx(20 * 0.02)


def test_what_may_have_been_paid_stays_at_its_worst(tmp_path):
    budget = BudgetConfig(max_cost=10, price_output=1000)
    waits = [1.2]

    def answer(body, n):
        if body["seed"] == 0 and waits:
            time.sleep(waits.pop())  # perhaps paid: a dollar at worst
        return failure(500, **AT_ONCE) if body["seed"] == 1 else usage("x", 10, 100)  # a 500 is not

    with FakeEndpoint(answer) as endpoint:
        settings = {"timeout_seconds": 0.6, "max_tokens": 1000, "budget": budget}
        replies, teacher = ask(endpoint, tmp_path, count=2, **settings)
    assert [reply.finish_reason for reply in replies] == ["stop", "error"]
    assert teacher.meter.budget.spent == pytest.approx(1.0 + 0.1)
    assert teacher.meter.budget.reserved == 0


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_an_endpoint_refuses_costs_nothing(tmp_path, status):
    budget = BudgetConfig(max_cost=1000, price_output=1000)
    with FakeEndpoint(lambda body, n: failure(status, **AT_ONCE)) as endpoint, contextlib.suppress(UserError):
        ask(endpoint, tmp_path, count=5, max_tokens=1000, budget=budget)
    assert endpoint.requests
    assert Ledger(tmp_path / "ledger.sqlite").spent() == 0


def test_a_run_that_ends_in_timeouts_is_charged_for_all_of_them(tmp_path):
    budget = BudgetConfig(max_cost=1000, price_output=1000)

    def answer(body, n):
        time.sleep(0.3)
        return usage("x", 10, 100)

    with FakeEndpoint(answer) as endpoint:
        settings = {"timeout_seconds": 0.1, "max_tokens": 1000, "budget": budget, "max_retries": 0}
        with pytest.raises(UserError, match="requests in a row failed"):
            ask(endpoint, tmp_path, count=60, **settings)
        time.sleep(0.3)
        assert Ledger(tmp_path / "ledger.sqlite").spent() == pytest.approx(len(endpoint.requests))


def test_a_refusal_that_ends_the_run_forgets_no_timeout_before_it(tmp_path, monkeypatch):
    """Eight requests time out three times each, each time perhaps charged; then one of them hears that the key is bad.

    The others wait for their turn at that moment, and give up.
    """
    budget = BudgetConfig(max_cost=1000, price_output=1000)
    monkeypatch.setattr(http, "back_off", lambda attempt: 0.01)

    def answer(body, n):
        if n < 24:
            time.sleep(0.3)
        return failure(401)

    settings = {"timeout_seconds": 0.1, "max_tokens": 1000, "budget": budget, "max_retries": 9}
    with FakeEndpoint(answer) as endpoint, pytest.raises(UserError, match="401"):
        ask(endpoint, tmp_path, count=8, **settings)
    assert len(endpoint.requests) >= 25
    assert Ledger(tmp_path / "ledger.sqlite").spent() == pytest.approx(24)


PAGE = "<html><title>upstream</title></html>"
ENVOY = "upstream connect error or disconnect/reset before headers"


FROM_GATEWAYS = [
    *((status, PAGE) for status in (408, 500, 502, 504, 520, 522, 524)),
    (202, ""),
    (503, ENVOY),
    (504, failure(504)[2]),
    (504, '{"message": "Endpoint request timed out"}'),
    (500, '{"message": "Internal server error"}'),
]


@pytest.mark.parametrize(("status", "body"), FROM_GATEWAYS)
def test_what_a_gateway_answers_may_have_been_charged(tmp_path, status: int, body: str):
    """The endpoint has worked on each request; who answers is the gateway before it, which got tired of waiting."""
    budget = BudgetConfig(max_cost=1000, price_output=1000)
    with FakeEndpoint(lambda asked, n: (status, AT_ONCE, body)) as endpoint:
        settings = {"max_tokens": 1000, "budget": budget, "max_retries": 1}
        _, teacher = ask(endpoint, tmp_path, **settings)
        attempts = len(endpoint.requests)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.spent() == pytest.approx(attempts) == teacher.meter.budget.spent
    assert ledger.uncertain() == attempts == teacher.meter.uncertain


@pytest.mark.parametrize("status", [400, 403, 422, 429, 500, 503, 529])
def test_what_the_endpoint_itself_refuses_is_not_charged_and_not_uncertain(tmp_path, status: int):
    budget = BudgetConfig(max_cost=1000, price_output=1000)
    with FakeEndpoint(lambda body, n: failure(status, **AT_ONCE)) as endpoint, contextlib.suppress(UserError):
        ask(endpoint, tmp_path, max_tokens=1000, budget=budget)
    assert endpoint.requests
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert (ledger.spent(), ledger.uncertain()) == (0, 0)


def test_what_may_have_been_charged_is_reported_over_restarts(tmp_path, capsys):
    """A timeout in a run that is then killed: the next run says that it may be paid for twice."""
    budget = BudgetConfig(max_cost=1000, price_output=1000)
    late = [True]

    def answer(body, n):
        if late[0]:
            time.sleep(0.2)
        return usage("x", 10, 100)

    with FakeEndpoint(answer) as endpoint:
        settings = {"max_tokens": 1000, "budget": budget, "max_retries": 0}
        ask(endpoint, tmp_path, timeout_seconds=0.05, **settings)
        late.clear()
        late.append(False)
        _, teacher = ask(endpoint, tmp_path, **settings)
        assert "1 perhaps paid twice" in teacher.meter.closing()
        assert teacher.meter.budget.spent == pytest.approx(1 + 0.1)
        _, teacher = ask(endpoint, tmp_path, **settings)
        assert "1 perhaps paid twice" in teacher.meter.closing()
    assert len(endpoint.requests) == 2


def test_a_paid_reply_outlasts_the_lock_of_a_backup(tmp_path, monkeypatch, capsys):
    connect = sqlite3.connect
    # A wait for the lock gives up after so long, and begins again.
    monkeypatch.setattr(sqlite3, "connect", lambda path, **settings: connect(path, **{**settings, "timeout": 0.05}))
    budget = BudgetConfig(max_cost=10, price_output=1000)

    def answer(body, n):
        backup = connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
        backup.execute("BEGIN IMMEDIATE")
        threading.Timer(0.4, backup.close).start()
        return usage("paid", 10, 100)

    with FakeEndpoint(answer) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, max_tokens=1000, budget=budget)
        assert replies[0].text == "paid"
        again, _ = ask(endpoint, tmp_path, max_tokens=1000, budget=budget)
    assert again == replies
    assert len(endpoint.requests) == 1
    assert Ledger(tmp_path / "ledger.sqlite").spent() == teacher.meter.budget.spent == pytest.approx(0.1)
    assert "is locked by another program" in capsys.readouterr().err


def test_a_reply_that_cannot_be_recorded_stays_on_the_books(tmp_path, monkeypatch):
    async def full(ledger, key, response):
        raise UserError("the disk is full")

    with FakeEndpoint(lambda body, n: usage("paid", 10, 100)) as endpoint, monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", full)
        with pytest.raises(UserError, match="the disk is full"):
            ask(endpoint, tmp_path, max_tokens=1000, budget=BudgetConfig(price_output=1000))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert (ledger.spent(), ledger.counts()) == (pytest.approx(1.0), {"in flight": 1})


def test_the_key_is_nowhere_even_if_the_endpoint_repeats_it(tmp_path, monkeypatch, capfd):
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", secret)

    def answer(body, n):
        if body["seed"] == 3:
            return 401, {}, json.dumps({"error": {"message": f"Incorrect API key provided: {secret}"}})
        if body["seed"] == 2:
            return 400, {}, f"no such header: Bearer {secret}"
        return completion(f"your key is {secret}")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=3)
        with pytest.raises(UserError) as caught:
            ask(endpoint, tmp_path, count=4)
    assert endpoint.keys[0] == f"Bearer {secret}"
    said = "".join(traceback.format_exception(caught.value)) + repr(replies) + "".join(capfd.readouterr())
    assert secret not in said
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
