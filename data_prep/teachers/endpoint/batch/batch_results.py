"""Results of batches: their replies are recorded in the ledger, and their files are deleted at the endpoint.

Before a run sends anything, the ledger is compared with the endpoint's batches. A batch whose creation was not
confirmed is found by its name. A batch that the ledger has lost, for instance with the last commits before a power cut,
is adopted, because its requests are paid for. The requests of a batch that was never created are planned again.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.execution.progress import say
from data_prep.teachers.base import TeacherConfig
from data_prep.teachers.endpoint.batch import batch_files
from data_prep.teachers.endpoint.batch.batch_endpoint import (
    LEDGER,
    NAME,
    UNKNOWN_CALL,
    ApiError,
    BatchEndpoint,
    Download,
)
from data_prep.teachers.endpoint.budget import Budget, most_prompt_tokens
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.rate_limit import back_off
from data_prep.teachers.endpoint.replies import one_line
from data_prep.teachers.endpoint.transport import Parameters, receive

ENDED = ("completed", "failed", "expired", "cancelled")
# Responses per commit of the ledger.
GROUP = 500
# Problems of a file that failed its validation to name; there may be one per line.
PROBLEMS_NAMED = 3


@dataclass
class Lines:
    """The lines that were found in the files of a batch."""

    keys: set[str] = field(default_factory=set)
    unreadable: int = 0
    fatal: str = ""  # the reason of a line that ends the run


class Results:
    """The results of batches. All of its methods raise UserError if they cannot go on."""

    def __init__(self, config: TeacherConfig, ledger: Ledger, budget: Budget, meter: Meter):
        self.config, self.ledger, self.budget, self.meter = config, ledger, budget, meter
        self.endpoint = BatchEndpoint(config)
        self.identity = ledger.identity()
        self.parameters = Parameters(config.where, meter.omitted)
        self.sent: dict[str, Any] = {}  # an example of this run's requests
        self.reasons: dict[str, str] = {}  # why a request got no reply in its last batch

    async def collect(self, name: str, batch_id: str) -> bool:
        """Wait for a batch to end and record its replies; False if the endpoint's queue had no room for it."""
        batch = await self._ended(batch_id)
        files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
        gone, fatal = await self._record(name, batch, files) if files else ("", "")
        # A batch that failed as a whole costs nothing. In other batches, requests without a line may have been charged.
        failed = batch.status == "failed" and not files
        problems = list((batch.errors and batch.errors.data) or []) if failed else []
        full = any(problem.code == "token_limit_exceeded" for problem in problems)
        reason = await self._reason(batch, problems) if failed and not full else ""
        missing, refunded = await self.ledger.grouped(batch_files.give_back, name, failed)
        self.budget.settle(0, -refunded)
        await self._clear(name, batch)
        if failed and not full:
            raise UserError(
                f"{self.config.where}: batch {batch_id} failed ({reason}); its requests were not charged, run this "
                "again when the cause is fixed"
            )
        if not failed:
            self.meter.lost += missing
            self.meter.uncertain += missing
        if gone and missing:
            raise UserError(
                f"{self.config.where}: file {gone} of batch {batch_id} is not at the endpoint any more, and with it "
                f"{missing} replies: if this is run again, their requests are sent and paid for again"
            )
        if fatal:
            raise UserError(f"{self.config.where} answered within batch {name}: {fatal}")
        return not full

    async def _ended(self, batch_id: str) -> Any:
        """The batch when it has ended, with its files: one that counts replies is given time to name their file."""
        without_file = 0
        while True:
            try:
                batch = await self.endpoint.retrieve(batch_id)
                counts = batch.request_counts
                if batch.status in ENDED:
                    unnamed = counts and counts.completed and not batch.output_file_id
                    if not unnamed or without_file == self.config.max_retries:
                        return batch
                    without_file += 1
            except ApiError as error:
                # A batch takes hours, so a temporary failure of the endpoint must not end the wait.
                if not error.passes:
                    raise self.endpoint.refused(error) from error
            await asyncio.sleep(self.config.batches.batch_poll_seconds)

    # ------------------------------------------------------------ its files

    async def _record(self, name: str, batch: Any, files: list[str]) -> tuple[str, str]:
        """Record the lines of a batch's files. A file that arrives cut off is downloaded again.

        Returns the id of a file that is not there any more, and the reason of a line that ends the run; each may be
        empty.
        """
        counts = batch.request_counts
        counted = (counts.completed or 0) + (counts.failed or 0) if counts else 0
        gone = ""
        found = Lines()
        for attempt in range(1, self.config.max_retries + 2):
            downloads: list[Download] = []
            with tempfile.TemporaryDirectory() as folder:
                for file_id in files:
                    path = Path(folder) / "lines.jsonl"
                    download = await self.endpoint.download(file_id, path)
                    if download is None:
                        gone = file_id
                        continue
                    downloads.append(download)
                    await self._join(name, path, found)
            missing = await self.ledger.grouped(batch_files.members, name)
            if gone or not missing or await self._whole(downloads, found, counted):
                return gone, found.fatal
            found.unreadable = 0
            await asyncio.sleep(back_off(attempt))
        raise UserError(
            f"{self.config.where}: the files of batch {batch.id} arrive cut off ({len(found.keys)} replies, of "
            f"{counted} by the batch's own count); replies so far are saved, run this again"
        )

    async def _whole(self, downloads: Iterable[Download], found: Lines, counted: int) -> bool:
        """Return True if files were downloaded whole: by their sizes if the endpoint states them, or by their lines.

        The counts of a batch come last, because some batches count replies that are in none of their files: a response
        that had its stated length, and only lines of the API in it, is believed.
        """
        whole = [await self.endpoint.is_whole(download) for download in downloads]
        if None not in whole:
            return False not in whole
        framed = all(download.framed for download in downloads) and not found.unreadable
        return False not in whole and (framed or len(found.keys) >= counted)

    async def _join(self, name: str, path: Path, found: Lines) -> None:
        """Record a file's lines in the ledger, for the requests that are in flight with this batch; add to `found`."""
        members: dict[str, float] = dict(await self.ledger.grouped(batch_files.members, name))
        with path.open("rb") as file:
            for group in batch_files.grouped(file, GROUP):
                answered: list[tuple[batch_files.Row, float | None]] = []
                refused: list[batch_files.Row] = []
                for row in map(batch_files.read_row, group):
                    if row is None:
                        found.unreadable += 1
                        continue
                    found.keys.add(row.key)
                    if row.key not in members:
                        continue  # not a request of this batch
                    reserved = members.pop(row.key)
                    if row.raw is not None:
                        answered.append((row, self._count(row.raw, reserved)))
                        continue
                    if self.parameters.refused(row.status, row.reason, self.sent):
                        row = replace(row, again=True)  # without the parameters that the endpoint refuses
                    self.budget.settle(0, -reserved if row.free else 0.0)
                    refused.append(row)
                    self.reasons[row.key] = row.reason
                    found.fatal = found.fatal or (row.reason if row.fatal else "")
                uncertain = await self.ledger.grouped(batch_files.finish_rows, answered, refused)
                self.meter.uncertain += uncertain

    def _count(self, raw: str, reserved: float) -> float | None:
        """Count a reply's tokens, and its cost instead of its upper bound; the cost, or None if it is unknown."""
        reply, used = receive(raw, self.config.model, self.meter, self.budget)
        self.meter.answered += reply.finish_reason != "error"
        if used is not None:
            self.budget.settle(0, used - reserved)
        return used

    async def _reason(self, batch: Any, problems: list[Any]) -> str:
        """Why a file failed its validation, with the lines that did, whose requests are in the ledger."""
        requests = await self._input(batch) if any(problem.line for problem in problems) else None
        keys = list(requests or ())
        named = []
        for problem in problems[:PROBLEMS_NAMED]:
            line, text = problem.line, one_line(problem.message or problem.code or "no reason given")
            if line:
                key = f", request {keys[line - 1]} of the ledger" if 0 < line <= len(keys) else ""
                text = f"line {line}{key}{f', {problem.param}' if problem.param else ''}: {text}"
            named.append(text)
        more = [f"{len(problems) - PROBLEMS_NAMED} more problems"] if len(problems) > PROBLEMS_NAMED else []
        return "; ".join(named + more) or "no reason given"

    async def _input(self, batch: Any) -> dict[str, dict[str, Any]] | None:
        """The requests of a batch by their keys, in the order of its file; None if the file is not there any more."""
        counts = batch.request_counts
        for attempt in range(1, self.config.max_retries + 2):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "lines.jsonl"
                download = await self.endpoint.download(batch.input_file_id, path)
                if download is None:
                    return None
                with path.open("rb") as file:
                    lines = list(map(batch_files.read_request, file))
            requests = dict(filter(None, lines))
            found = Lines(set(requests), lines.count(None))
            if await self._whole([download], found, (counts.total or 0) if counts else 0):
                return requests
            await asyncio.sleep(back_off(attempt))
        raise UserError(f"{self.config.where}: the input file of batch {batch.id} arrives cut off: run this again")

    async def _clear(self, name: str, batch: Any) -> None:
        """Delete a batch's files at the endpoint, now that the ledger has everything that is in them."""
        files = (batch.input_file_id, batch.output_file_id, batch.error_file_id)
        if await self.endpoint.delete([file_id for file_id in files if file_id]):
            await self.ledger.grouped(batch_files.set_state, name, "joined")

    # ------------------------------------------------------------ batches of earlier runs

    async def recover(self) -> list[tuple[str, str]]:
        """Compare the ledger with the endpoint's batches; names and ids of those whose results are still to come."""
        known = await self.ledger.grouped(batch_files.batches)
        unconfirmed = any(state == "open" and batch_id is None for _, batch_id, state in known)
        created = {batch.metadata[NAME]: batch for batch in await self._created(needed=unconfirmed)}
        to_collect: list[tuple[str, str]] = []
        for name, batch_id, state in known:
            if state == "joined":
                continue
            if batch_id is None and name in created:
                batch_id = created[name].id
                await self.ledger.grouped(batch_files.enter_id, name, batch_id)
            if batch_id is None:
                await self._never_created(name)
            elif state == "read":
                await self._clear_again(name, batch_id)
            else:
                to_collect.append((name, batch_id))
        for name in created.keys() - {name for name, _, _ in known}:
            batch = created[name]
            ours = batch.metadata.get(LEDGER) == self.identity
            if ours and batch.status != "failed" and await self._adopt(name, batch):
                to_collect.append((name, batch.id))
        return to_collect

    async def _created(self, needed: bool) -> list[Any]:
        try:
            return await self.endpoint.created()
        except ApiError as error:
            if error.status in UNKNOWN_CALL and not needed:
                return []  # an endpoint that does not list its batches
            raise self.endpoint.refused(error) from error

    async def _adopt(self, name: str, batch: Any) -> bool:
        """Record a batch of this ledger that the ledger does not know; False if its files are not there any more."""
        requests = await self._input(batch)
        if requests is None:
            say(
                f"{self.config.where}: the ledger does not know batch {batch.id}, whose files were read and deleted "
                "(is the ledger an old copy?): its requests are paid for again if they are sent"
            )
            await self.ledger.grouped(batch_files.add_batch, name, batch.id, "joined")
            return False
        costs = [(key, self._worst(body)) for key, body in requests.items()]
        uncertain = await self.ledger.grouped(batch_files.adopt_batch, name, batch.id, costs)
        self.meter.uncertain += uncertain
        self.budget.settle(0, sum(cost for _, cost in costs))
        say(f"{self.config.where}: found batch {batch.id} of this ledger: its {len(costs)} requests are not sent again")
        return True

    def _worst(self, body: Mapping[str, Any]) -> float:
        """The upper bound of the cost of a request that is known from a batch's file only."""
        limits = [body.get("max_tokens"), body.get("max_completion_tokens"), self.config.max_tokens]
        most = next(limit for limit in limits if isinstance(limit, int))
        return self.budget.worst(most_prompt_tokens((), json.dumps(body, ensure_ascii=False)), most)

    async def _clear_again(self, name: str, batch_id: str) -> None:
        try:
            await self._clear(name, await self.endpoint.retrieve(batch_id))
        except ApiError as error:
            if not error.passes:  # nothing of it is there any more
                await self.ledger.grouped(batch_files.set_state, name, "joined")

    async def _never_created(self, name: str) -> None:
        """Plan the requests of a batch again that was never created, and delete its file, if that was uploaded."""
        _, refunded = await self.ledger.grouped(batch_files.give_back, name, True)
        self.budget.settle(0, -refunded)
        try:
            await self.endpoint.delete(await self.endpoint.uploaded(f"{name}.jsonl"))
        except ApiError as error:
            say(f"{self.config.where}: file {name}.jsonl may be left at the endpoint ({error.reason})")
        await self.ledger.grouped(batch_files.set_state, name, "joined")
