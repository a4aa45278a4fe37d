"""`asclepius serve` as a process: its clients, many at once, ones that leave or never read, and its end."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax.convert.export_hf import export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.evaluate.answers import answers
from asclepius_jax.evaluate.answers.answers import AnswersConfig
from asclepius_jax.evaluate.answers.models import Decoding
from asclepius_jax.evaluate.judge import judge
from asclepius_jax.evaluate.judge.judge import JudgeConfig
from data_prep.contract.errors import UserError
from data_prep.teachers.base import TeacherConfig
from data_prep.teachers.endpoint.ledger_tables import unpacked
from tests.helpers.endpoints.served import Server, chat_folder
from tests.helpers.evaluation.made_evaluation import answered, question, write_answers, write_questions
from tests.helpers.text_stages import write_reports

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")

LENGTH = 4096
ANSWERED = "POST /v1/chat/completions 200"


@pytest.fixture(scope="module")
def checkpoint(small_tokenizer: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint") / "run"
    run_import(ImportConfig(chat_folder(tmp_path_factory.mktemp("model"), small_tokenizer), out))
    return out


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory) -> Iterator[Server]:
    server = start(checkpoint, tmp_path_factory.mktemp("server"))
    yield server
    server.end(signal.SIGKILL)


def start(checkpoint: Path, folder: Path) -> Server:
    return Server(folder, "--checkpoint", checkpoint, "--capacity.slots", 8, "--capacity.max-length", LENGTH)


@pytest.fixture
def client(server: Server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    assert not any(server.idle()[name] for name in ("slots_in_use", "pages_in_use", "waiting"))


def asked(number: int = 0, **more: Any) -> dict[str, Any]:
    """A request; each number has another prompt, another seed and another length."""
    note = f"Patient {number} was admitted with fever and left chest pain. " * (1 + number % 3)
    messages = [{"role": "system", "content": note}, {"role": "user", "content": "Which symptoms?"}]
    return {"model": "run", "messages": messages, "seed": number, "max_tokens": 12 + number % 30, **more}


def text_of(chunks: Any) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# ---------------------------------------------------------------- one client


def test_greedy_answers_are_those_of_transformers_on_the_exported_folder(client, checkpoint: Path, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    export(checkpoint, tmp_path / "hf", "float32")
    # A checkpoint that was imported has no template of its own, and is asked with the default one.
    from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, chat_template
    from data_prep.contract.tokenizer import JsonTokenizer

    tokens = JsonTokenizer(tmp_path / "hf")
    template = chat_template(TRAINING_TEMPLATE, "<s>", "</s>", tokens.special_tokens())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    for number in range(4):
        request = asked(number, temperature=0, logprobs=True)
        ids = tokenizer.apply_chat_template(
            request["messages"], chat_template=template, add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        out = model.generate(ids, max_new_tokens=request["max_tokens"], do_sample=False)[0, ids.shape[1] :]
        reply = client.chat.completions.create(**request)
        assert reply.choices[0].message.content == tokenizer.decode(out, skip_special_tokens=True)
        drawn = [token for token in out.tolist() if token != tokenizer.eos_token_id]
        assert reply.usage.model_dump(exclude_none=True) == {
            "prompt_tokens": ids.shape[1],
            "completion_tokens": len(drawn),
            "total_tokens": ids.shape[1] + len(drawn),
        }
        listed = reply.choices[0].logprobs.content
        assert len(listed) == len(drawn)
        with torch.no_grad():
            logits = model(torch.cat([ids, out[None]], 1)).logits[0, ids.shape[1] - 1 : -1]
        theirs = torch.log_softmax(logits, -1)[range(len(drawn)), drawn]
        assert [token.logprob for token in listed] == pytest.approx(theirs.tolist(), abs=1e-3)


def test_a_stream_is_the_answer_in_pieces(client):
    """Most tokens of this model are bytes: halves of characters are kept back."""
    for number in range(4):
        request = asked(number, temperature=1.5, max_tokens=80)
        whole = client.chat.completions.create(**request)
        *chunks, last = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        assert chunks[0].choices[0].delta.role == "assistant"
        assert text_of(chunks) == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert last.usage == whole.usage
        assert not last.choices
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, last]}) == 1


def test_an_answer_follows_its_seed(client):
    def answer(**more: Any) -> str:
        return client.chat.completions.create(**{**asked(3), **more}).choices[0].message.content

    assert answer() == answer()
    assert len({answer(seed=seed) for seed in (0, 1, -1, 2**62)} | {answer(seed=None), answer(seed=None)}) == 6
    assert answer(temperature=0, seed=1) == answer(temperature=0, seed=2)
    assert answer(top_p=0) == answer(temperature=0)


def test_several_samples_differ_and_the_first_is_that_of_the_seed_alone(client):
    several = client.chat.completions.create(**asked(3), n=3)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = client.chat.completions.create(**asked(3))
    assert texts[0] == alone.choices[0].message.content
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens
    found = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**asked(3), n=3, stream=True):
        found[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [*found.values()] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop_string_wherever_tokens_end(client, stream: bool):
    request = asked(5, max_tokens=200)
    whole = client.chat.completions.create(**request).choices[0].message.content
    for place in (10, 31, 52):
        stop = whole[place : place + 4]
        expected = whole[: whole.index(stop)]
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        reply = client.chat.completions.create(**request, stop=["never in it", stop], logprobs=True, **more)
        if stream:
            *chunks, last = reply
            text, usage, finish = text_of(chunks), last.usage, chunks[-1].choices[0].finish_reason
            tokens = [t for c in chunks if (found := c.choices[0].logprobs) for t in found.content]
        else:
            choice, usage = reply.choices[0], reply.usage
            text, finish, tokens = choice.message.content, choice.finish_reason, choice.logprobs.content
        assert (text, finish) == (expected, "stop")
        assert usage.completion_tokens < 200
        assert 0 < len(tokens) <= usage.completion_tokens
    assert client.chat.completions.create(**request, stop="never in it").choices[0].message.content == whole


def test_log_probabilities_are_listed_by_token_whole_and_in_a_stream(client):
    request = asked(2, temperature=0, logprobs=True, top_logprobs=5)
    tokens = client.chat.completions.create(**request).choices[0].logprobs.content
    for token in tokens:
        assert len(token.top_logprobs) == 5
        assert token.top_logprobs[0].logprob == token.logprob == max(top.logprob for top in token.top_logprobs)
    chunks = client.chat.completions.create(**request, stream=True)
    streamed = [t for chunk in chunks if (found := chunk.choices[0].logprobs) for t in found.content]
    assert [(t.bytes, t.logprob) for t in streamed] == [(t.bytes, t.logprob) for t in tokens]


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["run"]
    assert client.models.retrieve("run").owned_by == "asclepius-jax"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError, match="context length is 4096"):
        client.chat.completions.create(**asked(max_tokens=LENGTH))


def test_curl_gets_what_python_gets(client, server: Server):
    url = f"{server.url}/v1/chat/completions"
    command = ["curl", "-sS", "-N", url, "-d", json.dumps({**asked(1), "stream": True})]
    try:
        told = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    lines = told.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == client.chat.completions.create(**asked(1)).choices[0].message.content


# ---------------------------------------------------------------- many clients, and ones that leave


CLIENTS = 64


Said = tuple[str, list[list[int]]]  # an answer and the bytes of its tokens


def said_by(parts: Any) -> Said:
    """The answer in a completion's choice, or in those of the chunks of a stream."""
    tokens = [token.bytes for part in parts if part.logprobs for token in part.logprobs.content]
    texts = [(part.delta if hasattr(part, "delta") else part.message).content or "" for part in parts]
    return "".join(texts), tokens


