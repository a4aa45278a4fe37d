"""OpenAI's Batch API as a transport: files of requests are uploaded, and files of responses are ready within a day.

Requests are collected until no more arrive or a file is full. A line of a file:

    {"custom_id": key of the ledger, "method": "POST", "url": "/v1/chat/completions", "body": {...}}

The steps are safe against a crash at any point: (1) the ledger records which requests are in flight with which batch,
(2) the file is uploaded and the batch is created with that name in its metadata, (3) its id is committed, (4) its
status is polled until it ends, (5) both of its files are joined with the ledger by custom_id until nothing is missing
that should be there, (6) its files are deleted at the endpoint. Steps (4) to (6) and what happens after a restart are
in `batch_results.py`.
"""

import asyncio
import json
import math
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.execution.progress import say
from data_prep.teachers.base import TeacherConfig
from data_prep.teachers.endpoint.batch import batch_files
from data_prep.teachers.endpoint.batch.batch_results import Results
from data_prep.teachers.endpoint.budget import Budget
from data_prep.teachers.endpoint.ledger import Call, Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.replies import Reply, read_response
from data_prep.teachers.endpoint.transport import Outgoing

# The API's limits for one file.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
# After this long without a new request, all tasks that could send one are waiting.
QUIET_SECONDS = 2.0
# Polls to wait before requests are sent again that the endpoint's queue had no room for.
POLLS_BETWEEN_TRIES = 10
# Growth of the room in the queue that is counted on, per batch that found room: it may have been full of others.
GROWTH = 2.0


@dataclass(frozen=True)
class Parked:
    outgoing: Outgoing
    ended: asyncio.Future[bool]  # set when the batch has ended: True if that counts as an attempt


