"""SIGTERM and Ctrl-C while a run starts, when the main thread often waits in C++ and runs no handler of Python."""

import contextlib
import ctypes
import signal
import socket
import threading
from collections.abc import Callable, Iterator

NUMBERS = (signal.SIGTERM, signal.SIGINT)
LONGEST_ACTION = 512  # bytes; more than any platform's struct sigaction has


class Interrupts:
    """Calls `end` from a thread of its own at the first SIGTERM or Ctrl-C, until `release`."""

    def __init__(self, end: Callable[[], None]):
        self.end = end
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self.action = ctypes.create_string_buffer(LONGEST_ACTION)
        self.has_action = False
        signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        self.before = {number: signal.getsignal(number) for number in NUMBERS}
        self.catch()
        threading.Thread(target=self.wait, daemon=True, name="interrupts").start()

    def catch(self) -> None:
        for number in NUMBERS:
            signal.signal(number, lambda *_: None)  # the byte that Python writes before it is what counts

    def catch_again(self) -> None:
        """To be called after JAX has installed its handler of SIGTERM, which is put back by `release`."""
        self.has_action = ctypes.CDLL(None).sigaction(signal.SIGTERM, None, self.action) == 0
        self.catch()

    def release(self) -> None:
        """Let signals again do what they did before, or what JAX has them do."""
        if self.writer.fileno() < 0:
            return
        signal.set_wakeup_fd(-1)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.has_action:
            ctypes.CDLL(None).sigaction(signal.SIGTERM, self.action, None)
        self.writer.close()

    def wait(self) -> None:
        while number := self.reader.recv(1):
            if number[0] in NUMBERS:
                self.end()
        self.reader.close()


_current: Interrupts | None = None


@contextlib.contextmanager
def interruptible(end: Callable[[], None]) -> Iterator[None]:
    """Context in which SIGTERM and Ctrl-C call `end` at once, until the context or the start of a run is over."""
    global _current
    if threading.current_thread() is not threading.main_thread():  # only it may install handlers
        yield
        return
    _current = Interrupts(end)
    try:
        yield
    finally:
        start_is_over()


def jax_has_started() -> None:
    if _current is not None:
        _current.catch_again()


def start_is_over() -> None:
    """From here on a run handles signals itself, by saving and leaving."""
    global _current
    if _current is not None:
        _current.release()
    _current = None
