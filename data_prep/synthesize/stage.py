"""Execution of a text stage as a map over shards.

A stage is one stateless function from a record and a teacher to records and rejects. It runs one shard at a time: in a
process pool for the offline teacher, on one event loop for an API. Results are in the order of the input, so the output
is the same for any number of workers; only a few shards are in memory at once.
"""

import asyncio
import functools
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.manifests import FolderWriter, read_manifest, writing_folder
from data_prep.contract.records import Reject
from data_prep.execution.processes import calling_in_pool, process_pool
from data_prep.execution.progress import say, shown
from data_prep.teachers.base import Teacher, TeacherConfig, ledger_path
from data_prep.teachers.endpoint.dry_run import Counting
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.factory import make_teacher

# Number of shards in progress in an API run: while one waits for its slowest reply, the others keep the endpoint busy.
SHARDS_AHEAD = 4

In = TypeVar("In")  # record type that a stage reads
Out = TypeVar("Out")  # record type that a stage writes
MakeTeacher = Callable[[], Teacher]


# The work of a stage on one record. It is pickled for worker processes, so it contains only settings.
Work = Callable[[In, Teacher], Awaitable[Sequence[Out | Reject]]]


@dataclass(frozen=True)
class ShardsConfig:
    shard_records: int = 1000
    """Input records per shard; the results of a shard are one output file."""

    workers: int = 0
    """Number of worker processes for the offline teacher; 0 for one per core. The output does not depend on it."""

    limit: int = 0
    """Number of input records after which to stop; 0 reads all."""


def check_shards(config: ShardsConfig) -> None:
    for name in ("workers", "limit"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name} {getattr(config, name)}: must be 0 or above")
    if config.shard_records < 1:
        raise UserError(f"--shard-records {config.shard_records}: must be at least 1")


def in_shards(items: Iterable[In], size: int) -> Iterator[list[In]]:
    iterator = iter(items)
    while shard := list(itertools.islice(iterator, size)):
        yield shard


def first(records: Iterable[In | Reject], limit: int) -> Iterator[In | Reject]:
    """The first `limit` records and the rejects before and among them; everything if `limit` is 0."""
    taken = 0
    for record in records:
        if not isinstance(record, Reject):
            taken += 1
        yield record
        if limit and taken >= limit:
            return


async def work_on_shard(work: Work[In, Out], shard: list[In | Reject], teacher: Teacher) -> list[Out | Reject]:
    """The results of a shard, in input order. Rejects from reading are passed through."""

    async def work_on_record(record: In | Reject) -> Sequence[Out | Reject]:
        if isinstance(record, Reject):
            return [record]
        try:
            return await work(record, teacher)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001, one record must not end a run, nor every rerun of it
            reason = first_line(error) or type(error).__name__
            name = getattr(record, "id", "a record")
            say(f"{name} is rejected after an internal error ({type(error).__name__}: {reason})")
            return [Reject.of(record, "internal_error", f"{type(error).__name__}: {reason}")]

    tasks = [asyncio.ensure_future(work_on_record(record)) for record in shard]
    try:
        return [result for results in await asyncio.gather(*tasks) for result in results]
    finally:
        # If one record ends the run, the others must not send further requests.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- processes


_worker: tuple[Work[Any, Any], Teacher] | None = None


def _start_worker(work: Work[Any, Any], make: MakeTeacher) -> None:
    global _worker
    _worker = work, make()


def _run_in_worker(shard: list[Any]) -> list[Any]:
    assert _worker
    work, teacher = _worker
    return asyncio.run(work_on_shard(work, shard, teacher))


def map_in_processes(
    work: Work[In, Out], make: MakeTeacher, shards: Iterable[list[In | Reject]], workers: int
) -> Iterator[list[Out | Reject]]:
    """Each shard's results in order, from a process pool; in this process if there is one worker or one shard."""
    shards = iter(shards)
    head = list(itertools.islice(shards, 2))
    shards = itertools.chain(head, shards)
    if workers == 1 or len(head) < 2:
        teacher = make()
        for shard in shards:
            yield asyncio.run(work_on_shard(work, shard, teacher))
        return
    pool = process_pool(workers, _start_worker, (work, make))
    try:
        running: deque[Future[list[Out | Reject]]] = deque()
        for shard in shards:
            running.append(pool.submit(_run_in_worker, shard))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed (out of memory?): try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------- one event loop


