"""OpenAI's Batch API as a transport: files of requests are uploaded, and files of responses are ready within a day.

Requests are collected until no more arrive or a file is full. A line of a file:

    {"custom_id": key of the ledger, "method": "POST", "url": "/v1/chat/completions", "body": {...}}

The steps are safe against a crash at any point: (1) the ledger records which requests are in flight with which batch,
(2) the file is uploaded and the batch is created with that name in its metadata, (3) its id is committed, (4) its
status is polled until it ends, (5) both of its files are joined with the ledger by custom_id, whatever its counts are.
After a restart, a batch without an id is looked up at the endpoint; if it was never created, its requests are planned
again.
"""

import asyncio
import json
import tempfile
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.teachers.base import KEY_VARIABLE, TeacherConfig, api_key
from data_prep.teachers.endpoint import batch_files
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.budget import Budget
from data_prep.teachers.endpoint.ledger import Call, Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.rate_limit import back_off
from data_prep.teachers.endpoint.replies import Reply, one_line
from data_prep.teachers.endpoint.transport import PASSING, Outgoing, Parameters, receive

# The API's limits for one file.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
# After this long without a new request, all tasks that could send one are waiting.
QUIET_SECONDS = 2.0
ENDED = ("completed", "failed", "expired", "cancelled")
METADATA = "asclepius_batch"
# Responses per commit of the ledger.
GROUP = 500


@dataclass(frozen=True)
class Parked:
    outgoing: Outgoing
    ended: asyncio.Future[bool]  # set when the batch has ended: True if that counts as an attempt


