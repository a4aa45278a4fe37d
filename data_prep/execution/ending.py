"""How a command ends: readers that go away, Ctrl-C and SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


class Forgiving:
    """A stream whose reader may go away. The first write that fails sends what follows to nowhere.

    `asclepius --help | head` ends quietly, a training outlives the pipe of its log, and a full disk under stderr does
    not turn success into failure.
    """

    def __init__(self, stream: Any, forgiven: type[OSError]):
        self.stream, self.forgiven = stream, forgiven

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except self.forgiven:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def forgive_streams() -> None:
    if sys.stdout is sys.__stdout__:
        sys.stdout = Forgiving(sys.stdout, BrokenPipeError)
        sys.stderr = Forgiving(sys.stderr, OSError)


def end_alike() -> None:
    """Handle SIGTERM as Ctrl-C is handled, by asyncio, by a job of several processes, or by KeyboardInterrupt."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def leave_at_once(name: str) -> None:
    """End at Ctrl-C and SIGTERM without an exception: while JAX starts, its callbacks and plugins swallow those."""

    def leave(*_: Any) -> None:
        os.write(2, f"asclepius {name}: interrupted\n".encode())
        os._exit(130)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)
