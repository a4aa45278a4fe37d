"""The progress line of a run: updated in place on a terminal, printed every 30 seconds elsewhere."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A log file needs few lines.
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def shown(name: str, line: Callable[[], str]) -> Iterator[None]:
    """Show the line while the block runs, from a separate thread, because the run itself may block for hours."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        live = Live(
            get_renderable=lambda: Text(f"{name}: {line()}"),
            console=Console(stderr=True),
            refresh_per_second=4,
            transient=True,
        )
        with live:
            yield
        return
    with repeated(SECONDS_BETWEEN_LINES, lambda: say(f"{name}: {line()}")):
        yield


@contextmanager
def repeated(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    done = threading.Event()

    def go() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=go, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
