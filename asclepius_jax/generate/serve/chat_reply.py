"""Responses in the form of OpenAI's chat completions, whole and in chunks."""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from asclepius_jax.generate.serve.chat_request import ChatRequest
from asclepius_jax.generate.serve.engine_thread import Part, Token
from asclepius_jax.generate.serve.token_text import Vocabulary

LEAST_LOGPROB = -9999.0  # in place of minus infinity, which JSON lacks
DONE = b"data: [DONE]\n\n"


@dataclass
class Reply:
    """The response to one request, from the parts of its samples."""

    asked: ChatRequest
    model: str
    prompt_tokens: int
    vocabulary: Vocabulary
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The completion whose samples have these parts, the last of each with its finish reason."""
        choices = []
        for sample in range(self.asked.samples):
            mine = [part for part in parts if part.sample == sample]
            tokens = [token for part in mine for token in part.tokens]
            choices.append({
                "index": sample,
                "message": {"role": "assistant", "content": "".join(part.text for part in mine), "refusal": None},
                "logprobs": self.logprobs(tokens),
                "finish_reason": mine[-1].finish,
            })  # fmt: skip
        return {**self.head("chat.completion"), "choices": choices, "usage": self.usage(parts)}

    def first_chunks(self) -> Iterator[bytes]:
        for sample in range(self.asked.samples):
            yield self.chunk(sample, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def chunks(self, part: Part) -> Iterator[bytes]:
        if part.text or part.tokens:
            yield self.chunk(part.sample, {"content": part.text}, self.logprobs(part.tokens), None)
        if part.finish:
            yield self.chunk(part.sample, {}, None, part.finish)

    def last_chunks(self, parts: Sequence[Part]) -> Iterator[bytes]:
        if self.asked.include_usage:
            yield event({**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage(parts)})
        yield DONE

    def chunk(self, sample: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> bytes:
        choice = {"index": sample, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self.asked.include_usage else {}
        return event({**self.head("chat.completion.chunk"), "choices": [choice], **usage})

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None,
        }  # fmt: skip

    def usage(self, parts: Sequence[Part]) -> dict[str, int]:
        drawn = sum(part.drawn for part in parts if part.finish)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": self.prompt_tokens + drawn,
        }

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        content = [
            {**self.likely(token.id, token.logprob), "top_logprobs": [self.likely(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def likely(self, token: int, logprob: float) -> dict[str, Any]:
        value = self.vocabulary.bytes_of(token)
        text = value.decode("utf-8", errors="replace")
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(value)}


def event(value: Any) -> bytes:
    """A server-sent event with JSON."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
