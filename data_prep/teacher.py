"""What generates text. A `Teacher` answers one request at a time; the stages decide what to ask."""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from data_prep.ledger import Ledger, request_key
from data_prep.records import UserError, seeded_fraction

OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"

# What endpoints call the end of a generation, in our words. Anything else, or nothing, is an error.
FINISH_REASONS = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}

# So many failures without one answer mean that the endpoint is wrong, not the records.
HOPELESS = 20


@dataclass(frozen=True)
class Request:
    """One chat request, and what its messages were rendered from, for a teacher that works by rule."""

    kind: str  # "note", "question", "answer" or "repair"
    record_id: str
    messages: tuple[Mapping[str, str], ...]  # {"role": ..., "content": ...}
    inputs: Mapping[str, str] = field(
        default_factory=dict
    )  # "report"; "note", "task"; "note", "task", "question"; "text", "source"
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    text: str
    finish_reason: str  # "stop", "length", "content_filter", or "error" with the error in `text`
    model: str


class Teacher(Protocol):
    name: str

    async def ask(self, request: Request) -> Reply: ...


@dataclass(frozen=True)
class TeacherConfig:
    teacher: Literal["offline", "openai"] = "offline"
    """offline: by rule, from the source text alone, no network. openai: any OpenAI-compatible endpoint; its key is
    read from the environment variable OPENAI_API_KEY."""

    base_url: str = OPENAI_URL
    """The endpoint, up to and including /v1."""

    model: str = ""
    """The model's name at the endpoint; needed with --teacher openai."""

    temperature: float = 1.0
    """Sampling temperature."""

    max_tokens: int = 2048
    """Longest reply in tokens; a reply that is cut there is rejected."""

    concurrency: int = 32
    """Requests in flight at once."""

    timeout_seconds: float = 300.0
    """Longest wait for one response."""

    max_retries: int = 6
    """Further attempts after 408, 409, 429, 5xx or a lost connection; waits grow, and Retry-After is honoured."""

    ledger: str = ""
    """The SQLite file that keeps requests and raw responses; by default OUT.ledger.sqlite beside the output folder."""


class OpenAITeacher:
    """Any endpoint that speaks OpenAI's chat completions; see `Ledger` for what makes a rerun free.

    A reply that cannot be had or read has the finish reason "error". UserError where going on is pointless: the key is
    refused, the model unknown, the rate limit outlives the retries, or nothing at all has come back.
    """

    name = "openai"

    def __init__(self, config: TeacherConfig, ledger: Ledger):
        import openai

        self.config, self.ledger = config, ledger
        self.client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=api_key(config),
            timeout=config.timeout_seconds,
            max_retries=config.max_retries,
        )
        self.turns = asyncio.Semaphore(config.concurrency)
        self.answered = False  # in this run: an endpoint that never did is probably the wrong one
        self.failed_in_a_row = self.requests_sent = 0

    async def ask(self, request: Request) -> Reply:
        body = self._body(request)
        earlier = self.ledger.response(request_key(body))
        if earlier is not None:
            reply = read_response(earlier, self.config.model)
            # An unreadable response is worth another attempt; anything else stands.
            if reply.finish_reason != "error":
                return reply
        async with self.turns:
            reply = await self._send(body)
        if reply.finish_reason != "error":
            self.answered, self.failed_in_a_row = True, 0
            return reply
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= HOPELESS:
            raise UserError(
                f"{self.where}: {self.failed_in_a_row} requests in a row failed, the last one with: {reply.text}; "
                "what was answered is kept, run this again when the endpoint is well"
            )
        return reply

    async def close(self) -> None:
        await self.client.close()
        self.ledger.close()

    @property
    def where(self) -> str:
        return f"{self.config.base_url}, model {self.config.model}"

    def _body(self, request: Request) -> dict[str, Any]:
        # OpenAI's newer models refuse max_tokens; most other servers know nothing else.
        limit = "max_completion_tokens" if self.config.base_url == OPENAI_URL else "max_tokens"
        return {
            "base_url": self.config.base_url,
            "model": self.config.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": self.config.temperature,
            "seed": request.seed,
            limit: self.config.max_tokens,
        }

    async def _send(self, body: dict[str, Any]) -> Reply:
        import openai

        key = self.ledger.begin(body)
        self.requests_sent += 1
        arguments: dict[str, Any] = {name: value for name, value in body.items() if name != "base_url"}
        try:
            response = await self.client.chat.completions.with_raw_response.create(**arguments)
        except openai.APIStatusError as error:
            return self._refused(error.status_code, one_line(error))
        except openai.APITimeoutError:
            return self._error(f"no response within {self.config.timeout_seconds:g} seconds")
        except openai.APIConnectionError as error:
            reason = one_line(error.__cause__ or error)
            if not self.answered:
                raise UserError(f"cannot reach {self.config.base_url} ({reason}): check --base-url") from error
            return self._error(f"connection lost: {reason}")
        raw = response.http_response.content.decode("utf-8", errors="replace")
        self.ledger.finish(key, raw)
        return read_response(raw, self.config.model)

    def _refused(self, status: int, reason: str) -> Reply:
        if status in (401, 403):
            raise UserError(f"{self.where} answered {status} ({reason}): check the key in {KEY_VARIABLE}")
        if status == 404:
            raise UserError(f"{self.where} answered 404 ({reason}): check --base-url and --model")
        if status == 429:
            raise UserError(
                f"{self.where} still answered 429 after {self.config.max_retries} retries ({reason}): "
                "lower --concurrency or raise the account's limit; what was answered is not paid for again"
            )
        return self._error(f"status {status}: {reason}")

    def _error(self, reason: str) -> Reply:
        return Reply(reason, "error", self.config.model)


