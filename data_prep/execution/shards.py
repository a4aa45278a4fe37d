"""The map over shards that every stage is: from processes, or on one event loop, always in the order of the input.

A stage is one stateless function from a record and a teacher to records and rejects. It runs one shard at a time: in a
process pool for the offline teacher, on one event loop for an API. Results are in the order of the input, so the output
is the same for any number of workers; only a few shards are in memory at once.
"""

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.records import Reject
from data_prep.execution.parts import read_part
from data_prep.execution.processes import calling_in_pool, process_pool
from data_prep.execution.progress import say

# Number of shards in progress in an API run: while one waits for its slowest reply, the others keep the endpoint busy.
SHARDS_AHEAD = 4

In = TypeVar("In")  # record type that a stage reads
Out = TypeVar("Out")  # record type that a stage writes


class Closing(Protocol):
    """A resource of a stage that is closed at the end, such as a teacher."""

    async def close(self) -> None: ...


MakeTeacher = Callable[[], Any]  # a `Closing`


# The work of a stage on one record. It is pickled for worker processes, so it contains only settings.
Work = Callable[[In, Any], Awaitable[Sequence[Out | Reject]]]


@dataclass(frozen=True)
class ShardsConfig:
    shard_records: int = 1000
    """Input records per shard; the results of a shard are one output file."""

    workers: int = 0
    """Number of worker processes for the offline teacher; 0 for one per core. The output does not depend on it."""

    limit: int = 0
    """Number of input records after which to stop; 0 reads all."""

    part: str = ""
    """I/N: work on every N-th shard, from the I-th, and write OUT.part-I-of-N for `asclepius join`. Run 0/N before the
    others if there is an endpoint: it makes what all parts share (questions shown as examples, the calibration of a
    second reader)."""

    joined: tyro.conf.Suppress[tuple[Path, ...]] = ()  # the parts to read instead of working


def check_shards(config: ShardsConfig) -> None:
    for name in ("workers", "limit"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name} {getattr(config, name)}: must be 0 or above")
    if config.shard_records < 1:
        raise UserError(f"--shard-records {config.shard_records}: must be at least 1")
    read_part(config.part)


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


async def work_on_shard(work: Work[In, Out], shard: list[In | Reject], teacher: Any) -> list[Out | Reject]:
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


_worker: tuple[Work[Any, Any], Any] | None = None


def _start_worker(work: Work[Any, Any], make: MakeTeacher) -> None:
    global _worker
    _worker = work, make()


def _run_in_worker(shard: list[Any]) -> list[Any]:
    assert _worker
    work, teacher = _worker
    return asyncio.run(work_on_shard(work, shard, teacher))


def map_in_processes(
    work: Work[In, Out], make: MakeTeacher, shards: Iterable[list[In | Reject]], workers: int
) -> Generator[list[Out | Reject]]:
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
) -> Generator[list[Out | Reject]]:
    """Each shard's results in order, from one event loop on which `ahead` shards overlap.

    The teacher limits the number of requests in flight.
    """
    running: deque[asyncio.Task[list[Out | Reject]]] = deque()
    shards = iter(shards)
    teacher: Closing | None = None
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


async def cancel_and_close(running: Iterable[asyncio.Task[Any]], teacher: Closing | None) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if teacher is not None:
        await teacher.close()


def available_cores() -> int:
    # The cores that a container or taskset grants; cpu_count() counts the whole machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
