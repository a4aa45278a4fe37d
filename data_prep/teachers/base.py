"""What generates text. A `Teacher` answers one request at a time; the stages decide what to ask."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction
from data_prep.teachers.endpoint.budget import BudgetConfig, check_budget
from data_prep.teachers.endpoint.replies import Reply

OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Request:
    """One chat request, and what its messages were rendered from, for a teacher that works by rule."""

    kind: str  # "note", "question", "answer", "follow_up", "follow_up_answer" or "repair"
    record_id: str
    messages: tuple[Mapping[str, str], ...]  # {"role": ..., "content": ...}
    # "report", "note_type"; "note", "task", for an answer "question", for a follow-up "history" (JSON: what was asked
    # and answered); for a repair "text", "source"
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    schema: Mapping[str, Any] | None = None  # a JSON schema that the reply must meet
    prompt_hash: str = ""  # where a prompt has a version that its messages do not show
    sample: int = 0  # one of several draws for the same messages
    extend: bool = True  # a reply that is cut is asked for once more, with twice the room


class Teacher(Protocol):
    name: str

    async def ask(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...  # end without losing a reply that is paid for


@dataclass(frozen=True)
class BatchConfig:
    batch: bool = False
    """Ask through OpenAI's Batch API: half the price, and an answer within a day."""

    batch_window: int = 50_000
    """Input records that wait for their batches at once; each takes about 20 kB of memory."""

    batch_poll_seconds: float = 60.0
    """How often to ask whether a batch is done."""


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
    """Longest reply in tokens; one that is cut there is asked for once more with twice the room, then rejected."""

    concurrency: int = 128
    """Most requests in flight at once. It starts with a few and grows while the endpoint answers without a 429."""

    requests_per_minute: int = 0
    """Most requests a minute; 0 leaves it to what the endpoint's headers say."""

    tokens_per_minute: int = 0
    """Most tokens a minute, of prompts (estimated) and --max-tokens; 0 leaves it to the endpoint's headers."""

    timeout_seconds: float = 300.0
    """Longest wait for one response, to its last byte."""

    max_retries: int = 6
    """Further attempts after 408, 409, 5xx, a timeout, a lost connection or a body that is no reply; waits grow. A 429
    is waited out as long as others are answered."""

    structured: bool = False
    """Send a request's JSON schema along, where it has one and the endpoint understands response_format."""

    ledger: str = ""
    """The SQLite file that keeps requests and raw responses; by default OUT.ledger.sqlite beside the output folder."""

    estimate: bool = False
    """Print requests, tokens and cost before the first request, and send none."""

    tokenizer: str = ""
    """A tokenizer folder or .model file to count prompts with in --estimate; by default they are counted by bytes, as
    the ledger's earlier requests of the kind were."""

    budget: tyro.conf.OmitArgPrefixes[BudgetConfig] = field(default_factory=BudgetConfig)
    batches: tyro.conf.OmitArgPrefixes[BatchConfig] = field(default_factory=BatchConfig)

    @property
    def where(self) -> str:
        return f"{self.base_url}, model {self.model}"


def is_openai(base_url: str) -> bool:
    return urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname


def api_key(config: TeacherConfig) -> str:
    """The key from the environment. A server of one's own often wants none, OpenAI always does."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{KEY_VARIABLE} holds a character that no key has: copy it again")
    if not key and is_openai(config.base_url):
        raise UserError(f"no API key: set {KEY_VARIABLE}, or name an endpoint that needs none with --base-url")
    return key or "none"


def check_teacher(config: TeacherConfig) -> None:
    """Refuse a setting that cannot work before anything is read."""
    if config.teacher == "openai" and not config.model:
        raise UserError("--teacher openai needs --model")
    if not config.base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url {config.base_url}: it must start with http:// or https://")
    if urlsplit(config.base_url).username is not None or urlsplit(config.base_url).query:
        # It stands in the ledger and in every manifest.
        raise UserError(f"--base-url must hold no user, password or query: a key belongs into {KEY_VARIABLE}")
    for name in ("max_tokens", "concurrency", "timeout_seconds"):
        if getattr(config, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: it must be above 0")
    for name in ("max_retries", "temperature", "requests_per_minute", "tokens_per_minute"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: it must be 0 or above")
    if config.batches.batch_window < 1 or config.batches.batch_poll_seconds <= 0:
        raise UserError("--batch-window and --batch-poll-seconds must be above 0")
    if config.teacher == "openai":
        api_key(config)
        check_budget(config.budget, config.base_url)
    elif config.estimate or config.batches.batch:
        raise UserError("--estimate and --batch need --teacher openai: the offline teacher sends nothing")


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
