"""What a client gets wrong is answered in OpenAI's form; what the server gets wrong is never a hang or a traceback."""

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from asclepius_jax.generate.replica import Capacity
from asclepius_jax.generate.serve import routes
from asclepius_jax.generate.serve.engine_thread import EngineThread
from asclepius_jax.generate.serve.routes import Served, application
from asclepius_jax.generate.serve.server import ServeConfig, announce, bound, load, ready_engine
from asclepius_jax.generate.serve.token_text import Vocabulary
from tests.helpers.endpoints.served import chat_folder

pytest.importorskip("transformers")
testclient = pytest.importorskip("starlette.testclient")

MESSAGES = [{"role": "user", "content": "Fever?"}]
BODY = {"model": "mine", "messages": MESSAGES, "max_tokens": 2}
PATH, KEY = "/v1/chat/completions", "a key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def config(small_tokenizer: Path, tmp_path_factory) -> ServeConfig:
    folder = chat_folder(tmp_path_factory.mktemp("model"), small_tokenizer)
    return ServeConfig(hf=folder, capacity=Capacity(slots=2, max_length=256), dtype="float32")


@pytest.fixture(scope="module")
def loaded(config: ServeConfig):
    return load(config)


@pytest.fixture(scope="module")
def engine(config, loaded):
    return ready_engine(config, loaded)


def client_of(engine, loaded, most_waiting: int = 8):
    thread = EngineThread(engine, Vocabulary(loaded.tokenizer), most_waiting, lambda: None)
    app = application(Served("mine", KEY, loaded.prompts, thread))
    return testclient.TestClient(app, headers=HEADERS), thread


@pytest.fixture(scope="module")
def client(engine, loaded):
    client, thread = client_of(engine, loaded)
    thread.start()
    yield client
    thread.stop()


def test_the_body_is_answered_as_it_stands(client):
    reply = client.post(PATH, json=BODY)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] <= 2


def nested(depth: int) -> bytes:
    return b'{"model": "mine", "messages": ' + b"[" * depth + b"]" * depth + b"}"


def with_message(**fields: object) -> dict:
    return {**BODY, "messages": [{"role": "user", "content": "x", **fields}]}