async def until_first(running: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for the first shard; an error in any shard is raised at once."""
    first_shard, *_ = running
    while not first_shard.done():
        done, _ = await asyncio.wait([task for task in running if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def map_on_one_loop(
    work: Work[In, Out], make: MakeTeacher, shards: Iterable[list[In | Reject]], ahead: int = SHARDS_AHEAD
) -> Iterator[list[Out | Reject]]:
    """Each shard's results in order, from one event loop on which `ahead` shards overlap.

    The teacher limits the number of requests in flight.
    """
    running: deque[asyncio.Task[list[Out | Reject]]] = deque()
    shards = iter(shards)
    teacher: Teacher | None = None
    with calling_in_pool(available_cores()), asyncio.Runner() as runner:
        try:
            teacher = make()
            while True:
                for shard in itertools.islice(shards, ahead - len(running)):
                    running.append(runner.get_loop().create_task(work_on_shard(work, shard, teacher)))
                if not running:
                    return
                runner.run(until_first(running))
                yield running.popleft().result()
        finally:
            runner.run(cancel_and_close(running, teacher))


async def cancel_and_close(running: Iterable[asyncio.Task[Any]], teacher: Teacher | None) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if teacher is not None:
        await teacher.close()


# ---------------------------------------------------------------- a whole stage


class Calibration(Protocol):
    """Requests to the second reader that measure it, and what becomes of their results."""

    @property
    def work(self) -> Work[Any, Any]: ...

    @property
    def cases(self) -> list[Any]: ...

    def conclude(self, shards: Iterable[list[Any]]) -> None: ...


@dataclass(frozen=True)
class Stage(Generic[Out]):
    """The settings of one run of a stage: its output and its teacher."""

    kind: str  # "notes" or "instructions": the output's kind and its files' prefix
    record_type: type[Out]
    out: Path
    teacher: TeacherConfig
    shards: ShardsConfig
    inputs: dict[str, str]  # names of the inputs -> hashes
    facts: dict[str, Any]  # further entries of the manifest
    total: int = 0  # number of input records; 0 if unknown
    reader: TeacherConfig | None = None  # the second reader, if there is one
    calibration: Calibration | None = None  # of the second reader, before the first record

    def map(
        self, work: Work[In, Out], records: Iterable[In | Reject], meter: Meter | None = None
    ) -> Iterator[list[Out | Reject]]:
        shards = in_shards(first(records, self.shards.limit), self.shards.shard_records)
        ledger = ledger_path(self.teacher, self.out)
        make = functools.partial(make_teacher, self.teacher, ledger, meter or Meter(), self.reader)
        if self.teacher.teacher == "offline" and self.reader is None:
            return map_in_processes(work, make, shards, self.shards.workers or available_cores())
        return map_on_one_loop(work, make, shards, self.shards_ahead())

    def shards_ahead(self) -> int:
        """Number of shards to work on at once; of small shards, enough to keep the endpoint busy."""
        batches = self.teacher.batches
        if batches.batch:
            return math.ceil(batches.batch_window / self.shards.shard_records)
        return SHARDS_AHEAD + self.teacher.concurrency // self.shards.shard_records


def available_cores() -> int:
    # The cores that a container or taskset grants; cpu_count() counts the whole machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_stage(
    stage: Stage[Out],
    work: Work[In, Out],
    records: Iterable[In | Reject],
    judge: Callable[[Out], Reject | None],
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Process all records, write the output folder and return its manifest.

    `judge` sees every result in input order, in this process, and may still reject it, for instance as a duplicate.
    `meter` has the requests that were made before. Raises UserError if there are no records, or if every request
    failed.
    """
    if stage.teacher.estimate:
        return estimate(stage, work, records)
    meter = meter or Meter()
    meter.total = min(stage.total or stage.shards.limit, stage.shards.limit or stage.total)
    with writing_folder(stage.out, stage.kind, stage.inputs) as writer, shown(stage.kind, meter.line):
        writer.facts.update(stage.facts)
        if stage.calibration:
            everything = replace(stage, shards=replace(stage.shards, limit=0))
            stage.calibration.conclude(everything.map(stage.calibration.work, stage.calibration.cases, meter))

        def counted() -> Iterator[In | Reject]:
            for record in records:
                writer.counts["in"] += 1
                yield record

        for results in stage.map(work, counted(), meter):
            write_shard(writer, results, stage.record_type, judge)
            # writer.counts["in"] is larger, because later shards have been read already.
            meter.records = min(meter.records + stage.shards.shard_records, writer.counts["in"])
            meter.rejected = writer.reasons.total()
        if wrappings := {kind: count for kind, count in sorted(meter.wrappings.items()) if count}:
            writer.facts["wrappings_removed"] = wrappings
        if meter.omitted:
            writer.facts["parameters_omitted"] = sorted(meter.omitted)
        if not writer.counts["in"]:
            raise UserError(f"{', '.join(stage.inputs)} contains no records: check --source")
        if not writer.shards and set(writer.reasons) == {"error"} and writer.last_reject:
            raise UserError(f"every request failed, the last with: {writer.last_reject.detail}")
        if not writer.shards:
            writer.add_shard([], stage.record_type)
    requests = f"; {meter.closing()}" if meter.closing() else ""
    say(f"{stage.kind}: {summary(writer)}, {time.monotonic() - meter.started:.1f} s -> {stage.out}{requests}")
    return read_manifest(stage.out, stage.kind)


def estimate(stage: Stage[Out], work: Work[In, Out], records: Iterable[In | Reject]) -> dict[str, Any]:
    """Run the stage with a teacher and a reader that only count requests; print and return the counts."""
    counting = Counting(stage.teacher, ledger_path(stage.teacher, stage.out))
    if stage.reader:
        counting.reader = Counting(stage.reader, ledger_path(stage.teacher, stage.out))
    shards = in_shards(first(records, stage.shards.limit), stage.shards.shard_records)
    if stage.calibration:
        for _ in map_on_one_loop(stage.calibration.work, lambda: counting, [stage.calibration.cases]):
            pass
    for _ in map_on_one_loop(work, lambda: counting, shards):
        pass
    for line in counting.lines():
        print(f"{stage.kind}: {line}")
    return counting.figures()


def write_shard(
    writer: FolderWriter, results: list[Out | Reject], record_type: type[Out], judge: Callable[[Out], Reject | None]
) -> None:
    kept: list[Out] = []
    for result in results:
        if isinstance(result, Reject):
            writer.reject([result])
        elif reject := judge(result):
            writer.reject([reject])
        else:
            kept.append(result)
    if kept:
        writer.add_shard(kept, record_type)


def summary(writer: FolderWriter) -> str:
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.reasons.items())) or "none"
    return f"{writer.counts['in']} in, {writer.counts['out']} out, rejected: {rejected}"
