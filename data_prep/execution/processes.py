"""Pools of processes that end with the one that started them, however that ended."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def process_pool(processes: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> Any:
    """A ProcessPoolExecutor; each process begins with `begin(*arguments)`."""
    # spawn: a forked copy of a process that runs threads, as pyarrow does, may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(begin, arguments))


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # After `kill -9` of their parent, an executor's processes wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
