"""The teacher behind an OpenAI-compatible endpoint: what is asked, what the ledger knows, what a reply is worth.

How a request gets there is its transport's: `http.py` sends one at a time, `batch_api.py` files of thousands.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.execution.progress import say
from data_prep.teachers.base import Request, TeacherConfig, is_openai
from data_prep.teachers.endpoint.budget import most_prompt_tokens
from data_prep.teachers.endpoint.ledger import Ledger, canonical, key_of
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.replies import Reply, read_response, schema_problem
from data_prep.teachers.endpoint.transport import HOPELESS, Outgoing, Transport

# How long a run that ends waits for replies that are on their way: they are paid for.
DRAIN_SECONDS = 60.0


def identity(config: TeacherConfig, request: Request, max_tokens: int) -> dict[str, Any]:
    """All that a reply depends on: its hash is the request's key in the ledger. It holds no API key."""
    # OpenAI's newer models refuse max_tokens; most other servers know nothing else.
    limit = "max_completion_tokens" if is_openai(config.base_url) else "max_tokens"
    named = {
        "base_url": config.base_url,
        "model": config.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": config.temperature,
        "seed": request.seed,
        limit: max_tokens,
    }
    # Only where they say something: keys of ledgers that knew none of these stay good.
    if request.schema is not None:
        named["schema"] = request.schema
        named["structured"] = config.structured
    if request.prompt_hash:
        named["prompt"] = request.prompt_hash
    if request.sample:
        named["sample"] = request.sample
    return named


def body_of(named: Mapping[str, Any]) -> dict[str, Any]:
    """What of it the endpoint is sent."""
    ours = ("base_url", "schema", "structured", "prompt", "sample")
    body = {name: value for name, value in named.items() if name not in ours}
    if named.get("structured"):
        json_schema = {"name": "reply", "strict": True, "schema": named["schema"]}
        body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return body


class OpenAITeacher:
    """Any endpoint that speaks OpenAI's chat completions; see `Ledger` for what makes a rerun free.

    A reply that cannot be had or read has the finish reason "error". UserError where going on is pointless: the key is
    refused, the model unknown, the quota or --max-cost used up, or nothing at all comes back.
    """

    name = "openai"

    def __init__(self, config: TeacherConfig, ledger: Ledger, meter: Meter, transport: Transport):
        self.config, self.ledger, self.meter, self.transport = config, ledger, meter, transport
        self.open: dict[str, asyncio.Task[Reply]] = {}
        self.failed_in_a_row = 0

    async def ask(self, request: Request) -> Reply:
        reply = await self._ask_once(request, self.config.max_tokens)
        if reply.finish_reason == "length" and request.extend:
            longer = await self._ask_once(request, 2 * self.config.max_tokens)
            # An endpoint that refuses so much room has still told us what the first reply was.
            reply = longer if longer.finish_reason != "error" else reply
        if reply.finish_reason == "invalid":
            # Another seed and sample: the same request again would be the same reply again.
            another = replace(request, seed=request.seed + 1, sample=request.sample + 1)
            reply = await self._ask_once(another, self.config.max_tokens)
        if reply.finish_reason != "error":
            self.failed_in_a_row = 0
            return reply
        self.meter.failed += 1
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= HOPELESS:
            raise UserError(
                f"{self.config.where}: {self.failed_in_a_row} requests in a row failed, the last one with: "
                f"{reply.text}; what was answered is kept, run this again when the endpoint is well"
            )
        return reply

    async def _ask_once(self, request: Request, max_tokens: int) -> Reply:
        named = identity(self.config, request, max_tokens)
        text = canonical(named)
        key = key_of(text)
        if key not in self.open:
            # A task of its own: when the run ends, a reply that is on its way is waited for all the same.
            task = asyncio.get_running_loop().create_task(self._answer(key, text, named, request.kind, max_tokens))
            self.open[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        reply = await asyncio.shield(self.open[key])
        if reply.finish_reason == "stop" and request.schema is not None and schema_problem(reply.text, request.schema):
            return replace(reply, finish_reason="invalid")
        return reply

    def _forget(self, key: str, done: asyncio.Task[Reply]) -> None:
        del self.open[key]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone; asyncio would complain that nobody looked

    async def _answer(self, key: str, text: str, named: dict[str, Any], kind: str, max_tokens: int) -> Reply:
        call = await self.ledger.plan(key, text, kind)
        if call.state == "done" and call.response is not None:
            reply = read_response(call.response, self.config.model)
            # An unreadable response is worth another attempt; anything else stands.
            if reply.finish_reason != "error":
                self.meter.from_ledger += 1
                return reply
        body = body_of(named)
        schema = json.dumps(body["response_format"]) if "response_format" in body else ""
        outgoing = Outgoing(key, body, max_tokens, most_prompt_tokens(named["messages"], schema))
        return await self.transport.send(outgoing, call)

    async def close(self) -> None:
        """End without losing a reply that is paid for: nothing new is sent, what is on its way is waited for."""
        self.transport.stop()
        waiting = [task for task in self.open.values() if task not in self.transport.on_the_wire]
        for task in waiting:
            task.cancel()
        if self.transport.on_the_wire:
            await asyncio.wait(set(self.transport.on_the_wire), timeout=1)
        if on_the_wire := set(self.transport.on_the_wire):
            say(f"waiting for {len(on_the_wire)} replies that are on their way; interrupt again to lose them")
            await asyncio.wait(on_the_wire, timeout=DRAIN_SECONDS)
        remaining = list(self.open.values())
        for task in remaining:
            task.cancel()
        await asyncio.gather(*waiting, *remaining, return_exceptions=True)
        await self.transport.close()
        self.ledger.close()
