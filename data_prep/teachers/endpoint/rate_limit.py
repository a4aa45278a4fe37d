"""The rate of requests: as fast as the endpoint allows, and no faster.

The limit on requests in flight starts at `START`. From the first reply on it doubles every `RAMP_SECONDS` until the
first 429, because an endpoint refuses immediately, whereas replies may take minutes. After that, each round of replies
raises the limit a little, up to `--concurrency`, and each 429 halves it (once per round). Only a 429 lowers it, because
a lost reply says nothing about load. Buckets enforce the limits per minute of the command line and of the endpoint's
response headers. `Retry-After` pauses all requests, because a limit applies to the account, not to a request.
"""

import asyncio
import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from data_prep.execution.progress import say

START = 8
RAMP_SECONDS = 0.25
# A round adds one request, or this fraction of the ceiling if larger: with thousands in flight, steps of one would take
# hours.
FRACTION_ADDED = 1 / 64
BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 0.5, 60.0
# The share of a minute's limit that may be used at once, in seconds.
BURST_SECONDS = 5
# Pauses from this length on are explained, but short ones in a row only this often.
MENTIONED_SECONDS, SECONDS_BETWEEN_MENTIONS = 20.0, 600.0
# What a pause is for, in the order of `Pace._waits`; the number is the limit per minute.
REASONS = (
    "the endpoint asked for it, or seems to be down",
    "--requests-per-minute {:g}",
    "the endpoint's headers allow {:g} requests per minute",
    "--tokens-per-minute {:g}",
    "the endpoint's headers allow {:g} tokens per minute, prompts and --max-tokens together",
)