INVALID = (
    # (body, status, param, code, part of the message)
    (b"", 400, None, None, "not valid JSON"),
    (b"{", 400, None, None, "not valid JSON"),
    (b'{"a": NaN}', 400, None, None, "not valid JSON"),
    (b'{"a": Infinity}', 400, None, None, "not valid JSON"),
    (b'{"a": "\xff"}', 400, None, None, "not valid JSON"),
    (b'{"a": "\\ud800"}', 400, None, None, "not valid JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", 400, None, None, "not valid JSON"),
    (nested(100_000), 400, None, None, "not valid JSON"),
    (nested(50), 400, "messages[0]", "invalid_type", "must be an object, but is an array"),
    (b"[]", 400, None, None, "must be a JSON object, not an array"),
    (b"null", 400, None, None, "must be a JSON object, not null"),
    ({"messages": MESSAGES}, 400, "model", "missing_required_parameter", "provide a model"),
    ({**BODY, "model": 3}, 400, "model", "missing_required_parameter", "provide a model"),
    ({**BODY, "model": "other"}, 404, "model", "model_not_found", "'other' does not exist"),
    ({"model": "mine"}, 400, "messages", "invalid_type", "must be an array of objects, but is null"),
    ({**BODY, "messages": "hello"}, 400, "messages", "invalid_type", "but is a string"),
    ({**BODY, "messages": []}, 400, "messages", "empty_array", "is empty"),
    ({**BODY, "messages": ["hello"]}, 400, "messages[0]", "invalid_type", "must be an object"),
    (with_message(role="robot"), 400, "messages[0].role", "invalid_value", "Invalid value: 'robot'"),
    (with_message(role=["user"]), 400, "messages[0].role", "invalid_value", "Invalid value: ['user']"),
    (with_message(role="tool"), 400, "messages[0].role", "invalid_value", "Supported values are"),
    (with_message(content=None), 400, "messages[0].content", "invalid_type", "but is null"),
    (with_message(content=7), 400, "messages[0].content", "invalid_type", "but is an integer"),
    (with_message(content=[]), 400, "messages[0].content", "invalid_type", "array of parts"),
    (with_message(content=["x"]), 400, "messages[0].content[0]", "invalid_type", "must be an object"),
    (with_message(content=[{"type": "image_url"}]), 400, "messages[0].content[0].type", "invalid_value", "type 'text'"),
    (with_message(content=[{"type": "text"}]), 400, "messages[0].content[0].text", "invalid_type", "must be a string"),
    (with_message(tool_calls=[{}]), 400, "messages[0].tool_calls", "unsupported_parameter", "not supported"),
    (with_message(content="fever " * 300), 400, "messages", "context_length_exceeded", "length is 256 tokens"),
    ({**BODY, "max_tokens": 256}, 400, "messages", "context_length_exceeded", "256 in the completion"),
    ({**BODY, "max_tokens": 2**62}, 400, "messages", "context_length_exceeded", "in the completion"),
    ({**BODY, "max_tokens": 10**400}, 400, "max_tokens", "invalid_value", "must be between 1 and"),
    ({**BODY, "max_tokens": 0}, 400, "max_tokens", "invalid_value", "must be between 1 and"),
    ({**BODY, "max_tokens": -1}, 400, "max_tokens", "invalid_value", "but is -1"),
    ({**BODY, "max_tokens": 1.5}, 400, "max_tokens", "invalid_type", "must be an integer, but is a number"),
    ({**BODY, "max_tokens": True}, 400, "max_tokens", "invalid_type", "but is a boolean"),
    ({**BODY, "max_completion_tokens": 3}, 400, "max_tokens", "invalid_value", "not both"),
    ({**BODY, "temperature": -0.1}, 400, "temperature", "invalid_value", "must be between 0 and 2"),
    ({**BODY, "temperature": 2.1}, 400, "temperature", "invalid_value", "but is 2.1"),
    (b'{"model": "mine", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', 400, "temperature",
     "invalid_value", "but is inf"),
    ({**BODY, "temperature": "hot"}, 400, "temperature", "invalid_type", "must be a number"),
    ({**BODY, "top_p": 1.1}, 400, "top_p", "invalid_value", "must be between 0 and 1"),
    ({**BODY, "top_p": -1}, 400, "top_p", "invalid_value", "must be between 0 and 1"),
    ({**BODY, "seed": 2**64}, 400, "seed", "invalid_value", "must be between"),
    ({**BODY, "seed": 0.5}, 400, "seed", "invalid_type", "must be an integer"),
    ({**BODY, "n": 0}, 400, "n", "invalid_value", "must be between 1 and 10"),
    ({**BODY, "n": 10**9}, 400, "n", "invalid_value", "must be between 1 and 10"),
    ({**BODY, "stop": 3}, 400, "stop", "invalid_type", "a string or an array of strings"),
    ({**BODY, "stop": [3]}, 400, "stop", "invalid_type", "a string or an array of strings"),
    ({**BODY, "stop": ""}, 400, "stop", "invalid_value", "1 to 1000 characters"),
    ({**BODY, "stop": list("abcde")}, 400, "stop", "invalid_value", "at most 4 strings"),
    ({**BODY, "stream": "yes"}, 400, "stream", "invalid_type", "must be a boolean"),
    ({**BODY, "stream_options": {}}, 400, "stream_options", "invalid_value", "needs 'stream'"),
    ({**BODY, "stream": True, "stream_options": []}, 400, "stream_options", "invalid_type", "must be an object"),
    ({**BODY, "logprobs": 3}, 400, "logprobs", "invalid_type", "must be a boolean"),
    ({**BODY, "top_logprobs": 3}, 400, "top_logprobs", "invalid_value", "needs 'logprobs'"),
    ({**BODY, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value", "between 0 and 20"),
    ({**BODY, "response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter",
     "'response_format' is not supported"),
    ({**BODY, "tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter", "'tools' is not supported"),
    ({**BODY, "frequency_penalty": 0.5}, 400, "frequency_penalty", "unsupported_parameter", "is not supported"),
    ({**BODY, "logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter", "is not supported"),
    ({**BODY, "temprature": 0.5}, 400, "temprature", "unknown_parameter", "Unrecognized request argument"),
)  # fmt: skip


@pytest.mark.parametrize("case", INVALID, ids=lambda case: str(case[4])[:40])
def test_an_invalid_request_is_refused_in_the_form_of_the_api(client, case):
    body, status, param, code, part = case
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post(PATH, content=content)
    error = reply.json()["error"]
    assert reply.status_code == status, error
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert part in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": None, "stop": None, "n": None, "tools": None, "unheard_of": None},
        {"user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"top_p": 0},
        {"temperature": 1e-9},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
    ],
)
def test_what_asks_for_nothing_is_accepted(client, more: dict):
    assert client.post(PATH, json={**BODY, **more}).status_code == 200


def test_our_own_client_leaves_out_what_is_not_supported(client):
    from data_prep.teachers.endpoint.transport import Parameters

    body = {**BODY, "response_format": {"type": "json_schema"}}
    parameters, reply = Parameters("here", set()), client.post(PATH, json=body)
    assert parameters.refused(reply.status_code, reply.text, body)
    assert parameters.omitted == {"response_format"}
    for wrong in ({**BODY, "max_tokens": 10**6}, {**BODY, "temperature": 3}):
        reply = client.post(PATH, json=wrong)
        assert not Parameters("here", set()).refused(reply.status_code, reply.text, wrong)


ADDRESSES = (
    ("GET", PATH, 405, "Not allowed: GET /v1/chat/completions"),
    ("POST", "/v1/models", 405, "Not allowed: POST /v1/models"),
    ("POST", "/v1/completions", 404, "Invalid URL (POST /v1/completions)"),
    ("GET", "/v1/models/", 404, "does not exist"),
    ("GET", "/v1/models/other", 404, "'other' does not exist"),
    ("GET", "/", 404, "Invalid URL (GET /)"),
)


@pytest.mark.parametrize(("method", "path", "status", "part"), ADDRESSES)
def test_a_wrong_address_is_refused_in_the_form_of_the_api(client, method, path, status, part):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert part in reply.json()["error"]["message"]


def test_only_the_key_opens_the_server(client):
    for headers in ({}, {"Authorization": ""}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY},
                    {"Authorization": b"Bearer \xff"}):  # fmt: skip
        for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", "/v1/models/mine")):
            reply = testclient.TestClient(client.app).request(method, path, headers=headers)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "invalid_api_key"
    assert testclient.TestClient(client.app).get("/health").status_code == 200


def test_a_large_body_is_refused_before_it_is_read(client, monkeypatch):
    monkeypatch.setattr(routes, "LARGEST_BODY", 1000)
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 100

    for content in (b" " * 1001, endless()):
        reply = client.post(PATH, content=content)
        assert reply.status_code == 413
        assert "at most 1000 bytes" in reply.json()["error"]["message"]


def test_an_address_is_printed_once_clients_can_connect_to_it(monkeypatch):
    printed = []
    with bound("127.0.0.1", 0, key="") as listener:

        def connect(line: str, **_) -> None:
            socket.create_connection(listener.getsockname()).close()
            printed.append(line)

        monkeypatch.setattr("builtins.print", connect)
        announce(listener, "mine", "2 slots")
        assert printed == [
            f"Serving mine on http://127.0.0.1:{listener.getsockname()[1]}/v1, 2 slots; press Ctrl-C to stop"
        ]


def test_a_full_queue_is_refused_until_there_is_room(engine, loaded):
    client, thread = client_of(engine, loaded, most_waiting=1)  # two slots, one place, and an engine that has not begun
    replies = []
    first = threading.Thread(target=lambda: replies.append(client.post(PATH, json={**BODY, "n": 3})))
    first.start()
    while thread.open < 3:
        time.sleep(0.01)
    refused = client.post(PATH, json=BODY)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert client.get("/health").json()["waiting"] == 3
    thread.start()
    first.join()
    assert len(replies[0].json()["choices"]) == 3
    assert client.post(PATH, json=BODY).status_code == 200
    thread.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_ends_every_request_and_the_server(engine, loaded, stream: bool, monkeypatch):
    ended = []
    thread = EngineThread(engine, Vocabulary(loaded.tokenizer), 8, lambda: ended.append(True))
    client = testclient.TestClient(application(Served("mine", KEY, loaded.prompts, thread)), headers=HEADERS)

    def fail(_: int) -> None:
        engine.waiting.clear()
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(engine, "step", fail)
    thread.start()
    reply = client.post(PATH, json={**BODY, "stream": stream})
    text = reply.text.splitlines()[-2].removeprefix("data: ") if stream else reply.text
    assert json.loads(text)["error"]["type"] == "server_error"
    assert reply.status_code == (200 if stream else 503)
    thread.thread.join()
    assert ended
    assert str(thread.error) == "the device is lost"
    assert client.get("/health").status_code == 503
    assert client.post(PATH, json=BODY).status_code == 503


def test_an_error_of_this_program_shows_and_logs_no_text(client, loaded, monkeypatch, capsys):
    def fail(messages):
        raise KeyError(messages[0].content)

    monkeypatch.setattr(loaded.prompts, "ids", fail)
    reply = client.post(PATH, json=with_message(content="Mr Secret has fever"))
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    told = capsys.readouterr()
    assert "error KeyError in" in told.out
    assert "Secret" not in reply.text + told.out + told.err


def test_no_text_of_a_request_or_an_answer_is_logged(client, capsys):
    answer = client.post(PATH, json={**with_message(content="Mr Secret has fever"), "max_tokens": 20, "seed": 1}).json()
    client.get("/v1/Secret")
    told = capsys.readouterr().out
    assert "POST /v1/chat/completions 200" in told
    assert "GET another address 404" in told
    assert "Secret" not in told
    assert answer["choices"][0]["message"]["content"] not in told


REFUSED = (
    ((), "name one model: either --checkpoint RUN or --hf FOLDER"),
    (("--checkpoint", "a", "--hf", "b"), "name one model: either"),
    (("--hf", "none"), "is not a Hugging Face folder: config.json is missing"),
    (("--hf", "b", "--host", "0.0.0.0"), "--host 0.0.0.0 can be reached from other machines: set an API key"),
    (("--hf", "b", "--host", "::"), "--host :: can be reached from other machines: set an API key"),
    (("--hf", "b", "--key-file", "absent"), "--key-file absent: no such file"),
    (("--hf", "b", "--key-file", os.devnull), "no such file"),
    (("--hf", "b", "--key-variable", "UNSET_KEY"), "the environment variable UNSET_KEY holds no API key"),
    (("--hf", "b", "--port", "70000"), "--port 70000: must be between 0 and 65535"),
    (("--hf", "b", "--max-waiting", "-1"), "--max-waiting -1: it must be 0 or more"),
    (("--hf", "b", "--capacity.slots", "0"), "--capacity.slots 0: it must be 1 or more"),
)


@pytest.mark.parametrize(("arguments", "part"), REFUSED)
def test_wrong_settings_end_in_one_line(arguments: tuple[str, ...], part: str, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASCLEPIUS_API_KEY", raising=False)
    told = refused("serve", *arguments)
    assert part in told
    assert told.count("\n") == 1
