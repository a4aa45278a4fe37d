"""SIGTERM or Ctrl-C makes a run save a checkpoint and exit."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Makes all processes of a run stop at the same step, with exit code 0. Further signals are ignored.

    With several processes, JAX's own handler receives SIGTERM and informs the others. A handler installed here would
    replace it.
    """

    def __init__(self) -> None:
        self.asked = False
        self.looks = 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals
            return
        handlers = {s: signal.signal(s, self.ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def ask(self, *_: Any) -> None:
        self.asked = True

    def reached(self) -> bool:
        """Return whether to stop now.

        All processes of a job must call this at the same points (after each step and evaluation batch), and all get
        the same answer.
        """
        if jax.process_count() > 1 and not self.asked:
            # JAX chooses one number at which all stop, so every process must pass each number exactly once.
            self.looks += 1
            self.asked = multihost_utils.reached_preemption_sync_point(self.looks)
        return self.asked
