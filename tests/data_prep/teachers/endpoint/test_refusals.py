"""Parameters that an endpoint does not take, redirects and proxies: what is sent, and to whom."""

import json
import time
from itertools import pairwise

import pytest

from data_prep.contract.errors import UserError
from data_prep.synthesize import notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.base import TeacherConfig, check_teacher
from data_prep.teachers.endpoint import http
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.transport import Parameters
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion, failure
from tests.helpers.text_stages import api, ask, write_reports

SENT = {"model": "m", "messages": [], "temperature": 1.0, "seed": 7, "max_tokens": 64, "response_format": {}}
WITHOUT_SEED = [
    '{"error": {"message": "Unsupported parameter: \'seed\' is not supported with this model.", "param": "seed"}}',
    '{"error": {"message": "Unrecognized request argument supplied: seed", "type": "invalid_request_error"}}',
    '{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}',
    '{"message": "property \'seed\' is unsupported", "code": 400}',
    '{"error": "unknown field: seed"}',
    '{"object": "error", "message": "generate() got an unexpected keyword argument \'seed\'"}',
    "seed is not allowed",
    '[{"error": {"code": 400, "message": "Invalid JSON payload. Unknown name \\"seed\\": Cannot find field."}}]',
]


@pytest.mark.parametrize("raw", WITHOUT_SEED)
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_refused_by_name_is_left_out_from_then_on(raw: str, status: int, capsys):
    parameters = Parameters("here", set())
    for _ in range(3):  # requests that were on their way together
        assert parameters.refused(status, raw, SENT)
    assert parameters.body(SENT).keys() == SENT.keys() - {"seed"}
    assert capsys.readouterr().err.count("\n") == 1
    assert not parameters.refused(status, raw, parameters.body(SENT)), "without it, this is another error"


