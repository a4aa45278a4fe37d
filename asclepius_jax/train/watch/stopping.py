"""SIGTERM or Ctrl-C asks a run to save and leave."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Every process of a run leaves at the same place, and with code 0; asked again, it does nothing else.

    With several processes JAX's own handler listens for SIGTERM and tells the others; another one would deafen it.
    """

    def __init__(self) -> None:
        self.asked = False
        self.looks = 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread alone
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
        """Whether to leave now; all processes of a job ask at the same places, after steps and batches of an
        evaluation, and get the same answer."""
        if jax.process_count() > 1 and not self.asked:
            # JAX names one number at which all leave: each must be asked for, once, by all.
            self.looks += 1
            self.asked = multihost_utils.reached_preemption_sync_point(self.looks)
        return self.asked
