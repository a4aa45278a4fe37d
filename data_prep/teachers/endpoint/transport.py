"""The interface of the two transports that send requests to an endpoint, and their common parts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.teachers.endpoint.ledger import Call
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.replies import Reply, read_response, read_usage

# This many failures in a row mean that the endpoint has a problem, not the records.
HOPELESS = 20


@dataclass(frozen=True)
class Outgoing:
    """A request to send, with its key in the ledger."""

    key: str
    body: Mapping[str, Any]
    max_tokens: int
    prompt_tokens: int  # upper bound for any tokenizer

    @property
    def likely_tokens(self) -> int:
        """The tokens that endpoints count against rate limits: a quarter of the prompt's bytes, plus max_tokens."""
        return self.prompt_tokens // 4 + self.max_tokens


class Transport(Protocol):
    """A way to send requests; see `Live` and `Batches`. The raw reply is in the ledger before `send` returns it."""

    on_the_wire: set[asyncio.Task[Any]]  # tasks whose requests may be paid for already

    async def send(self, outgoing: Outgoing, call: Call) -> Reply: ...

    def stop(self) -> None: ...  # send nothing new

    async def close(self) -> None: ...


def receive(raw: str, model: str, meter: Meter) -> tuple[Reply, float | None]:
    """Parse a raw response and count its tokens in `meter`; the reply, and its cost or None if usage is unknown."""
    usage = read_usage(raw)
    if usage:
        meter.prompt_tokens += usage.prompt
        meter.completion_tokens += usage.completion
    return read_response(raw, model), meter.budget.cost(usage) if usage and meter.budget else None


# Client errors to retry: 408 is a timeout and 409 a conflict of the endpoint.
PASSING = (408, 409)


# Codes of a 429 that waiting does not fix.
EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