async def one_of_many(client: Any, number: int) -> Said | None:
    """The answer that a client of this number gets, or None if it leaves before."""
    completions = client.chat.completions
    request = asked(number, logprobs=True)
    if number % 8 == 0:  # leaves while its answer is written
        stream = await completions.create(**{**request, "stream": True, "max_tokens": 2000})
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        return None
    if number % 8 == 1:  # leaves while it waits
        seconds = random.Random(number).uniform(0.05, 1)
        with pytest.raises(openai.APITimeoutError):
            await completions.create(**{**request, "max_tokens": 3000}, timeout=seconds)
        return None
    if number % 8 == 2 or number % 2:
        chunks = []
        async for chunk in await completions.create(**request, stream=True):
            chunks += chunk.choices
            await asyncio.sleep(0 if number % 2 else 0.2)  # the others read slowly
        return said_by(chunks)
    return said_by((await completions.create(**request)).choices)


def test_each_of_many_clients_gets_the_answer_that_it_gets_alone(client, server: Server):
    async def all_at_once() -> list[Said | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as many:
            return await asyncio.gather(*(one_of_many(many, number) for number in range(CLIENTS)))

    found = asyncio.run(all_at_once())
    health = server.idle()
    kept = [number for number in range(CLIENTS) if number % 8 > 1]
    assert [number for number, said in enumerate(found) if said is not None] == kept
    alone = [said_by(client.chat.completions.create(**asked(number), logprobs=True).choices) for number in kept]
    assert [found[number] for number in kept] == alone
    assert len({str(said) for said in alone}) > len(kept) - 3  # some end at once
    pages = 8 * LENGTH // 64
    idle = {"slots": 8, "slots_in_use": 0, "waiting": 0, "pages": pages, "pages_in_use": 0}
    assert health == {"status": "ready", **idle}


def test_a_client_that_never_reads_holds_no_slot_and_gets_everything_later(client, server: Server):
    body = json.dumps(asked(7, stream=True, n=4, max_tokens=600, logprobs=True, top_logprobs=20)).encode()
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = server.url.removeprefix("http://").split(":")
    reader.connect((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reader.sendall(head.encode() + body)
    server.busy(slots=1)
    health = server.idle()
    assert (health["slots_in_use"], health["pages_in_use"], health["waiting"]) == (0, 0, 0)
    assert client.chat.completions.create(**asked(1)).choices[0].message.content
    received = b""
    while part := reader.recv(65536):
        received += part
    assert received.count(b'"finish_reason":"') == 4
    assert b"data: [DONE]\n\n" in received
    assert len(received) > 400_000


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_at_once(client, server: Server, stream: bool):
    wanted = json.dumps(asked(9, max_tokens=3500, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wanted)}\r\n\r\n".encode()
    host, port = server.url.removeprefix("http://").split(":")
    readers = [socket.create_connection((host, int(port))) for _ in range(12)]  # eight are answered, four wait
    for reader in readers:
        reader.sendall(head + wanted)
    server.busy(slots=8, waiting=4)
    left = time.monotonic()
    for reader in readers:
        reader.close()
    health = server.idle()
    assert (health["slots_in_use"], health["pages_in_use"], health["waiting"]) == (0, 0, 0)
    assert time.monotonic() - left < 3, "3500 tokens take longer"


# ---------------------------------------------------------------- our own clients


def notes(server: Server, source: str, out: Path) -> subprocess.Popen[str]:
    flags = [
        "--source",
        source,
        "--out",
        out,
        "--teacher",
        "openai",
        "--base-url",
        f"{server.url}/v1",
        "--model",
        "run",
    ]
    flags += ["--max-tokens", 40, "--concurrency", 2, "--on-unsupported", "keep"]
    command = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", "notes", *map(str, flags)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def texts_in(ledger: Path) -> dict[str, str]:
    """The answers of a ledger by the key of their requests."""
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        rows = db.execute("SELECT key, response FROM calls WHERE state = 'done'").fetchall()
    return {key: json.loads(unpacked(raw))["choices"][0]["message"]["content"] for key, raw in rows}


@pytest.mark.slow
def test_notes_that_are_killed_and_started_again_lose_nothing(server: Server, tmp_path):
    """A random model writes no note that is accepted: the answers are compared as they are in the ledger."""
    source = write_reports(tmp_path / "reports.jsonl", 6)
    told = notes(server, source, tmp_path / "unbroken").communicate(timeout=60)[1]
    assert "6 in, 0 out" in told
    unbroken = texts_in(tmp_path / "unbroken.ledger.sqlite")
    served = server.log.count(ANSWERED)

    process = notes(server, source, tmp_path / "out")
    while server.log.count(ANSWERED) < served + 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any(server.idle()[name] for name in ("slots_in_use", "pages_in_use", "waiting"))
    before, served = texts_in(tmp_path / "out.ledger.sqlite"), server.log.count(ANSWERED)
    told = notes(server, source, tmp_path / "out").communicate(timeout=60)[1]
    after = texts_in(tmp_path / "out.ledger.sqlite")
    assert 2 <= len(before) < len(after)
    assert after == unbroken
    assert len(after) > 6, "answers that are cut are asked for again"
    assert before.items() <= after.items()
    assert server.log.count(ANSWERED) - served == len(after) - len(before), told


def asks(server: Server) -> TeacherConfig:
    return TeacherConfig(teacher="openai", base_url=f"{server.url}/v1", model="run", max_tokens=20, temperature=0.0)


def test_answers_of_an_evaluation_are_asked_of_it(client, server: Server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    questions, decoding = write_questions(tmp_path / "questions", 4), Decoding(max_new_tokens=20)
    answers.run(AnswersConfig(questions, ("m=endpoint:run",), tmp_path / "answers", decoding, asks(server)))
    found = answered(tmp_path / "answers/m")
    for number in range(4):
        made = question(number)
        given = [{"role": "system", "content": made.note}, {"role": "user", "content": made.instruction}]
        reply = client.chat.completions.create(model="run", messages=given, temperature=0, max_tokens=20).choices[0]
        assert found[made.id].text == reply.message.content.strip()
        assert found[made.id].finish_reason == reply.finish_reason


@pytest.mark.slow
def test_a_judge_asks_it(server: Server, tmp_path, monkeypatch):
    """A random model gives no verdict that can be read, which is said."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    questions = write_questions(tmp_path / "questions", 1)
    given = write_answers(tmp_path / "answers", "m", {"q0": "Aspirin 100 mg."})
    with pytest.raises(UserError, match="1 of 1 verdicts are missing; the first reason was: no JSON object"):
        judge.run(JudgeConfig(questions, (given,), tmp_path / "judged", teacher=asks(server)))
    assert texts_in(tmp_path / "judged.ledger.sqlite")


# ---------------------------------------------------------------- the end of the server


def test_a_server_that_is_told_to_end_finishes_its_answers(checkpoint: Path, tmp_path):
    server = start(checkpoint, tmp_path)
    found = []

    def ask() -> None:
        request = asked(1, max_tokens=200, n=4)
        found.append(httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    server.busy(slots=1)
    assert server.end() == 0
    asking.join()
    assert found[0].status_code == 200
    assert found[0].json()["usage"]["completion_tokens"] > 300
    assert "Traceback" not in server.log
