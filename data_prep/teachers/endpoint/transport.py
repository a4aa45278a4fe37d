"""The interface of the two transports that send requests to an endpoint, and their common parts."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from data_prep.execution.progress import say
from data_prep.teachers.endpoint.budget import Budget
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
    failed_before: bool = False  # in an earlier run

    @property
    def likely_tokens(self) -> int:
        """The tokens that endpoints count against rate limits: a quarter of the prompt's bytes, plus max_tokens."""
        return self.prompt_tokens // 4 + self.max_tokens


class Transport(Protocol):
    """A way to send requests; see `Live` and `Batches`. The raw reply is in the ledger before `send` returns it."""

    budget: Budget
    on_the_wire: set[asyncio.Task[Any]]  # tasks whose requests may be paid for already

    async def send(self, outgoing: Outgoing, call: Call) -> Reply: ...

    def stop(self) -> None: ...  # send nothing new

    async def close(self) -> None: ...


def receive(raw: str, model: str, meter: Meter, budget: Budget) -> tuple[Reply, float | None]:
    """Parse a raw response and count its tokens in `meter`; the reply, and its cost or None if usage is unknown."""
    usage = read_usage(raw)
    if usage:
        meter.prompt_tokens += usage.prompt
        meter.completion_tokens += usage.completion
    return read_response(raw, model), budget.cost(usage) if usage else None


# Client errors to retry: 408 is a timeout and 409 a conflict of the endpoint.
PASSING = (408, 409)


# Codes of a 429 that waiting does not fix.
EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")

# Statuses of a gateway (nginx, AWS, Cloudflare) that passed a request on and got no answer from the endpoint.
NO_ANSWER = (408, 499, 502, 504, *range(520, 528), 530, 598, 599)


def is_free(status: int, raw: str) -> bool:
    """Return True if an error response shows that the endpoint itself refused the request, which costs nothing.

    False if the endpoint may have worked on the request and charged it: the request was accepted without a reply, a
    gateway answered instead of the endpoint, or a server error does not have the form of the API's errors.
    """
    if status < 300 or status in NO_ANSWER:
        return False
    return status < 500 or is_api_error(raw)


def is_api_error(raw: str) -> bool:
    """Return True for a body in the form of the API's errors: an object with "error", which some put into a list.

    vLLM once sent {"object": "error", "message": ...}.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    first = body[0] if isinstance(body, list) and body else body
    return isinstance(first, dict) and (bool(first.get("error")) or first.get("object") == "error")


# ---------------------------------------------------------------- parameters that an endpoint does not know

# How endpoints say that they do not take a parameter, and how they say that only its value is wrong.
NOT_TAKEN = re.compile(
    r"unsupported|(?:not|n't) (?:be )?(?:support|permitted|allowed|accept|available|implemented|recogni[sz]e|exist)"
    r"|unrecogni[sz]ed|unknown|unexpected|extra_forbidden|extra (?:fields|inputs)|additional propert|deprecated"
    r"|invalid (?:parameter|argument|field|key)|no longer",
    re.IGNORECASE,
)
WRONG_VALUE = re.compile(
    r"too (?:large|long|many|big|high|small)|context|exceed|maximum|minimum|at (?:most|least)|between|range"
    r"|(?:less|more|greater) than",
    re.IGNORECASE,
)
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
NEEDED = ("model", "messages")
# Fields of an error that say what is wrong; others may quote the request.
EXPLAINING = ("message", "msg", "loc", "param", "code", "type", "detail", "error", "errors")


@dataclass
class Parameters:
    """The parameters of a run's requests, without those that the endpoint has refused."""

    where: str
    omitted: set[str]
    renamed: dict[str, str] = field(default_factory=dict)

    def body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        named = {self.renamed.get(name, name): value for name, value in body.items()}
        return {name: value for name, value in named.items() if name not in self.omitted or name in NEEDED}

    def refused(self, status: int | None, raw: str, sent: Mapping[str, Any]) -> bool:
        """Find out which parameters of the body `sent` an error response refuses, and remember them for the run.

        Returns True if the request would now be sent differently.
        """
        if status not in (400, 422):
            return False
        text = " ".join(explanations(raw))[:1000]
        if NOT_TAKEN.search(text) and not WRONG_VALUE.search(text):
            for name in sent:
                if name not in NEEDED and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
                    self._drop(name)
        # Requests that were in flight together are refused together, and only the first one is news.
        return self.body(sent).keys() != sent.keys()

    def limits_tokens(self, body: Mapping[str, Any]) -> bool:
        return bool(set(OTHER_NAME) & self.body(body).keys())

    def _drop(self, name: str) -> None:
        other = OTHER_NAME.get(name)
        if name in self.omitted or name in self.renamed:
            return
        if other and other not in self.renamed:
            self.renamed[name] = other
            say(f"{self.where} does not take the parameter {name}: sending {other} instead")
            return
        self.omitted.add(name)
        say(f"{self.where} does not take the parameter {name}: sending requests without it (--omit {name})")


def explanations(raw: str) -> Iterator[str]:
    """The parts of an error response that explain it, which is plain text or JSON of various shapes."""
    try:
        nested = [json.loads(raw)]
    except (ValueError, RecursionError):
        yield raw
        return
    while nested:
        value = nested.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            nested += value
        elif isinstance(value, dict):
            nested += [value[name] for name in EXPLAINING if name in value]