Clock = Callable[[], float]
DURATION = re.compile(r"([\d.]+)\s*(ms|s|m|h|d)?", re.IGNORECASE)
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Bucket:
    """A token bucket for a limit per minute. Without a limit it is always full."""

    def __init__(self, per_minute: float, now: float):
        self.limited, self.per_minute = per_minute > 0, per_minute
        # Burst and refill together equal the limit, so that no minute exceeds it.
        self.capacity = max(1.0, per_minute * BURST_SECONDS / 60)
        self.rate = max(per_minute - self.capacity, min(per_minute, 1.0)) / 60
        self.level, self.filled_at = self.capacity, now

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken. More than the capacity waits for a full bucket and leaves a debt."""
        if not self.limited:
            return 0.0
        self._fill(now)
        missing = min(amount, self.capacity) - self.level
        return max(0.0, missing / self.rate)

    def take(self, amount: float) -> None:
        self.level -= amount

    def update(self, limit: float, remaining: float, reset_seconds: float, in_flight: float, now: float) -> None:
        """Set the bucket to the endpoint's figures: `remaining` of `limit`, and full after `reset_seconds`.

        `in_flight` is subtracted, because the endpoint may not have counted it yet.
        """
        self.limited, self.per_minute, self.capacity, self.filled_at = True, limit, max(1.0, limit), now
        self.level = remaining - in_flight
        if reset_seconds > 0 and remaining < limit:
            self.rate = (limit - remaining) / reset_seconds
        else:
            self.rate = max(limit, 1.0) / 60

    def _fill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now


class Pace:
    """The rate limiter: `enter` before a request, `leave` after its response, and `answered` or `throttled`."""

    def __init__(
        self, ceiling: int, requests_per_minute: int = 0, tokens_per_minute: int = 0, clock: Clock = time.monotonic
    ):
        self.ceiling, self.clock = ceiling, clock
        self.limit = float(min(START, ceiling))
        self.in_flight = self.tokens_in_flight = 0
        self.doubling, self.probing = True, False
        self.cut_at = self.paused_until = self.suspected_at = self.next_mention = float("-inf")
        self.waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self.alarm: asyncio.TimerHandle | None = None
        self.ramp: asyncio.TimerHandle | None = None
        now = clock()
        self.requests = Bucket(requests_per_minute, now), Bucket(0, now)  # limits of the user and of the endpoint
        self.tokens = Bucket(tokens_per_minute, now), Bucket(0, now)

    async def enter(self, tokens: int, before_others: bool = False) -> float:
        """Wait for a turn and return its time. With `before_others`, for retries, the request goes to the front."""
        turn = asyncio.get_running_loop().create_future()
        (self.waiting.appendleft if before_others else self.waiting.append)((turn, tokens))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tokens)
            raise
        return self.clock()

    def leave(self, tokens: int) -> None:
        self.in_flight -= 1
        self.tokens_in_flight -= tokens
        self._admit()

    def answered(self) -> None:
        """Record a reply. The limit grows only if requests are waiting; otherwise it was not reached."""
        self.probing = False
        if self.doubling:
            self.ramp = self.ramp or asyncio.get_running_loop().call_later(RAMP_SECONDS, self._double)
        elif self.waiting:
            self.limit = min(self.ceiling, self.limit + max(1.0, self.ceiling * FRACTION_ADDED) / self.limit)

    def _double(self) -> None:
        if self.doubling and self.limit < self.ceiling:
            if self.waiting:
                self.limit = min(self.ceiling, 2 * self.limit)
                self._admit()
            self.ramp = asyncio.get_running_loop().call_later(RAMP_SECONDS, self._double)

    def throttled(self, sent_at: float, wait_seconds: float) -> None:
        """Record a 429 for a request that was sent at `sent_at`."""
        now = self.clock()
        # Requests sent before the last cut reflect the load before it.
        if sent_at > self.cut_at:
            self.doubling, self.cut_at = False, now
            self.limit = max(1.0, self.limit / 2)
        self.paused_until = max(self.paused_until, now + wait_seconds)

    def suspect(self, seconds: float) -> None:
        """Record that the endpoint seems to be down: after a pause, requests go out singly until one is answered."""
        self.probing, self.suspected_at = True, self.clock()
        self.paused_until = max(self.paused_until, self.suspected_at + seconds)

    def update_limits(self, headers: Mapping[str, str], tokens: int) -> None:
        """Apply the rate limits in the headers of a response, before `leave`, to a request of `tokens` tokens."""
        now = self.clock()
        # The endpoint has counted the request itself, but perhaps not the others in flight.
        in_flight = {"requests": self.in_flight - 1, "tokens": self.tokens_in_flight - tokens}
        for name, bucket in (("requests", self.requests[1]), ("tokens", self.tokens[1])):
            limit, remaining, reset = (
                seconds_of(headers.get(f"x-ratelimit-{field}-{name}", "")) for field in ("limit", "remaining", "reset")
            )
            # Some gateways say 0 for "no limit".
            if limit and remaining is not None:
                bucket.update(limit, remaining, reset or 0.0, in_flight[name], now)

    def _admit(self) -> None:
        now = self.clock()
        while self.waiting and self.in_flight < (1 if self.probing else int(self.limit)):
            turn, tokens = self.waiting[0]
            if not turn.done():
                waits = self._waits(tokens, now)
                if max(waits) > 0:
                    self._mention(waits, now)
                    self._wake_after(max(waits))
                    return
                for bucket in self.requests:
                    bucket.take(1)
                for bucket in self.tokens:
                    bucket.take(tokens)
                self.in_flight += 1
                self.tokens_in_flight += tokens
                turn.set_result(None)
            self.waiting.popleft()

    def _waits(self, tokens: int, now: float) -> list[float]:
        """The seconds that a request has to wait, for each of REASONS."""
        waits = [self.paused_until - now, *(bucket.seconds_until(1, now) for bucket in self.requests)]
        return waits + [bucket.seconds_until(tokens, now) for bucket in self.tokens]

    def _mention(self, waits: list[float], now: float) -> None:
        """Print why nothing is sent, if the pause is long."""
        seconds = max(waits)
        if seconds >= MENTIONED_SECONDS and now >= self.next_mention:
            self.next_mention = now + max(seconds, SECONDS_BETWEEN_MENTIONS)
            number = waits.index(seconds)
            limits = [0.0, *(bucket.per_minute for bucket in (*self.requests, *self.tokens))]
            say(f"sending nothing for {seconds:.0f} s: {REASONS[number].format(limits[number])}")

    def _wake_after(self, seconds: float) -> None:
        if self.alarm:
            self.alarm.cancel()
        # Slightly late: an early wake-up would find the bucket not quite full and have to be repeated.
        self.alarm = asyncio.get_running_loop().call_later(seconds + 0.001, self._admit)


def back_off(attempt: int) -> float:
    """Seconds to wait before attempt number `attempt` (from 1) is repeated.

    Exponential with full jitter, so that requests that failed together are not repeated together.
    """
    return random.uniform(0, min(LONGEST_BACK_OFF_SECONDS, BACK_OFF_SECONDS * 2**attempt))


def seconds_of(text: str) -> float | None:
    """The seconds in "20ms", "6m0s" or "1.5", where a number without a unit is in seconds; None for other texts."""
    parts = DURATION.findall(text)
    if not parts or DURATION.sub("", text).strip():
        return None
    try:
        seconds = sum(float(number) * SECONDS[unit.lower() or "s"] for number, unit in parts)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds that a response asks for: retry-after-ms, or Retry-After as a number or date.

    None if it asks for none: without a header, and also with 0 or a date in the past, which would mean no back-off.
    """
    milliseconds = seconds_of(headers.get("retry-after-ms", ""))
    if milliseconds:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = seconds_of(text)
    if seconds is None and text:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if seconds and seconds > 0 else None
