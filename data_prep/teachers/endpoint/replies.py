"""Parsing of an endpoint's responses: text, finish reason and token usage."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.teachers.wrapping import unwrap

# Finish reasons of endpoints and gateways, in lower case -> ours. A whole reply without one has ended by itself; any
# other reason is an error.
FINISH_REASONS = {
    **dict.fromkeys(
        (
            "stop",
            "eos",
            "eos_token",
            "stop_sequence",
            "stop_token",
            "end_turn",
            "end",
            "complete",
            "completed",
            "finished",
            "done",
            "none",
            "null",
            "",
        ),
        "stop",
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "max_length", "token_limit", "model_length"), "length"
    ),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
        "content_filter",
    ),
}
# Types of content parts that are not part of the answer.
HIDDEN_PARTS = ("thinking", "reasoning", "redacted_thinking")
MOST_TOKENS = 10**8  # no request has more: larger figures of an endpoint are errors, and must not be booked as money
# Beginning of the error text for a truncated or garbled body, which a retry may fix.
GARBLED = "not a chat completion"


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

    `finish_reason` is "stop", "length", "unfinished" (ends within the model's reasoning), "content_filter", "refusal",
    "invalid" (violates the request's JSON schema), "declined" (the rules cannot write this text, for the reason in
    `text`), or "error" with the error in `text`. `removed` names the kinds of wrapping that `text` came in. An error is
    `lasting` if the endpoint refuses this request as such, and `known` if the
    request failed in an earlier run already, so that it says nothing about the endpoint's state.
    """

    text: str
    finish_reason: str
    model: str
    removed: tuple[str, ...] = ()
    lasting: bool = False
    known: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, as counted by the endpoint."""

    prompt: int
    cached: int  # prompt tokens that the endpoint had cached
    completion: int


def read_response(raw: str, model: str) -> Reply:
    """The reply in a raw chat completion, unwrapped; its finish reason is "error" if the response is unreadable.

    `model` is the name to record if the response does not name the model.
    """
    try:
        body = json.loads(raw)
        model = whole(str(body.get("model") or model))
        choice = body["choices"][0]
        message = choice["message"]
        text, finish = joined_parts(message["content"]), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return Reply(f"{GARBLED} ({one_line(error)}): {raw[:200]!r}", "error", model)
    if not text and isinstance(message.get("refusal"), str):
        return Reply(whole(message["refusal"]), "refusal", model)
    reason = FINISH_REASONS.get(str(finish or "").lower())
    if text is None and reason in ("content_filter", "length"):
        text = ""
    if not isinstance(text, str):
        return Reply(whole(f"the content is not text: {str(text)[:200]}"), "error", model)
    if reason is None:
        return Reply(whole(f"finish reason {finish!r}: {text[:200]}"), "error", model)
    unwrapped = unwrap(whole(text))
    if unwrapped.text is None:
        return Reply("", reason if reason != "stop" else "unfinished", model, unwrapped.removed)
    return Reply(unwrapped.text, reason, model, unwrapped.removed)


def joined_parts(content: Any) -> Any:
    """The text of a message's content, which some gateways send as a list of parts."""
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    return "".join(str(part.get("text") or "") for part in parts if part.get("type") not in HIDDEN_PARTS)


def whole(text: str) -> str:
    """The text with lone surrogates replaced: a reply cut inside an emoji contains one, and UTF-8 cannot encode it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_usage(raw: str) -> Usage | None:
    """The usage that a response reports; None if it is missing or implausible."""
    try:
        usage = json.loads(raw)["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        read = Usage(int(usage["prompt_tokens"]), int(cached), int(usage["completion_tokens"]))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    plausible = min(read.prompt, read.completion) >= 0 and max(read.prompt, read.completion) <= MOST_TOKENS
    return read if plausible and 0 <= read.cached <= read.prompt else None


def schema_problem(text: str, schema: Mapping[str, Any]) -> str | None:
    """The reason, in one line, why a text does not satisfy a JSON schema; None if it does."""
    import jsonschema

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({one_line(error)})"
    worst = jsonschema.exceptions.best_match(_validator(json.dumps(schema)).iter_errors(value))
    return one_line(worst.message) if worst else None


@functools.lru_cache(maxsize=16)
def _validator(schema: str) -> Any:
    import jsonschema

    return jsonschema.validators.validator_for(json.loads(schema))(json.loads(schema))


def one_line(error: object) -> str:
    """An error as one line of at most 300 characters, which UTF-8 can encode."""
    return whole(" ".join(f"{error}".split())[:300]) or type(error).__name__
