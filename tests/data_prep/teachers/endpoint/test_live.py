"""How one request at a time is sent: paced, timed, repeated, and waited for when the run ends."""

import contextlib
import resource
import socket
import threading
import time

import pytest

from data_prep.contract.errors import UserError
from data_prep.teachers.endpoint import http
from data_prep.teachers.endpoint.http import allow_connections
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.fake_endpoint import AT_ONCE, FakeEndpoint, completion, failure
from tests.helpers.text_stages import ask


def test_retry_after_holds_up_every_request(tmp_path):
    arrived = []

    def answer(body, n):
        arrived.append(time.monotonic())
        return failure(429, **{"Retry-After": "0.5"}) if n == 0 else completion("x")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=6, concurrency=1)
    assert [reply.text for reply in replies] == ["x"] * 6
    assert arrived[1] - arrived[0] >= 0.5


def test_429_among_answers_costs_nobody_anything(tmp_path):
    """However often: what others are answered shows that the endpoint is well."""
    with FakeEndpoint(lambda body, n: failure(429, **AT_ONCE) if n % 3 else completion("x")) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, count=30, max_retries=3)
    assert {reply.text for reply in replies} == {"x"}
    assert teacher.meter.throttled == len(endpoint.requests) - 30 > 30


def test_the_limits_that_an_endpoint_names_are_kept(tmp_path):
    arrived = []
    told = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "0"}

    def answer(body, n):
        arrived.append(time.monotonic())
        status, _, text = completion("x")
        return status, {**told, "x-ratelimit-reset-requests": "60s"}, text

    with FakeEndpoint(answer) as endpoint:
        ask(endpoint, tmp_path, count=12)
    # Eight were on their way before the first headers came; then ten a second.
    assert arrived[11] - arrived[8] > 0.25


def test_requests_a_minute_are_kept(tmp_path):
    with FakeEndpoint(lambda body, n: completion("x")) as endpoint:
        started = time.monotonic()
        ask(endpoint, tmp_path, count=60, requests_per_minute=600)
        # A burst of fifty, and then less than ten a second.
        assert 1 < time.monotonic() - started < 8


def test_connections_beyond_the_systems_limit_are_allowed_or_refused():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        allow_connections(400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(UserError, match="open files"):
        allow_connections(2**40)


# ---------------------------------------------------------------- a finished run, again


@pytest.mark.parametrize(
    "fault", [failure(400, **AT_ONCE), failure(500, **AT_ONCE), completion(None), (200, {}, "<html>")]
)
def test_a_run_with_many_failures_can_be_run_again(tmp_path, monkeypatch, fault):
    """One in three fails whenever it is sent: no reason to stop when the others are in the ledger already."""
    monkeypatch.setattr(http, "back_off", lambda attempt: 0.001)

    def answer(body, n):
        return fault if body["seed"] % 3 == 0 else completion("x")

    with FakeEndpoint(answer) as endpoint:
        first, _ = ask(endpoint, tmp_path, count=120)
        sent = len(endpoint.requests)
        again, teacher = ask(endpoint, tmp_path, count=120)
    assert again == first
    assert [reply.finish_reason for reply in first] == ["error", "stop", "stop"] * 40
    assert sent < len(endpoint.requests) <= sent + 80
    assert (teacher.meter.answered, teacher.meter.from_ledger, teacher.meter.failed) == (0, 80, 40)


# ---------------------------------------------------------------- what is lost


def test_a_hang_ends_at_the_deadline_and_is_asked_again(tmp_path):
    answered = threading.Event()

    def answer(body, n):
        if n == 0:
            answered.wait()  # for the answer to the second request
        return completion("x")

    with FakeEndpoint(answer) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, timeout_seconds=1)
        answered.set()
    assert replies[0].text == "x"
    assert teacher.meter.lost == 1


def test_a_body_that_never_ends_meets_the_deadline_too(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            client, _ = server.accept()
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            with contextlib.suppress(OSError):  # the client hangs up, which is the point
                for _ in range(100):
                    time.sleep(0.05)
                    client.sendall(b" ")

        threading.Thread(target=drip, daemon=True).start()

        class Endpoint:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"

        replies, _ = ask(Endpoint, tmp_path, timeout_seconds=0.4, max_retries=0)
    assert "within 0.4 seconds" in replies[0].text


def test_a_reply_on_its_way_when_the_run_ends_is_waited_for(tmp_path):
    def answer(body, n):
        if body["seed"] == 0:
            return failure(401)
        time.sleep(0.4)
        return completion("paid")

    with FakeEndpoint(answer) as endpoint:
        with pytest.raises(UserError, match="401"):
            ask(endpoint, tmp_path, count=4)
        asked = len(endpoint.requests)
        ledger = Ledger(tmp_path / "ledger.sqlite")
    assert asked == 4
    assert ledger.counts() == {"done": 3, "planned": 1}


def test_a_dead_endpoint_that_comes_back_is_waited_for(tmp_path):
    """An outage in the middle: one request at a time finds out, and nothing is rejected."""

    died_at = None

    def answer(body, n):
        nonlocal died_at
        if n == 40:
            died_at = time.monotonic()
        return failure(503) if died_at and time.monotonic() - died_at < 0.5 else completion("x")

    with FakeEndpoint(answer) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, count=100, max_retries=6, concurrency=16)
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert 20 <= teacher.meter.lost < 50
