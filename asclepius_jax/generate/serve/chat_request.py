"""The body of a request for a chat completion, with OpenAI's names, types and defaults.

{"model": "mine", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.7, "stream": true}
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from asclepius_jax.generate.replica import MOST_TOP
from asclepius_jax.generate.sampling import LEAST_TEMPERATURE
from asclepius_jax.generate.serve.api_errors import ApiError, shortened

MOST_SAMPLES = 128
MOST_STOPS, LONGEST_STOP = 4, 1000
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Fields that change no answer here.
IGNORED = (
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort",
    "safety_identifier", "service_tier", "store", "user", "verbosity",
)  # fmt: skip
# Fields of features that this server lacks, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
}
READ = (
    "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n", "seed", "stop", "stream",
    "stream_options", "temperature", "top_logprobs", "top_p",
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class ChatRequest:
    messages: tuple[Message, ...]
    max_tokens: int | None  # None for all that fit
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...]
    samples: int
    logprobs: bool
    top_logprobs: int
    stream: bool
    include_usage: bool

    def key(self, sample: int) -> tuple[int, int]:
        """Data of the random key of a sample. The first one's is that of `jax.random.key(seed)`."""
        # The others are far apart: keys of neighbouring seeds would make sample 1 of seed 7 sample 0 of seed 8.
        mixed = self.seed ^ (sample * 0x9E3779B97F4A7C15)
        return mixed >> 32 & 0xFFFFFFFF, mixed & 0xFFFFFFFF


def read_chat_request(raw: bytes, model: str, most_samples: int) -> ChatRequest:
    """Parse and check a body. Raises ApiError, also for fields that would change the answer and are not supported."""
    body = read_object(raw)
    check_fields(body)
    if not isinstance(body.get("model"), str):
        raise ApiError("You must provide a model parameter, a string.", "model", "missing_required_parameter")
    if body["model"] != model:
        raise ApiError(
            f"The model {shortened(body['model'])} does not exist; this server has {model!r}.",
            "model", "model_not_found", 404,
        )  # fmt: skip
    stream, logprobs = flag(body, "stream"), flag(body, "logprobs")
    if body.get("top_logprobs") is not None and not logprobs:
        raise ApiError("The 'top_logprobs' parameter needs 'logprobs' to be true.", "top_logprobs", "invalid_value")
    temperature = number(body, "temperature", 1.0, 0, 2)
    seed = integer(body, "seed", secrets.randbits(63), -(2**63), 2**63 - 1)
    return ChatRequest(
        messages=read_messages(body.get("messages")),
        max_tokens=read_max_tokens(body),
        # Temperatures so small take the most likely token, until float32 makes them 0.
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=number(body, "top_p", 1.0, 0, 1),
        seed=seed % 2**64,
        stops=read_stops(body.get("stop")),
        samples=integer(body, "n", 1, 1, min(MOST_SAMPLES, most_samples)),
        logprobs=logprobs,
        top_logprobs=integer(body, "top_logprobs", 0, 0, MOST_TOP),
        stream=stream,
        include_usage=read_include_usage(body, stream),
    )


def read_object(raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=refuse)
        json.dumps(body, ensure_ascii=False).encode()  # half of a surrogate pair is no text for any tokenizer
    except (ValueError, RecursionError) as error:
        raise ApiError("The body of the request is not valid JSON in UTF-8.") from error
    if not isinstance(body, dict):
        raise ApiError(f"The body of the request must be a JSON object, not {kind_of(body)}.")
    return body


def check_fields(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None or name in READ or name in IGNORED:
            continue
        if name not in NEUTRAL:
            raise ApiError(f"Unrecognized request argument supplied: {name[:60]}", name[:60], "unknown_parameter")
        if value not in NEUTRAL[name]:
            # Clients that know the pattern, as our own teacher does, repeat the request without the parameter.
            raise ApiError(f"Unsupported parameter: '{name}' is not supported here.", name, "unsupported_parameter")


def read_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise wrong_type("messages", "an array of objects", value)
    if not value:
        raise ApiError("Invalid 'messages': the array is empty.", "messages", "empty_array")
    return tuple(read_message(f"messages[{place}]", message) for place, message in enumerate(value))


def read_message(name: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise wrong_type(name, "an object", message)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(
            f"Invalid value: {shortened(role)}. Supported values are: {', '.join(map(repr, ROLES))}.",
            f"{name}.role", "invalid_value",
        )  # fmt: skip
    if message.get("tool_calls") or message.get("function_call"):
        raise ApiError("Calls of tools are not supported here.", f"{name}.tool_calls", "unsupported_parameter")
    return Message(ROLES[role], read_content(f"{name}.content", message.get("content")))


def read_content(name: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong_type(name, "a string or an array of parts", content)
    texts = []
    for place, part in enumerate(content):
        if not isinstance(part, dict):
            raise wrong_type(f"{name}[{place}]", "an object", part)
        if part.get("type") != "text":
            raise ApiError(
                f"Invalid value: {shortened(part.get('type'))}. Only parts of type 'text' are supported here.",
                f"{name}[{place}].type", "invalid_value",
            )  # fmt: skip
        if not isinstance(part.get("text"), str):
            raise wrong_type(f"{name}[{place}].text", "a string", part.get("text"))
        texts.append(part["text"])
    return "".join(texts)


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    given = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if len(given) == 2:
        raise ApiError("Set either 'max_tokens' or 'max_completion_tokens', not both.", "max_tokens", "invalid_value")
    return integer(body, given[0], 1, 1, 2**63) if given else None


def read_stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong_type("stop", "a string or an array of strings", value)
    if len(stops) > MOST_STOPS or not all(1 <= len(stop) <= LONGEST_STOP for stop in stops):
        raise ApiError(
            f"Invalid 'stop': it must be at most {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters.",
            "stop", "invalid_value",
        )  # fmt: skip
    return tuple(stops)


def read_include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    if not stream:
        raise ApiError("The 'stream_options' parameter needs 'stream' to be true.", "stream_options", "invalid_value")
    return flag(options, "include_usage")


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return bool(value)


def number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a number", value)
    check_range(name, value, least, most)
    return float(value)


def integer(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    check_range(name, value, least, most)
    return value


def check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ApiError(
            f"Invalid '{name}': it must be between {least} and {most}, but is {shortened(value)}.",
            name, "invalid_value",
        )  # fmt: skip


def wrong_type(name: str, wanted: str, value: Any) -> ApiError:
    return ApiError(f"Invalid type for '{name}': it must be {wanted}, but is {kind_of(value)}.", name, "invalid_type")


def kind_of(value: Any) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")
