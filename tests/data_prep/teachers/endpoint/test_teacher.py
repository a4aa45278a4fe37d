"""The OpenAI-compatible teacher against an endpoint that misbehaves in every way it should survive."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.teachers.base import Request, TeacherConfig, check_teacher, ledger_path, request_seed
from data_prep.teachers.endpoint import transport
from data_prep.teachers.endpoint.ledger import Ledger, request_key
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.openai import identity
from data_prep.teachers.endpoint.replies import Reply, read_response
from data_prep.teachers.factory import endpoint_teacher, make_teacher
from tests.helpers.endpoints.fake_endpoint import AT_ONCE, FakeEndpoint, completion, failure
from tests.helpers.text_stages import ask


def test_a_reply_has_text_finish_reason_and_the_model_that_answered(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FakeEndpoint(lambda body, n: completion("hello")) as endpoint:
        replies, _ = ask(endpoint, tmp_path, temperature=0.5, max_tokens=77)
    assert replies == [Reply("hello", "stop", "fake-1")]
    sent = endpoint.requests[0]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["seed"]) == ("m", 0.5, 77, 0)
    assert endpoint.keys == ["Bearer sk-secret"]
    assert b"sk-secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_rerun_sends_no_request(tmp_path):
    with FakeEndpoint(lambda body, n: completion(f"answer {body['seed']}")) as endpoint:
        first, _ = ask(endpoint, tmp_path, count=5)
        again, teacher = ask(endpoint, tmp_path, count=5)
    assert first == again
    assert len(endpoint.requests) == 5
    assert teacher.meter.answered == 0


@pytest.mark.parametrize(("status", "says"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "--model")])
def test_a_refusal_of_the_endpoint_ends_the_run_and_names_it(tmp_path, status, says):
    said = pytest.raises(UserError, match=f"model m answered {status}.*{says}")
    with FakeEndpoint(lambda body, n: failure(status)) as endpoint, said as caught:
        ask(endpoint, tmp_path, count=4)
    assert endpoint.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_429_for_ever_ends_the_run_after_the_retries(tmp_path):
    said = pytest.raises(UserError, match="429 after 2 retries")
    with FakeEndpoint(lambda body, n: failure(429, "rate_limit_exceeded", **AT_ONCE)) as endpoint, said:
        ask(endpoint, tmp_path, max_retries=2)
    assert len(endpoint.requests) == 3


def test_an_exhausted_quota_ends_the_run_at_once(tmp_path):
    said = pytest.raises(UserError, match=r"429 .*quota is used up")
    with FakeEndpoint(lambda body, n: failure(429, "insufficient_quota", **AT_ONCE)) as endpoint, said:
        ask(endpoint, tmp_path, max_retries=9)
    assert len(endpoint.requests) == 1


def test_a_server_error_is_tried_again(tmp_path):
    with FakeEndpoint(lambda body, n: failure(500, **AT_ONCE) if n == 0 else completion("better")) as endpoint:
        replies, _ = ask(endpoint, tmp_path)
    assert replies[0].text == "better"
    assert len(endpoint.requests) == 2


def test_a_server_error_that_lasts_costs_that_record_only(tmp_path):
    def answer(body, n):
        return failure(500, **AT_ONCE) if body["seed"] == 1 else completion("fine")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=3)
    assert [reply.finish_reason for reply in replies] == ["stop", "error", "stop"]
    assert "status 500" in replies[1].text


GARBAGE = {
    "not JSON": (200, {}, "<html>busy</html>"),
    "a list": (200, {}, "[]"),
    "no choices": (200, {}, '{"choices": []}'),
    "choices null": (200, {}, '{"choices": null}'),
    "no message": (200, {}, '{"choices": [{"finish_reason": "stop"}]}'),
    "content is a number": completion(5),
    "content is null": completion(None),
    "an odd finish reason": completion("half", "tool_calls"),
    "nothing": (200, {}, ""),
}

WHOLE = (
    "content is a number",
    "content is null",
    "an odd finish reason",
)


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_costs_that_record_only_and_is_asked_again_next_time(tmp_path, name):
    sick = True

    def answer(body, n):
        return GARBAGE[name] if sick and body["seed"] == 0 else completion("fine")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=3)
        attempts = sum(body["seed"] == 0 for body in endpoint.requests)
        sick = False
        again, _ = ask(endpoint, tmp_path, count=3)
    assert [reply.finish_reason for reply in replies] == ["error", "stop", "stop"]
    assert [reply.finish_reason for reply in again] == ["stop"] * 3
    # What was cut or garbled on its way may come whole; a completion that is no use is not paid for again and again.
    assert attempts == (1 if name in WHOLE else 2)
    assert len(endpoint.requests) == attempts + 3


def test_the_raw_response_is_committed_before_it_is_parsed(tmp_path, monkeypatch):
    def crash(raw, model):
        raise KeyboardInterrupt

    with FakeEndpoint(lambda body, n: completion("paid")) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr(transport, "read_response", crash)
            with pytest.raises(KeyboardInterrupt):
                ask(endpoint, tmp_path)
        replies, _ = ask(endpoint, tmp_path)
    assert replies[0].text == "paid"
    assert len(endpoint.requests) == 1


def test_a_request_is_in_flight_in_the_ledger_while_it_is_sent(tmp_path):
    seen = []

    def answer(body, n):
        seen.append(Ledger(tmp_path / "ledger.sqlite").counts())
        return completion("x")

    with FakeEndpoint(answer) as endpoint:
        ask(endpoint, tmp_path)
    assert seen == [{"in flight": 1}]


def test_an_endpoint_that_breaks_down_stops_the_run(tmp_path):
    """Not only from the start: a server that dies half-way must not leave a folder that calls itself finished."""

    def answer(body, n):
        return completion("well") if n < 30 else (200, {}, "<html>")

    said = pytest.raises(UserError, match=r"2\d requests in a row failed")
    with FakeEndpoint(answer) as endpoint, said:
        ask(endpoint, tmp_path, count=100, concurrency=4)
    assert 50 <= len(endpoint.requests) < 60


def test_when_all_fail_the_run_stops_early(tmp_path):
    said = pytest.raises(UserError, match=r"2\d requests in a row failed")
    with FakeEndpoint(lambda body, n: (200, {}, "{}")) as endpoint, said:
        ask(endpoint, tmp_path, count=100, concurrency=4)
    assert len(endpoint.requests) < 30


def test_concurrency_is_bounded(tmp_path):
    most = now = 0

    def answer(body, n):
        nonlocal most, now
        now += 1
        most = max(most, now)
        pause.wait(0.02)
        now -= 1
        return completion("x")

    pause = threading.Event()
    with FakeEndpoint(answer) as endpoint:
        ask(endpoint, tmp_path, count=20, concurrency=3)
    assert 2 <= most <= 3


def test_an_endpoint_that_is_not_there_is_named(tmp_path):
    with FakeEndpoint(lambda body, n: completion("x")) as endpoint:
        pass
    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:\d+/v1"):
        ask(endpoint, tmp_path, max_retries=0)


def test_a_slow_reply_is_an_error_of_its_record(tmp_path):
    ended = threading.Event()

    def answer(body, n):
        if body["seed"] == 0:
            ended.wait()
        return completion("x")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=2, timeout_seconds=1, max_retries=0)
        ended.set()
    assert [reply.finish_reason for reply in replies] == ["error", "stop"]
    assert "within 1 seconds" in replies[0].text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completion("cut of", "length"), Reply("cut of", "length", "fake-1")),
        (completion("", "content_filter"), Reply("", "content_filter", "fake-1")),
        (completion(None, "stop", refusal="I won't"), Reply("I won't", "refusal", "fake-1")),
        (completion(None, "length"), Reply("", "length", "fake-1")),
    ],
)
def test_finish_reasons(answer, expected):
    assert read_response(answer[2], "m") == expected


def test_half_an_emoji_at_the_end_of_a_reply_can_be_stored():
    raw = completion(b"pain \\ud83d".decode("unicode_escape"), "length")[2]
    text = read_response(raw, "m").text
    assert text == "pain \ufffd"
    assert read_response(completion("pain 🫀")[2], "m").text == "pain 🫀"


def test_a_key_with_a_newline_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(UserError, match="copy the key again") as caught:
        check_teacher(TeacherConfig("openai", "http://x/v1", "m"))
    assert "sk-" not in str(caught.value)


def test_the_model_asked_for_stands_in_where_none_is_named():
    raw = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})
    assert read_response(raw, "m").model == "m"


def test_settings_that_cannot_work_are_refused_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        check_teacher(TeacherConfig(teacher="openai", model="m"))
    with pytest.raises(UserError, match="--model"):
        check_teacher(TeacherConfig(teacher="openai", base_url="http://x"))
    with pytest.raises(UserError, match="--base-url"):
        check_teacher(TeacherConfig(teacher="openai", model="m", base_url="localhost:8000"))
    for secret in ("http://me:pass@x/v1", "http://x/v1?api-key=pass"):
        with pytest.raises(UserError, match="put the key in") as caught:
            check_teacher(TeacherConfig(teacher="openai", model="m", base_url=secret))
        assert "pass@" not in str(caught.value)
        assert "=pass" not in str(caught.value)
    with pytest.raises(UserError, match="--concurrency 0"):
        check_teacher(TeacherConfig(concurrency=0))
    check_teacher(TeacherConfig(teacher="openai", model="m", base_url="http://x/v1"))
    check_teacher(TeacherConfig())


def test_a_server_of_ones_own_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeEndpoint(lambda body, n: completion("x")) as endpoint:
        ask(endpoint, tmp_path)
    assert endpoint.keys == ["Bearer none"]


def test_seeds_differ_by_record_and_by_kind():
    seeds = {request_seed(0, kind, f"r{k}") for kind in ("note", "question", "answer") for k in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(0, "note", "r1") == request_seed(0, "note", "r1")


def test_make_teacher_keeps_a_ledger_for_the_paid_one(tmp_path):
    config = TeacherConfig(teacher="openai", model="m", base_url="http://x/v1")
    assert ledger_path(config, tmp_path / "notes") == tmp_path / "notes.ledger.sqlite"
    teacher = make_teacher(config, ledger_path(config, tmp_path / "notes"), Meter())
    assert teacher.name == "openai"
    assert Path(tmp_path / "notes.ledger.sqlite").is_file()


# ---------------------------------------------------------------- cut, refused, against a schema


def test_a_cut_reply_is_asked_for_once_more_with_twice_the_room(tmp_path):
    def answer(body, n):
        return completion("cut", "length") if body["max_tokens"] == 10 or body["seed"] == 1 else completion("whole")

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, count=2, max_tokens=10)
        again, _ = ask(endpoint, tmp_path, count=2, max_tokens=10)
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("whole", "stop"), ("cut", "length")]
    assert again == replies
    assert sorted(body["max_tokens"] for body in endpoint.requests) == [10, 10, 20, 20]


def test_an_endpoint_without_so_much_room_leaves_the_cut_reply(tmp_path):
    def answer(body, n):
        return completion("cut", "length") if body["max_tokens"] == 10 else failure(400)

    with FakeEndpoint(answer) as endpoint:
        replies, _ = ask(endpoint, tmp_path, max_tokens=10)
    assert replies == [Reply("cut", "length", "fake-1")]


SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 4}},
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("structured", [False, True])
def test_a_reply_against_its_schema_is_asked_for_once_more_and_then_invalid(tmp_path, structured):
    def answer(body, n):
        return completion('{"score": 5}' if body["seed"] in (0, 10, 11) else '{"score": 4}')

    async def go():
        config = TeacherConfig("openai", endpoint.url, "m", structured=structured)
        teacher = endpoint_teacher(config, Ledger(tmp_path / "ledger.sqlite"), Meter())
        message = ({"role": "user", "content": "judge"},)
        try:
            return [
                await teacher.ask(Request("judgement", "r", message, seed=seed, schema=SCHEMA)) for seed in (0, 10, 20)
            ]
        finally:
            await teacher.close()

    with FakeEndpoint(answer) as endpoint:
        replies = asyncio.run(go())
        assert asyncio.run(go()) == replies
    assert [reply.finish_reason for reply in replies] == ["stop", "invalid", "stop"]
    assert [body["seed"] for body in endpoint.requests] == [0, 1, 10, 11, 20]
    for body in endpoint.requests:
        assert ("response_format" in body) == structured
    if structured:
        assert endpoint.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_schema_prompt_and_sample_are_part_of_a_requests_key():
    config = TeacherConfig("openai", "http://x/v1", "m")
    request = Request("judgement", "r", ({"role": "user", "content": "judge"},))
    others = [replace(request, schema=SCHEMA), replace(request, prompt_hash="v2"), replace(request, sample=1)]
    keys = {request_key(identity(config, each, 10)) for each in [request, *others]}
    keys |= {request_key(identity(replace(config, structured=True), others[0], 10))}
    assert len(keys) == 5
    # A request that says none of these has the key that it always had.
    first_layout = {
        "base_url": "http://x/v1",
        "model": "m",
        "messages": [{"role": "user", "content": "judge"}],
        "temperature": 1.0,
        "seed": 0,
        "max_tokens": 10,
    }
    assert request_key(identity(config, request, 10)) == request_key(first_layout)
