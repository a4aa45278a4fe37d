"""Process pools whose workers exit when their parent does, even if it was killed."""

import asyncio
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from data_prep.contract.errors import UserError

Result = TypeVar("Result")


def process_pool(processes: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> Any:
    """A ProcessPoolExecutor whose workers first call `begin(*arguments)`."""
    # spawn: a forked copy of a process that runs threads, as pyarrow does, may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(begin, arguments))


# Starting a process takes a second, so the first calls run in this one.
CALLS_HERE = 64


class CallPool:
    """Worker processes for calls that would block an event loop."""

    def __init__(self, processes: int):
        self.processes, self.calls = processes, 0
        self.pool: Executor | None = None

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        self.calls += 1
        if self.calls <= CALLS_HERE:
            return function(*arguments)
        if self.pool is None:
            self.pool = process_pool(self.processes)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (out of memory?): run this again to resume; answers received so far "
                "are saved"
            ) from error


_calls: CallPool | None = None


@contextmanager
def calling_in_pool(processes: int) -> Iterator[None]:
    """Make `call_in_pool` use worker processes while the block runs."""
    global _calls
    before, _calls = _calls, CallPool(processes)
    try:
        yield
    finally:
        pool, _calls = _calls.pool, before
        if pool:
            pool.shutdown(wait=True, cancel_futures=True)


async def call_in_pool(function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result, from a worker process inside `calling_in_pool`, and from this process elsewhere."""
    return await _calls.call(function, *arguments) if _calls else function(*arguments)


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # After `kill -9` of their parent, the workers of an executor would wait for work forever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Workers keep millions of small tuples in caches. Walking them at the usual rate takes a sixth of the gate's time.
    gc.set_threshold(100_000, 50, 100)
    if begin:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