class Batches:
    """The transport for endpoints with a Batch API; see `Transport`. The outcome of a request is in the ledger."""

    def __init__(self, config: TeacherConfig, ledger: Ledger, budget: Budget, meter: Meter):
        import openai

        self.config, self.ledger, self.budget, self.meter = config, ledger, budget, meter
        self.client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=api_key(config),
            timeout=config.timeout_seconds,
            max_retries=config.max_retries,
            # As in http.py: no redirects, and no proxy of the environment for a host of the institution.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                proxy=config.proxy or None,
                trust_env=not config.proxy and not is_own_host(config.host),
            ),
        )
        self.on_the_wire: set[asyncio.Task[Any]] = set()  # always empty: a later run finds the batches again
        self.parameters = Parameters(config.where, meter.omitted)
        self.sent: dict[str, Any] = {}  # an example of this run's requests
        self.parked: dict[str, Parked] = {}
        self.running: dict[str, asyncio.Task[bool]] = {}
        self.reasons: dict[str, str] = {}  # why a request got no reply in its last batch
        self.alarm: asyncio.TimerHandle | None = None
        self.recovery: asyncio.Task[None] | None = None
        self.stopped = False

    async def send(self, outgoing: Outgoing, call: Call) -> Reply:
        if self.recovery is None:
            self.recovery = asyncio.get_running_loop().create_task(self._recover())
        await asyncio.shield(self.recovery)
        attempts = 0
        while True:
            if call.batch in self.running:
                attempts += await asyncio.shield(self.running[call.batch])
            elif call.state != "in flight":
                attempts += await self._wait_for_batch(outgoing)
            call = await self.ledger.plan(outgoing.key, "", "")
            if call.state == "done" and call.response is not None:
                # Tokens and cost were counted in `_join`, so this meter is discarded.
                return receive(call.response, self.config.model, Meter())[0]
            reason = self.reasons.get(outgoing.key, "its batch contains no reply")
            if call.state == "failed" or attempts > self.config.max_retries:
                await self.ledger.fail(outgoing.key)
                return Reply(reason, "error", self.config.model)

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
        """Start batches of the parked requests, as far as the budget allows."""
        while not self.stopped and self.parked:
            taken, lines = self._take()
            if not taken:
                break
            name = uuid.uuid4().hex
            self._start(name, taken, self._run(name, [parked.outgoing for parked in taken], lines))
        if self.parked and not self.running and not self.stopped:
            self._fail_parked(self.budget.exhausted(self._worst(next(iter(self.parked.values())).outgoing)))

    def _start(self, name: str, taken: list[Parked], work: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running[name] = task
        task.add_done_callback(lambda done: self._ended(name, taken, done))

    def _take(self) -> tuple[list[Parked], list[bytes]]:
        """Parked requests for one file, within the file's limits and the budget, and their lines."""
        taken: list[Parked] = []
        lines: list[bytes] = []
        size = 0
        for key, parked in list(self.parked.items()):
            body = self.parameters.body(parked.outgoing.body)
            self.sent = body
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            encoded = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            size += len(encoded)
            if len(taken) == MOST_REQUESTS or size > MOST_BYTES:
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
        costs = [(self._worst(outgoing), name, outgoing.key) for outgoing in taken]
        await self.ledger.grouped(batch_files.begin_batch, name, costs)
        batch_id = await self._create(name, lines)
        await self.ledger.grouped(batch_files.enter_id, name, batch_id)
        return await self._follow(name, batch_id)

    def _ended(self, name: str, taken: list[Parked], done: asyncio.Task[bool]) -> None:
        del self.running[name]
        error = None if done.cancelled() else done.exception()
        for future in [parked.ended for parked in taken if not parked.ended.done()]:
            if done.cancelled():
                future.cancel()
            elif error:
                future.set_exception(error)
            else:
                future.set_result(done.result())
        if self.parked and not self.stopped:
            self._file_all()  # requests that exceeded the budget before

    def _fail_parked(self, error: UserError) -> None:
        for parked in self.parked.values():
            if not parked.ended.done():
                parked.ended.set_exception(error)
        self.parked.clear()

    # ------------------------------------------------------------ the endpoint

    async def _create(self, name: str, lines: Sequence[bytes]) -> str:
        import openai

        # The client must not retry by itself: a request that timed out may have created the batch.
        without_retries = self.client.with_options(max_retries=0)
        with tempfile.TemporaryFile() as file:
            file.writelines(lines)
            for attempt in range(1, self.config.max_retries + 2):
                try:
                    file.seek(0)
                    uploaded = await self.client.files.create(file=(f"{name}.jsonl", file), purpose="batch")
                    batch = await without_retries.batches.create(
                        input_file_id=uploaded.id,
                        endpoint="/v1/chat/completions",
                        completion_window="24h",
                        metadata={METADATA: name},
                    )
                    return str(batch.id)
                except openai.APIError as error:
                    if fatal(error) or attempt > self.config.max_retries:
                        raise self._refused(error) from error
                await asyncio.sleep(back_off(attempt))
                if found := (await self._remote_batches()).get(name):
                    return found
        raise AssertionError("unreachable")

    async def _remote_batches(self) -> dict[str, str]:
        """The names and ids of the endpoint's batches that a run of this program created."""
        import openai

        try:
            return {
                batch.metadata[METADATA]: batch.id
                async for batch in self.client.batches.list(limit=100)
                if METADATA in (batch.metadata or {})
            }
        except openai.APIError as error:
            raise self._refused(error) from error

    async def _follow(self, name: str, batch_id: str) -> bool:
        """Wait for a batch to end, and join its files with the ledger; True if that counts as an attempt."""
        import openai

        while True:
            self.meter.waiting_for = f"{len(self.running)} batches open"
            try:
                batch = await self.client.batches.retrieve(batch_id)
                if batch.status in ENDED:
                    break
            except openai.APIError as error:
                # A batch takes hours, so a temporary failure of the endpoint must not end the wait.
                if fatal(error):
                    raise self._refused(error) from error
            await asyncio.sleep(self.config.batches.batch_poll_seconds)
        files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
        with tempfile.TemporaryDirectory() as folder:
            for file_id in files:
                await self._join(name, await self._download(file_id, Path(folder) / "lines.jsonl"))
        problems = [] if files or batch.status != "failed" else list((batch.errors and batch.errors.data) or [])
        # A batch that failed as a whole costs nothing. In other batches, requests without a line may have been charged.
        missing, refunded = await self.ledger.grouped(
            batch_files.give_back, name, batch.status == "failed" and not files
        )
        self.budget.settle(0, -refunded)
        if batch.status != "failed" or files:
            self.meter.lost += missing
            return True
        if any(problem.code == "token_limit_exceeded" for problem in problems):
            await asyncio.sleep(10 * self.config.batches.batch_poll_seconds)
            return False
        reason = "; ".join(one_line(problem.message) for problem in problems) or "no reason given"
        raise UserError(
            f"{self.config.where}: batch {batch_id} failed ({reason}); its requests were not charged, run this again "
            "when the cause is fixed"
        )

    async def _download(self, file_id: str, path: Path) -> Path:
        import openai

        try:
            # To disk, and later split as bytes: a reply may contain separators that text readers take for line ends.
            async with self.client.files.with_streaming_response.content(file_id) as response:
                await response.stream_to_file(path)
        except openai.APIError as error:
            raise self._refused(error) from error
        return path

    async def _join(self, name: str, path: Path) -> None:
        """Record a file's lines in the ledger, for the requests that are in flight with this batch."""
        members: dict[str, float] = dict(await self.ledger.grouped(batch_files.members, name))
        with path.open("rb") as file:
            for group in batch_files.grouped(file, GROUP):
                answered: list[batch_files.Row] = []
                refused: list[batch_files.Row] = []
                for row in map(batch_files.read_row, group):
                    if row is None or row.key not in members:
                        continue  # a truncated line, or not a request of this batch; missing requests are sent again
                    if row.raw is None and self.parameters.refused(row.status, row.reason, self.sent):
                        row = replace(row, again=True)  # without the parameters that the endpoint refuses
                    (answered if row.raw is not None else refused).append(row)
                    self.budget.settle(0, self._settled(row, members.pop(row.key)))
                await self.ledger.grouped(batch_files.finish_rows, answered, refused)
                for row in answered:
                    self._count(row)
                for row in refused:
                    self.reasons[row.key] = row.reason
                    if row.fatal:
                        raise UserError(f"{self.config.where} answered within batch {name}: {row.reason}")

    def _count(self, row: batch_files.Row) -> None:
        assert row.raw is not None
        reply, used = receive(row.raw, self.config.model, self.meter)
        self.meter.answered += reply.finish_reason != "error"
        if used is not None:
            self.ledger.settle(row.key, used)

    def _settled(self, row: batch_files.Row, reserved: float) -> float:
        """The change of the amount spent that a row causes; its upper bound has been counted already."""
        if row.raw is None:
            return -reserved
        used = receive(row.raw, self.config.model, Meter(budget=self.budget))[1]
        return 0.0 if used is None else used - reserved

    async def _recover(self) -> None:
        """Follow the batches of an earlier run; plan the requests of batches that were never created again."""
        open_batches = await self.ledger.grouped(batch_files.open_batches)
        remote = await self._remote_batches() if any(batch_id is None for _, batch_id in open_batches) else {}
        for name, batch_id in open_batches:
            if batch_id is None and name in remote:
                batch_id = remote[name]
                await self.ledger.grouped(batch_files.enter_id, name, batch_id)
            if batch_id is None:
                _, refunded = await self.ledger.grouped(batch_files.give_back, name, True)
                self.budget.settle(0, -refunded)
                continue
            self._start(name, [], self._follow(name, batch_id))

    def _refused(self, error: Any) -> UserError:
        status = status_of(error)
        remedy = (
            f"check the key in {KEY_VARIABLE}" if status in (401, 403) else "replies so far are saved, run this again"
        )
        problem = f"answered {status} ({one_line(error)})" if status else f"cannot be reached ({one_line(error)})"
        return UserError(f"{self.config.where}, Batch API: {problem}: {remedy}".replace(self.client.api_key, "***"))

    def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        tasks = [*self.running.values(), *([self.recovery] if self.recovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()


def status_of(error: Any) -> int | None:
    """The HTTP status of an error of the client; None if no response arrived, as such errors have no status."""
    import openai

    return error.status_code if isinstance(error, openai.APIStatusError) else None


def fatal(error: Any) -> bool:
    """Return True if retrying cannot fix an error of the API."""
    status = status_of(error)
    return status is not None and status < 500 and status not in (*PASSING, 429)
