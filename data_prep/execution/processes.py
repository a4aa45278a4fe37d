"""Process pools whose workers exit when their parent does, even if it was killed."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def process_pool(processes: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> Any:
    """A ProcessPoolExecutor whose workers first call `begin(*arguments)`."""
    # spawn: a forked copy of a process that runs threads, as pyarrow does, may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(begin, arguments))


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # After `kill -9` of their parent, the workers of an executor would wait for work forever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
