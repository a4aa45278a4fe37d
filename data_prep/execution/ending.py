"""How a command ends: readers that go away, Ctrl-C and SIGTERM, and errors in one line."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from data_prep.contract.errors import UserError


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


def shorten(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:100]}...{name[-40:]}"


def explain(error: Exception, extra: str = "") -> str | None:
    """One line for what the user can mend, None for what only a programmer can. extra: of a command's packages."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and extra:
        if error.name == "torch":  # which build of it is right, only the machine's owner knows
            return "torch is not installed: pip install torch, in the build for this machine"
        return f"{error.name} is not installed: pip install 'asclepius-jax[{extra}]'"
    if os.strerror(errno.ENOSPC) in str(error):  # TensorStore wraps it in an error of its own
        return f"the disk is full: make room and run this again ({str(error).splitlines()[0][:200]})"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{shorten(str(error.filename))}: {error.strerror}"
    # The model's own error, which is not imported for this: it would load JAX.
    return str(error) if type(error).__name__ == "FolderError" else None
