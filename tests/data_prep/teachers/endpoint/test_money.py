"""What an endpoint is paid, never more than was allowed; and its key, which is nowhere."""

import contextlib
import json
import time
import traceback

import pytest

from data_prep.contract.errors import UserError
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