def read_response(raw: str, model: str) -> Reply:
    """The reply in a raw chat completion; the finish reason "error" where there is none to be found.

    `model` is the name to record where the response does not say which model answered.
    """
    try:
        body = json.loads(raw)
        model = str(body.get("model") or model)
        choice = body["choices"][0]
        message = choice["message"]
        text, finish = message["content"], choice["finish_reason"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Reply(f"not a chat completion ({one_line(error)}): {raw[:200]!r}", "error", model)
    if text is None and isinstance(message.get("refusal"), str):
        return Reply(message["refusal"], "content_filter", model)
    if text is None and finish in ("content_filter", "length"):
        text = ""
    if not isinstance(text, str):
        return Reply(f"the content is not text: {str(text)[:200]}", "error", model)
    if finish not in FINISH_REASONS:
        return Reply(f"finish reason {finish!r}: {text[:200]}", "error", model)
    return Reply(text, FINISH_REASONS[finish], model)


def one_line(error: object) -> str:
    """What an error says, fit for one line of a message."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__


def api_key(config: TeacherConfig) -> str:
    """The key from the environment. A server of one's own often wants none, OpenAI always does."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and config.base_url == OPENAI_URL:
        raise UserError(f"no API key: set {KEY_VARIABLE}, or name an endpoint that needs none with --base-url")
    return key or "none"


def check_teacher(config: TeacherConfig) -> None:
    """Refuse a setting that cannot work before anything is read."""
    if config.teacher == "openai" and not config.model:
        raise UserError("--teacher openai needs --model")
    if not config.base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url {config.base_url}: it must start with http:// or https://")
    for name in ("max_tokens", "concurrency", "timeout_seconds"):
        if getattr(config, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: it must be above 0")
    if config.max_retries < 0 or config.temperature < 0:
        raise UserError("--max-retries and --temperature must be 0 or above")
    if config.teacher == "openai":
        api_key(config)


def make_teacher(config: TeacherConfig, ledger_path: Path) -> Teacher:
    """The teacher that the configuration names. The offline one costs nothing and keeps no ledger."""
    if config.teacher == "offline":
        from data_prep.offline import OfflineTeacher

        return OfflineTeacher()
    return OpenAITeacher(config, Ledger(ledger_path))


def request_seed(seed: int, kind: str, record_id: str) -> int:
    """A request's own sampling seed: two records with equal texts still get two draws."""
    return int(seeded_fraction(seed, kind, record_id) * 2**31)


def sampling(config: TeacherConfig) -> dict[str, Any]:
    """What the texts depend on; not how fast they were asked for."""
    if config.teacher == "offline":
        return {"name": config.teacher}
    fields = ("base_url", "model", "temperature", "max_tokens")
    return {"name": config.teacher, **{name: getattr(config, name) for name in fields}}


def ledger_path(config: TeacherConfig, out: Path) -> Path:
    """Beside the output folder, not in it: it outlives a stage that fails, and a folder that is replaced."""
    return Path(config.ledger) if config.ledger else out.parent / f"{out.name}.ledger.sqlite"