NOT_A_REFUSAL = [
    (400, "'max_tokens' is too large: 4096. This model's maximum context length is 2048 tokens"),
    (400, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2"),
    (400, "max_tokens must be at least 16: smaller values are not supported"),
    (400, "Unsupported language in the messages"),
    (400, '{"detail": [{"msg": "Field required", "loc": ["body", "input"], "input": {"text": "seed is unknown"}}]}'),
    (500, "seed is not supported"),
    (400, "the model is unknown: messages not supported"),
    (400, "[" * 100_000),
]


@pytest.mark.parametrize(("status", "raw"), NOT_A_REFUSAL)
def test_other_errors_leave_the_parameters_alone(status: int, raw: str):
    parameters = Parameters("here", set())
    assert not parameters.refused(status, raw, SENT)
    assert parameters.body(SENT) == SENT


def test_the_limit_of_tokens_has_two_names():
    parameters = Parameters("here", set())
    told = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    assert parameters.refused(400, told, SENT)
    assert parameters.body(SENT)["max_completion_tokens"] == 64
    assert parameters.limits_tokens(SENT)
    assert parameters.refused(400, "unknown parameter max_completion_tokens", parameters.body(SENT))
    assert not parameters.limits_tokens(SENT)


def strict(*refused: str):
    """An endpoint that knows only some parameters, and names one unknown parameter at a time."""

    def answer(body, _):
        found = [name for name in refused if name in body]
        if found:
            return 400, {}, json.dumps({"error": {"message": f"Unsupported parameter: '{found[0]}'"}})
        return completion("x")

    return answer


def test_a_run_finds_out_what_the_endpoint_takes(tmp_path, capsys):
    with FakeEndpoint(strict("seed", "temperature", "max_tokens")) as endpoint:
        replies, teacher = ask(endpoint, tmp_path, count=20, max_retries=0)
    assert [reply.text for reply in replies] == ["x"] * 20
    assert set(endpoint.requests[-1]) == {"model", "messages", "max_completion_tokens"}
    assert len(endpoint.requests) <= 20 + 3 * 8, "once, by those that were on their way"
    assert teacher.meter.omitted == {"seed", "temperature"}
    assert capsys.readouterr().err.count("does not take the parameter") == 3


def test_parameters_can_be_left_out_from_the_start(tmp_path):
    with FakeEndpoint(strict("seed")) as endpoint:
        ask(endpoint, tmp_path, count=3, omit=("seed",))
    assert len(endpoint.requests) == 3
    assert all("seed" not in body for body in endpoint.requests)


def test_a_limit_of_cost_is_not_given_up(tmp_path):
    limits = strict("max_tokens", "max_completion_tokens")
    with FakeEndpoint(limits) as endpoint, pytest.raises(UserError, match="--max-cost cannot be kept"):
        ask(endpoint, tmp_path, budget=BudgetConfig(max_cost=1.0, price_input=1.0, price_output=1.0))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(tmp_path, monkeypatch, status: int):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FakeEndpoint(lambda body, n: completion("x")) as elsewhere:
        there = {"Location": f"{elsewhere.url}/chat/completions"}
        with (
            FakeEndpoint(lambda body, n: (status, there, "")) as endpoint,
            pytest.raises(UserError, match=rf"answered {status}, a redirect to .*{elsewhere.url}.*: check --base-url"),
        ):
            ask(endpoint, tmp_path)
    assert elsewhere.requests == []


def test_a_proxy_of_the_environment_reads_nothing_meant_for_a_host_of_ones_own(tmp_path, monkeypatch):
    with FakeEndpoint(lambda body, n: completion("read by the proxy")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with FakeEndpoint(lambda body, n: completion("x")) as endpoint:
            assert ask(endpoint, tmp_path / "a")[0][0].text == "x"
            assert proxy.requests == []
            named, _ = ask(endpoint, tmp_path / "b", proxy=proxy.url.removesuffix("/v1"))
    assert named[0].text == "read by the proxy"


@pytest.mark.parametrize("wait", ["0", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "0.0", "soon"])
def test_a_wait_of_nothing_is_no_licence_to_hammer(tmp_path, monkeypatch, wait: str):
    arrived = []

    def answer(body, n):
        arrived.append(time.monotonic())
        return failure(429, **{"Retry-After": wait}) if n < 4 else completion("x")

    monkeypatch.setattr(http, "back_off", lambda attempt: 0.05 * attempt)
    with FakeEndpoint(answer) as endpoint:
        ask(endpoint, tmp_path)
    assert [later - earlier >= 0.05 * n for n, (earlier, later) in enumerate(pairwise(arrived), 1)] == [True] * 4


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://", "https:///v1", "http://host:99999/v1", "http://host:port/v1", "ftp://x", "x"]
)
def test_an_address_that_is_none_is_one_line(url: str):
    with pytest.raises(UserError, match="it must be an address such as"):
        check_teacher(TeacherConfig("openai", url, "m"))
    with pytest.raises(UserError, match="--proxy"):
        check_teacher(TeacherConfig("openai", "http://localhost/v1", "m", proxy=url))


HALF = "no \ud83d"  # of a pair of surrogates, as where a gateway cuts an emoji
WITH_HALF = {
    "a refusal": completion(None, refusal=HALF),
    "an error": (400, {}, json.dumps({"error": {"message": HALF, "code": HALF}})),
    "an error page": (400, {}, HALF.encode("unicode_escape").decode()),
    "a finish reason": completion(HALF, HALF),
    "content of another kind": completion({HALF: HALF}),
    "a model": (200, {}, json.dumps({**json.loads(completion("HPI: stable. " * 20)[2]), "model": HALF})),
    "a text": completion("HPI: stable. " * 20 + HALF),
}


@pytest.mark.parametrize("name", WITH_HALF)
def test_half_a_surrogate_pair_ends_no_run(tmp_path, name: str):
    source = write_reports(tmp_path / "a.jsonl", 3)
    with FakeEndpoint(lambda body, n: WITH_HALF[name]) as endpoint:
        config = NotesConfig(source, tmp_path / "out", teacher=api(endpoint, max_retries=0), gate=GateConfig("keep"))
        for _ in range(2):
            if WITH_HALF[name][0] == 400 or name in ("a finish reason", "content of another kind"):
                with pytest.raises(UserError, match="every request failed"):
                    notes.run(config)
            else:
                manifest = notes.run(config)
                assert manifest["out"] + sum(manifest["rejected"].values()) == 3
