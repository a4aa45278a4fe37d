"""Counts and costs of a run that sends requests to an endpoint."""

import time
from collections import Counter
from dataclasses import dataclass, field

from data_prep.teachers.endpoint.budget import Budget, usd
from data_prep.teachers.endpoint.rate_limit import Pace
from data_prep.teachers.endpoint.replies import Reply


@dataclass
class Meter:
    """Counts of one run. Records are counted where they are written, requests where they are sent."""

    records: int = 0
    rejected: int = 0
    total: int = 0  # number of input records; 0 if unknown
    answered: int = 0
    from_ledger: int = 0
    failed: int = 0
    passing: int = 0  # of the failed, those that the endpoint did not refuse for good
    lost: int = 0  # requests without a readable reply, perhaps paid for
    throttled: int = 0
    uncertain: int = 0  # attempts of all runs that may have been charged without a usable reply
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wrappings: Counter[str] = field(default_factory=Counter)  # replies by what was removed, and those cut in reasoning
    waiting_for: str = ""  # further text for the progress line
    omitted: set[str] = field(default_factory=set)  # parameters that the requests go without
    budget: Budget | None = None
    paces: list[Pace] = field(default_factory=list)  # one for each endpoint
    started: float = field(default_factory=time.monotonic)

    def count_wrapping(self, reply: Reply) -> None:
        self.wrappings.update(reply.removed)
        self.wrappings["cut off in reasoning"] += reply.finish_reason == "unfinished"

    def add_earlier(self, part: "Meter") -> None:
        """Add the requests of an earlier part of the run, which the following part will read from the ledger."""
        for name in ("answered", "lost", "throttled", "uncertain", "prompt_tokens", "completion_tokens"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.from_ledger -= part.answered
        self.omitted |= part.omitted

    def line(self) -> str:
        """The progress line: records, requests, rates, cost and remaining time."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        parts = [f"{self.records}{f' of {self.total}' if self.total else ''} records, {self.rejected} rejected"]
        if self.budget:
            tokens = (self.prompt_tokens + self.completion_tokens) / seconds
            parts.append(f"{self.answered} requests, {self.failed} failed")
            parts.append(f"{self.answered / seconds:.1f} requests/s, {tokens:.0f} tokens/s")
            parts += [f"{sum(pace.in_flight for pace in self.paces)} in flight"] if self.paces else []
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
        """A summary of the requests, for the last line; empty if the run has no endpoint."""
        if not self.budget:
            return ""
        seconds = max(time.monotonic() - self.started, 1e-6)
        counts = {
            "from the ledger": max(0, self.from_ledger),
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
