"""How a request gets to an endpoint and back: what its two transports share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.teachers.endpoint.ledger import Call
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.replies import Reply, read_response, read_usage

# So many failures without one answer mean that the endpoint is wrong, not the records.
HOPELESS = 20


@dataclass(frozen=True)
class Outgoing:
    """A request as it is sent, and under which key of the ledger."""

    key: str
    body: Mapping[str, Any]
    max_tokens: int
    prompt_tokens: int  # no tokenizer makes more of it

    @property
    def likely_tokens(self) -> int:
        """What endpoints count against a limit a minute: a token for four characters, and all that may be answered."""
        return self.prompt_tokens // 4 + self.max_tokens


class Transport(Protocol):
    """Gets a request answered; see `Live`. The raw reply is in the ledger before it is returned."""

    on_the_wire: set[asyncio.Task[Any]]  # waiting for what may be paid for already

    async def send(self, outgoing: Outgoing, call: Call) -> Reply: ...

    def stop(self) -> None: ...  # begin nothing new

    async def close(self) -> None: ...


def receive(raw: str, model: str, meter: Meter) -> tuple[Reply, float | None]:
    """A raw response as a reply, counted; and what it cost, None where the endpoint does not say what was used."""
    usage = read_usage(raw)
    if usage:
        meter.prompt_tokens += usage.prompt
        meter.completion_tokens += usage.completion
    return read_response(raw, model), meter.budget.cost(usage) if usage and meter.budget else None


# Worth another attempt. 408 and 409 are an endpoint's own timeouts and conflicts.
PASSING = (408, 409)


# Codes of a 429 that no waiting mends.
EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
