"""The teacher behind an OpenAI-compatible endpoint: it builds requests, looks them up in the ledger and judges replies.

A transport sends the requests: `http.py` one at a time, `batch/` in files of thousands.
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

# At its end, a run waits this long for replies in flight, because they are paid for.
DRAIN_SECONDS = 60.0


def identity(config: TeacherConfig, request: Request, max_tokens: int) -> dict[str, Any]:
    """Everything that a reply depends on, without the API key. Its hash is the request's key in the ledger."""
    # OpenAI's newer models reject max_tokens; most other servers support nothing else.
    limit = "max_completion_tokens" if is_openai(config.base_url) else "max_tokens"
    named = {
        "base_url": config.base_url,
        "model": config.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": config.temperature,
        "seed": request.seed,
        limit: max_tokens,
    }
    # Only if set, so that the keys in ledgers from before these fields remain valid.
    if request.schema is not None:
        named["schema"] = request.schema
        named["structured"] = config.structured
    if request.prompt_hash:
        named["prompt"] = request.prompt_hash
    if request.sample:
        named["sample"] = request.sample
    return named


def body_of(named: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the request to the endpoint."""
    not_sent = ("base_url", "schema", "structured", "prompt", "sample")
    body = {name: value for name, value in named.items() if name not in not_sent}
    if named.get("structured"):
        json_schema = {"name": "reply", "strict": True, "schema": named["schema"]}
        body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return body


class OpenAITeacher:
    """A teacher that uses any endpoint with OpenAI's chat completions; a `Ledger` makes reruns free.

    A reply that is missing or unreadable has the finish reason "error". `ask` raises UserError if continuing is
    pointless: the key is rejected, the model unknown, the quota or --max-cost used up, or no reply arrives at all.
    """

    name = "openai"

    def __init__(self, config: TeacherConfig, ledger: Ledger, meter: Meter, transport: Transport):
        self.config, self.ledger, self.meter, self.transport = config, ledger, meter, transport
        self.open: dict[str, asyncio.Task[Reply]] = {}
        self.failed_in_a_row = 0

    async def ask(self, request: Request) -> Reply:
        most = request.room * self.config.max_tokens
        reply = await self._ask_once(request, most)
        if reply.finish_reason == "length" and request.extend:
            longer = await self._ask_once(request, 2 * most)
            # If the endpoint refuses the larger limit, the first reply still counts.
            reply = longer if longer.finish_reason != "error" else reply
        if reply.finish_reason == "invalid":
            # Another seed and sample, because the same request would give the same reply.
            resampled = replace(request, seed=request.seed + 1, sample=request.sample + 1)
            reply = await self._ask_once(resampled, most)
        if reply.finish_reason != "error":
            self.failed_in_a_row = 0
            self.meter.count_wrapping(reply)
            return reply
        self.meter.failed += 1
        self.meter.passing += not reply.lasting
        # A rerun sends what failed before, perhaps nothing else, and a finished run may have any number of failures.
        self.failed_in_a_row += not reply.known
        if self.failed_in_a_row >= HOPELESS:
            raise UserError(
                f"{self.config.where}: {self.failed_in_a_row} requests in a row failed, the last with: "
                f"{reply.text}; replies so far are saved, run this again when the endpoint is working"
            )
        return reply

    async def _ask_once(self, request: Request, max_tokens: int) -> Reply:
        named = identity(self.config, request, max_tokens)
        text = canonical(named)
        key = key_of(text)
        if key not in self.open:
            # A separate task, so that a reply in flight is awaited even if the run ends.
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
            done.exception()  # retrieved, since asyncio would warn if the caller was cancelled

    async def _answer(self, key: str, text: str, named: dict[str, Any], kind: str, max_tokens: int) -> Reply:
        call = await self.ledger.plan(key, text, kind)
        failed_before = call.state in ("failed", "done")
        if call.state == "done" and call.response is not None:
            reply = read_response(call.response, self.config.model)
            # An unreadable response is requested again; any other is final.
            if reply.finish_reason != "error":
                self.meter.from_ledger += 1
                return reply
        body = body_of(named)
        schema = json.dumps(body["response_format"]) if "response_format" in body else ""
        prompt_tokens = most_prompt_tokens(named["messages"], schema)
        reply = await self.transport.send(Outgoing(key, body, max_tokens, prompt_tokens, failed_before), call)
        return replace(reply, known=failed_before)

    async def close(self) -> None:
        await self.drain()
        self.ledger.close()

    async def drain(self) -> None:
        """Send nothing new and wait for the replies in flight, because they are paid for."""
        self.transport.stop()
        waiting = [task for task in self.open.values() if task not in self.transport.on_the_wire]
        for task in waiting:
            task.cancel()
        if self.transport.on_the_wire:
            await asyncio.wait(set(self.transport.on_the_wire), timeout=1)
        if on_the_wire := set(self.transport.on_the_wire):
            say(f"waiting for {len(on_the_wire)} replies in flight; interrupt again to discard them")
            await asyncio.wait(on_the_wire, timeout=DRAIN_SECONDS)
        remaining = list(self.open.values())
        for task in remaining:
            task.cancel()
        await asyncio.gather(*waiting, *remaining, return_exceptions=True)
        await self.transport.close()
