"""What a run has done and spent so far, and a line that shows it: live on a terminal, now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_prep.budget import Budget, usd

if TYPE_CHECKING:
    from data_prep.pace import Pace

# Where nobody watches, a log needs few lines.
SECONDS_BETWEEN_LINES = 30.0


@dataclass
class Meter:
    """Counts of one run. Records are counted where they are written, requests where they are sent."""

    records: int = 0
    rejected: int = 0
    total: int = 0  # records that there are; 0 where that is not known
    answered: int = 0
    from_ledger: int = 0
    failed: int = 0
    lost: int = 0  # no reply came, or none that can be read; perhaps paid for
    throttled: int = 0
    uncertain: int = 0  # in flight when an earlier run died: perhaps paid for twice
    prompt_tokens: int = 0
    completion_tokens: int = 0
    waiting_for: str = ""  # what else a person should know of
    budget: Budget | None = None
    pace: "Pace | None" = None
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Everything at a glance, for a person who waits."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        parts = [f"{self.records}{f' of {self.total}' if self.total else ''} records, {self.rejected} rejected"]
        if self.budget:
            tokens = (self.prompt_tokens + self.completion_tokens) / seconds
            parts.append(f"{self.answered} requests, {self.failed} failed")
            parts.append(f"{self.answered / seconds:.1f} requests/s, {tokens:.0f} tokens/s")
            parts += [f"{self.pace.in_flight} in flight"] if self.pace else []
            parts += [self.waiting_for] if self.waiting_for else []
            parts += self.costs()
        if 0 < self.records < self.total:
            parts.append(f"{clock(seconds * (self.total - self.records) / self.records)} left")
        return ", ".join(parts)

    def costs(self) -> list[str]:
        if not self.budget or not self.budget.config.priced:
            return []
        spent = self.budget.spent
        if 0 < self.records < self.total:
            return [f"{usd(spent)} so far, about {usd(spent * self.total / self.records)} in all"]
        return [f"{usd(spent)} so far"]

    def closing(self) -> str:
        """What the requests came to, for the last line; empty where none were sent."""
        if not self.budget:
            return ""
        seconds = max(time.monotonic() - self.started, 1e-6)
        counts = {
            "from the ledger": self.from_ledger,
            "failed": self.failed,
            "lost replies": self.lost,
            "times 429": self.throttled,
            "perhaps paid twice": self.uncertain,
        }
        parts = [f"{self.answered} requests ({self.answered / seconds:.1f}/s)"]
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        parts.append(f"{self.prompt_tokens} tokens in, {self.completion_tokens} out")
        return ", ".join(parts + self.costs())


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


@contextmanager
def shown(name: str, meter: Meter) -> Iterator[None]:
    """Show the meter while the block runs, from a thread of its own: the run may wait for hours."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        live = Live(
            get_renderable=lambda: Text(f"{name}: {meter.line()}"),
            console=Console(stderr=True),
            refresh_per_second=4,
            transient=True,
        )
        with live:
            yield
        return
    with repeated(SECONDS_BETWEEN_LINES, lambda: say(f"{name}: {meter.line()}")):
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