class Batches:
    """The transport for endpoints with a Batch API; see `Transport`. The outcome of a request is in the ledger."""

    def __init__(self, config: TeacherConfig, ledger: Ledger, budget: Budget, meter: Meter):
        self.config, self.ledger, self.budget, self.meter = config, ledger, budget, meter
        self.results = Results(config, ledger, budget, meter)
        self.on_the_wire: set[asyncio.Task[Any]] = set()  # always empty: a later run finds the batches again
        self.parked: dict[str, Parked] = {}
        self.running: dict[str, asyncio.Task[bool]] = {}
        self.queued: dict[str, int] = {}  # tokens of this run's batches in the endpoint's queue
        self.room = math.inf  # tokens that the queue is known to have room for
        self.too_small = 0  # times in a row that it had no room for a single request
        self.alarm: asyncio.TimerHandle | None = None
        self.recovery: asyncio.Task[None] | None = None
        self.stopped = False
        self.ended: UserError | None = None  # the error of a batch, after which nothing more is sent

    async def send(self, outgoing: Outgoing, call: Call) -> Reply:
        if self.recovery is None:
            self.recovery = asyncio.get_running_loop().create_task(self._recover())
        await asyncio.shield(self.recovery)
        attempts = waits = 0
        while True:
            call = await self._call(outgoing.key)
            if call.state == "done" and call.response is not None:
                # Its tokens and cost were counted when it was recorded.
                reply = read_response(call.response, self.config.model)
                if waits or reply.finish_reason != "error":
                    return reply
            elif waits and (call.state == "failed" or attempts > self.config.max_retries):
                if call.state != "failed":
                    await self.ledger.fail(outgoing.key)
                reason = self.results.reasons.get(outgoing.key, "its batch contains no reply")
                return Reply(reason, "error", self.config.model, lasting=call.state == "failed")
            waits += 1
            if call.state == "in flight":
                batch = self.running[str(call.batch)]
                await asyncio.wait([batch])
                attempts += batch.exception() is None and batch.result()
            else:
                attempts += await self._wait_for_batch(outgoing)

    async def _call(self, key: str) -> Call:
        """The state of a request, which is in flight only with a batch that this run follows. Raises UserError."""
        for _ in range(2):  # the batch may end while the answer of the ledger is on its way
            call = await self.ledger.plan(key, "", "")
            if self.ended:
                raise UserError(str(self.ended))
            if call.state != "in flight" or call.batch in self.running:
                return call
        raise UserError(f"{self.ledger.path}: request {key} is in flight with batch {call.batch}, which is not open")

    async def _wait_for_batch(self, outgoing: Outgoing) -> bool:
        """Put the request into a batch and wait for the batch to end; True if that counts as an attempt."""
        loop = asyncio.get_running_loop()
        parked = self.parked[outgoing.key] = Parked(outgoing, loop.create_future())
        if self.alarm:
            self.alarm.cancel()
        quiet = min(QUIET_SECONDS, self.config.batches.batch_poll_seconds)
        self.alarm = loop.call_later(0 if len(self.parked) >= MOST_REQUESTS else quiet, self._file_all)
        return await parked.ended

    def _file_all(self) -> None:
        """Start batches of the parked requests, as far as the budget and the endpoint's queue allow."""
        while not self.stopped and self.parked:
            taken, lines = self._take()
            if not taken:
                break
            name = uuid.uuid4().hex
            self.queued[name] = sum(parked.outgoing.likely_tokens for parked in taken)
            self._start(name, taken, self._run(name, [parked.outgoing for parked in taken], lines))
        if self.parked and not self.running and not self.stopped:
            self._fail_parked(self.budget.exhausted(self._worst(next(iter(self.parked.values())).outgoing)))

    def _start(self, name: str, taken: list[Parked], work: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running[name] = task
        self.meter.waiting_for = f"{len(self.running)} batches open"
        task.add_done_callback(lambda done: self._ended(name, taken, done))

    def _take(self) -> tuple[list[Parked], list[bytes]]:
        """Parked requests for one file, within its limits, the budget and the endpoint's queue, and their lines."""
        taken: list[Parked] = []
        lines: list[bytes] = []
        size, tokens = 0, sum(self.queued.values())
        for key, parked in list(self.parked.items()):
            body = self.results.parameters.body(parked.outgoing.body)
            self.results.sent = body
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            encoded = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            size += len(encoded)
            tokens += parked.outgoing.likely_tokens
            # One request is always tried, because the room is only known from earlier tries.
            full = tokens > self.room and (taken or self.queued)
            if len(taken) == MOST_REQUESTS or size > MOST_BYTES or full:
                break
            cost = self._worst(parked.outgoing)
            if not self.budget.try_reserve(cost):
                break
            self.budget.settle(cost, cost)  # spent at the upper bound until the batch has ended, perhaps in a later run
            taken.append(self.parked.pop(key))
            lines.append(encoded)
        return taken, lines

    def _worst(self, outgoing: Outgoing) -> float:
        return self.budget.worst(outgoing.prompt_tokens, outgoing.max_tokens)

    async def _run(self, name: str, taken: list[Outgoing], lines: list[bytes]) -> bool:
        costs = [(outgoing.key, self._worst(outgoing)) for outgoing in taken]
        uncertain = await self.ledger.grouped(batch_files.begin_batch, name, costs)
        self.meter.uncertain += uncertain
        batch_id = await self.results.endpoint.create(name, self.results.identity, lines)
        await self.ledger.grouped(batch_files.enter_id, name, batch_id)
        if await self.results.collect(name, batch_id):
            self.room *= GROWTH
            self.too_small = 0
            return True
        self._learn_room(self.queued.pop(name), len(taken))
        await asyncio.sleep(POLLS_BETWEEN_TRIES * self.config.batches.batch_poll_seconds)
        return False

    def _learn_room(self, tokens: int, requests: int) -> None:
        """Conclude from a batch that did not fit into the endpoint's queue how large the next ones may be.

        Raises UserError if the queue has no room for one request, again and again.
        """
        others = sum(self.queued.values())  # they found room
        self.room = max(others, (tokens + others) / 2 if requests > 1 else tokens)
        self.too_small += requests == 1 and not others
        if self.too_small > self.config.max_retries:
            raise UserError(
                f"{self.config.where}: the queue of the Batch API has no room, not even for one request: run this "
                "again when other batches of the account have ended"
            )
        say(f"{self.config.where}: the queue has no room for {requests} requests: trying fewer at once")

    def _ended(self, name: str, taken: list[Parked], done: asyncio.Task[bool]) -> None:
        del self.running[name]
        self.queued.pop(name, None)
        self.meter.waiting_for = f"{len(self.running)} batches open"
        error = None if done.cancelled() else done.exception()
        if error and not self.ended:
            # An error that is no UserError would reject the batch's records, one by one.
            where = f"{self.config.where}, Batch API: internal error"
            self.ended = error if isinstance(error, UserError) else UserError(f"{where} ({error!r})")
        for future in [parked.ended for parked in taken if not parked.ended.done()]:
            if done.cancelled():
                future.cancel()
            elif error:
                future.set_exception(UserError(str(self.ended)))
            else:
                future.set_result(done.result())
        if self.ended:
            self._fail_parked(self.ended)
        elif self.parked and not self.stopped:
            self._file_all()  # requests that exceeded the budget or the room before

    def _fail_parked(self, error: UserError) -> None:
        for parked in self.parked.values():
            if not parked.ended.done():
                parked.ended.set_exception(UserError(str(error)))
        self.parked.clear()

    async def _recover(self) -> None:
        for name, batch_id in await self.results.recover():
            self._start(name, [], self.results.collect(name, batch_id))

    def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        tasks = [*self.running.values(), *([self.recovery] if self.recovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.results.endpoint.close()
