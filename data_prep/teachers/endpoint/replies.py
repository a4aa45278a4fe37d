"""Parsing of an endpoint's responses: text, finish reason and token usage."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Finish reasons of endpoints -> ours. Any other, or a missing one, is an error.
FINISH_REASONS = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
# Beginning of the error text for a truncated or garbled body, which a retry may fix.
GARBLED = "not a chat completion"


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

    `finish_reason` is "stop", "length", "content_filter", "refusal", "invalid" (violates the request's JSON schema), or
    "error" with the error in `text`.
    """

    text: str
    finish_reason: str
    model: str


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, as counted by the endpoint."""

    prompt: int
    cached: int  # prompt tokens that the endpoint had cached
    completion: int


def read_response(raw: str, model: str) -> Reply:
    """The reply in a raw chat completion; its finish reason is "error" if the response is unreadable.

    `model` is the name to record if the response does not name the model.
    """
    try:
        body = json.loads(raw)
        model = str(body.get("model") or model)
        choice = body["choices"][0]
        message = choice["message"]
        text, finish = message["content"], choice["finish_reason"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Reply(f"{GARBLED} ({one_line(error)}): {raw[:200]!r}", "error", model)
    if not text and isinstance(message.get("refusal"), str):
        return Reply(message["refusal"], "refusal", model)
    if text is None and finish in ("content_filter", "length"):
        text = ""
    if not isinstance(text, str):
        return Reply(f"the content is not text: {str(text)[:200]}", "error", model)
    if finish not in FINISH_REASONS:
        return Reply(f"finish reason {finish!r}: {text[:200]}", "error", model)
    return Reply(whole(text), FINISH_REASONS[finish], model)


def whole(text: str) -> str:
    """The text with lone surrogates replaced: a reply cut inside an emoji contains one, and UTF-8 cannot encode it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_usage(raw: str) -> Usage | None:
    """The usage that a response reports; None if it is missing or implausible."""
    try:
        usage = json.loads(raw)["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        read = Usage(int(usage["prompt_tokens"]), int(cached), int(usage["completion_tokens"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return read if min(read.prompt, read.completion) >= 0 and 0 <= read.cached <= read.prompt else None


def schema_problem(text: str, schema: Mapping[str, Any]) -> str | None:
    """The reason, in one line, why a text does not satisfy a JSON schema; None if it does."""
    import jsonschema

    try:
        value = json.loads(text)
    except ValueError as error:
        return f"not JSON ({one_line(error)})"
    worst = jsonschema.exceptions.best_match(_validator(json.dumps(schema)).iter_errors(value))
    return one_line(worst.message) if worst else None


@functools.lru_cache(maxsize=16)
def _validator(schema: str) -> Any:
    import jsonschema

    return jsonschema.validators.validator_for(json.loads(schema))(json.loads(schema))


def one_line(error: object) -> str:
    """An error as one line of at most 300 characters."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__
