"""The interface of a `Teacher`, which generates text for one request at a time, and its settings."""

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


@dataclass(frozen=True)
class Flags:
    """The flags that set a model and its endpoint, for messages, and the environment variable with the key."""

    url: str = "--base-url"
    model: str = "--model"
    key: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Request:
    """One chat request, and the inputs of its messages for a teacher that works by rules."""

    kind: str  # "note", "question", "answer", "follow_up", "follow_up_answer", "repair" or, to a reader, "reading"
    record_id: str
    messages: tuple[Mapping[str, str], ...]  # {"role": ..., "content": ...}
    # For a note: "report", "note_type". For a question or an answer: "note", "task", and "question" for an answer, and
    # "history" for a follow-up (JSON list of question and answer), and "cite" if answers cite the note's sentences. For
    # a repair: "text", "source".
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    schema: Mapping[str, Any] | None = None  # JSON schema that the reply must satisfy
    prompt_hash: str = ""  # version of the prompt, if the messages do not determine it
    sample: int = 0  # index of several samples for the same messages
    extend: bool = True  # repeat a truncated reply once, with twice the tokens
    room: int = 1  # multiple of --max-tokens that the reply may have


class Teacher(Protocol):
    name: str

    async def ask(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...  # must not lose a reply that is already paid for


@dataclass(frozen=True)
class BatchConfig:
    batch: bool = False
    """Send requests through OpenAI's Batch API, which is cheaper and replies within a day."""

    batch_window: int = 50_000
    """Number of input records kept in memory while their batches are processed; each takes about 20 kB."""

    batch_poll_seconds: float = 60.0
    """Seconds between checks whether a batch is done."""


@dataclass(frozen=True)
class TeacherConfig:
    teacher: Literal["offline", "openai"] = "offline"
    """Source of generated text. offline: rules that rewrite the source text, without a network. openai: any
    OpenAI-compatible endpoint, with the key from the environment variable OPENAI_API_KEY."""

    base_url: str = OPENAI_URL
    """URL of the endpoint, up to and including /v1."""

    model: str = ""
    """Name of the model at the endpoint; required with --teacher openai."""

    temperature: float = 1.0
    """Sampling temperature."""

    max_tokens: int = 2048
    """Largest reply in tokens. A truncated reply is requested once more with twice the limit, then rejected."""

    concurrency: int = 128
    """Largest number of requests in flight. It starts low and grows as long as the endpoint does not answer 429."""

    requests_per_minute: int = 0
    """Largest number of requests per minute; 0 uses the limits in the endpoint's headers, if it sends any."""

    tokens_per_minute: int = 0
    """Largest number of tokens per minute, of prompts (estimated) plus --max-tokens; 0 uses the limits in the
    endpoint's headers."""

    timeout_seconds: float = 300.0
    """Longest wait for one complete response, in seconds."""

    max_retries: int = 6
    """Retries after status 408, 409, 5xx, a timeout, a lost connection or an invalid body, with growing waits. Status
    429 is retried as long as other requests are answered."""

    omit: tuple[str, ...] = ()
    """Parameters to leave out of the requests, such as seed, for endpoints that refuse them. A parameter that the
    endpoint refuses by name is left out by itself."""

    proxy: str = ""
    """URL of the proxy to use. Without it, the environment's HTTPS_PROXY and NO_PROXY apply, except to hosts of your
    own (localhost, private addresses, local names)."""

    structured: bool = False
    """Send the JSON schema of requests that have one; the endpoint must support response_format."""

    ledger: str = ""
    """SQLite file that stores requests and raw responses, so that a rerun pays for none twice; empty for
    OUT.ledger.sqlite, with the name of --out, next to it."""

    estimate: bool = False
    """Print the number of requests, tokens and cost, and send nothing."""

    tokenizer: str = ""
    """Tokenizer folder or .model file to count prompt tokens for --estimate; empty to estimate them from the number of
    bytes and the ledger's earlier requests of the same kind."""

    budget: tyro.conf.OmitArgPrefixes[BudgetConfig] = field(default_factory=BudgetConfig)
    batches: tyro.conf.OmitArgPrefixes[BatchConfig] = field(default_factory=BatchConfig)
    flags: tyro.conf.Suppress[Flags] = Flags()

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def where(self) -> str:
        return f"{self.base_url}, model {self.model}"


def is_web_address(url: str) -> bool:
    """Return True if a text is an http or https URL with a host and, if any, a valid port."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def is_openai(base_url: str) -> bool:
    return urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname


def api_key(config: TeacherConfig) -> str:
    """The key from the environment, or "none". A server of one's own often needs no key, but OpenAI always does.

    Raises UserError if the key is invalid or missing.
    """
    flags = config.flags
    key = os.environ.get(flags.key, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{flags.key} contains characters that no key has: copy the key again")
    if not key and is_openai(config.base_url):
        raise UserError(f"no API key: set {flags.key}, or choose an endpoint that needs no key with {flags.url}")
    return key or "none"


def check_teacher(config: TeacherConfig) -> None:
    """Raise UserError for invalid settings, before any input is read."""
    if config.teacher == "openai" and not config.model:
        raise UserError("--teacher openai needs --model")
    flags = config.flags
    for flag, url in ((flags.url, config.base_url), ("--proxy", config.proxy)):
        if url and not is_web_address(url):
            raise UserError(f"{flag} {url}: it must be an address such as http://localhost:8000/v1")
    unknown = set(config.omit) & {"model", "messages"}
    if unknown:
        raise UserError(f"--omit {min(unknown)}: no request can do without it")
    if urlsplit(config.base_url).username is not None or urlsplit(config.base_url).query:
        # The URL is stored in the ledger and in every manifest.
        raise UserError(f"{flags.url} must not contain a user, password or query: put the key in {flags.key}")
    for name in ("max_tokens", "concurrency", "timeout_seconds"):
        if getattr(config, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be above 0")
    for name in ("max_retries", "temperature", "requests_per_minute", "tokens_per_minute"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be 0 or above")
    if config.batches.batch_window < 1 or config.batches.batch_poll_seconds <= 0:
        raise UserError("--batch-window and --batch-poll-seconds must be above 0")
    if config.teacher == "openai":
        api_key(config)
        check_budget(config.budget, config.base_url)
    elif config.estimate or config.batches.batch:
        raise UserError("--estimate and --batch need --teacher openai: the offline teacher sends nothing")


def request_seed(seed: int, kind: str, record_id: str) -> int:
    """The sampling seed of a request, derived from the record's id, so that records with equal texts differ."""
    return int(seeded_fraction(seed, kind, record_id) * 2**31)


def sampling(config: TeacherConfig) -> dict[str, Any]:
    """The settings that the generated texts depend on, without those of speed."""
    if config.teacher == "offline":
        return {"name": config.teacher}
    fields = ("base_url", "model", "temperature", "max_tokens")
    return {"name": config.teacher, **{name: getattr(config, name) for name in fields}}


def ledger_path(config: TeacherConfig, out: Path) -> Path:
    """The path of the ledger. It is not inside the output folder, so that it survives a failed or replaced output.

    A link to an output folder has the ledger of the folder, so that what was paid for is found under both names.
    """
    if config.ledger:
        return Path(config.ledger)
    beside_name = out.with_name(f"{out.name}.ledger.sqlite")
    place = Path(os.path.realpath(out)) if out.is_symlink() else out
    beside_place = place.with_name(f"{place.name}.ledger.sqlite")
    return beside_name if beside_name.exists() and not beside_place.exists() else beside_place
