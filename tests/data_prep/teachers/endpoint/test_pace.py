"""How fast an endpoint is asked: up while it bears it, halved by a 429, never above a limit a minute."""

import asyncio
import email.utils
import itertools
import re
import time

import pytest

from data_prep.teachers.endpoint import rate_limit as pace_module
from data_prep.teachers.endpoint.rate_limit import START, Bucket, Pace, back_off, retry_after, seconds_of


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def round_of(pace, throttled=0):
    """As many requests as may be in flight, all answered or throttled together; how many they were."""
    waiting = [asyncio.ensure_future(pace.enter(10)) for _ in range(2 * pace.ceiling)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sent = [task for task in waiting if task.done()]
    for number, task in enumerate(sent):
        if number < throttled:
            pace.throttled(task.result(), 0.0)
        else:
            pace.answered()
    for task in waiting:
        if not task.done():
            task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for _ in sent:
        pace.leave(10)
    return len(sent)


def rounds(pace, clock, plan):
    async def go():
        sizes = []
        for throttled in plan:
            sizes.append(await round_of(pace, throttled))
            clock.now += 1
        return sizes

    return asyncio.run(go())


def test_it_starts_low_and_doubles_from_the_first_reply_until_the_first_429(monkeypatch):
    """An endpoint that takes long: all that was sent is still in flight, and no 429 has come."""
    monkeypatch.setattr(pace_module, "RAMP_SECONDS", 0.05)

    async def go():
        pace = Pace(100)
        waiting = [asyncio.ensure_future(pace.enter(1)) for _ in range(200)]
        await asyncio.sleep(0.12)
        sizes = [pace.in_flight]
        pace.answered()
        for _ in range(3):
            await asyncio.sleep(0.05)
            sizes.append(pace.in_flight)
        pace.throttled(waiting[0].result(), 0.0)
        await asyncio.sleep(0.12)
        sizes.append(int(pace.limit))
        for task in waiting:
            task.cancel()
        return sizes

    sizes = asyncio.run(go())
    assert sizes[0] == START, "nothing was answered, so nothing is known"
    assert sizes[1:4] in ([8, 16, 32], [16, 32, 64])
    assert sizes[4] == max(1, sizes[3] // 2)


def test_a_429_halves_it_once_a_round_and_then_it_grows_by_a_little():
    clock = Clock()
    pace = Pace(64, clock=clock)
    pace.limit = 64.0
    sizes = rounds(pace, clock, [20, 0, 0, 0])
    # Twenty 429s of one round halve it once, to 32; the 44 that were answered add a little.
    assert sizes[0] == 64
    assert 32 <= sizes[1] <= 34
    assert [late - early for early, late in itertools.pairwise(sizes[1:])] == [1, 1]


def test_a_large_ceiling_is_reached_again_in_minutes():
    clock = Clock()
    pace = Pace(1024, clock=clock)
    pace.limit, pace.doubling = 512.0, False
    sizes = rounds(pace, clock, [0] * 35)
    assert sizes[0] == 512
    assert sizes[-1] == 1024


def test_nothing_but_a_429_makes_it_smaller():
    clock = Clock()
    pace = Pace(64, clock=clock)
    pace.limit = before = 40.0
    pace.suspect(0.5)
    assert pace.limit == before
    # While the endpoint seems down, one at a time finds out.
    clock.now += 1
    assert rounds(pace, clock, [0]) == [1]
    assert rounds(pace, clock, [0])[0] == 40


def test_idle_slots_prove_nothing(monkeypatch):
    monkeypatch.setattr(pace_module, "RAMP_SECONDS", 0.01)

    async def go():
        pace = Pace(64)
        for _ in range(50):
            await pace.enter(1)
            pace.answered()
            pace.leave(1)
            await asyncio.sleep(0.002)
        return pace.limit

    assert asyncio.run(go()) == START


def test_a_pause_holds_up_everything():
    async def go():
        pace = Pace(8)
        pace.throttled(await pace.enter(1), 0.2)
        pace.leave(1)
        started = time.monotonic()
        await asyncio.gather(*(pace.enter(1) for _ in range(4)))
        return time.monotonic() - started

    assert 0.19 <= asyncio.run(go()) < 3


def test_a_turn_that_is_cancelled_is_given_back():
    async def go():
        pace = Pace(1)
        await pace.enter(5)
        second = asyncio.ensure_future(pace.enter(5))
        await asyncio.sleep(0)
        pace.leave(5)  # the turn is the second's now, but it has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (pace.in_flight, pace.tokens_in_flight) == (0, 0)
        await asyncio.wait_for(pace.enter(5), 1)

    asyncio.run(go())


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 500, 10_000])
def test_no_minute_holds_more_than_the_limit(per_minute):
    now, bucket, taken = 0.0, Bucket(per_minute, 0.0), []
    while now < 240 and len(taken) < 45_000:
        wait = bucket.seconds_until(1, now)
        if wait:
            now += wait + 1e-6
            continue
        bucket.take(1)
        taken.append(now)
    most = max(sum(start <= moment < start + 60 for moment in taken) for start in taken[:: max(1, len(taken) // 50)])
    assert most <= max(per_minute, 2)
    # And the limit is used: over four minutes nine tenths of it, or one a minute less.
    assert len(taken) >= 4 * min(0.9 * per_minute, per_minute - 1)


def test_a_request_that_is_larger_than_the_bucket_is_let_through_and_paid_off():
    bucket = Bucket(600, 0.0)  # a burst of 50
    assert bucket.seconds_until(500, 0.0) == 0
    bucket.take(500)
    wait = bucket.seconds_until(500, 0.0)
    assert 50 < wait < 60


def test_the_endpoints_headers_are_heeded():
    async def go():
        pace = Pace(64)
        await pace.enter(10)
        pace.update_limits(
            {
                "x-ratelimit-limit-requests": "100",
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-requests": "9.7s",
            },
            10,
        )
        pace.leave(10)
        started = time.monotonic()
        for _ in range(4):
            await pace.enter(10)
        # Three at once; 97 in 9.7 seconds are ten a second, so the fourth has to wait for a tenth.
        return time.monotonic() - started

    assert 0.08 < asyncio.run(go()) < 2


def test_tokens_that_are_gone_hold_requests_up():
    async def go():
        pace = Pace(64)
        await pace.enter(200)
        await pace.enter(300)
        told = {"limit": "1000", "remaining": "400", "reset": "600ms"}
        pace.update_limits({f"x-ratelimit-{name}-tokens": value for name, value in told.items()}, 200)
        started = time.monotonic()
        await pace.enter(200)
        return time.monotonic() - started

    # 300 of the 400 may be needed by the other on its way: a hundred short, at a thousand a second.
    assert 0.09 < asyncio.run(go()) < 2


async def held_up(pace, headers, tokens=2500):
    """Whether a request has to wait after another was answered with these headers."""
    await pace.enter(tokens)
    pace.update_limits(headers, tokens)
    pace.leave(tokens)
    waiting = asyncio.ensure_future(pace.enter(tokens))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return waiting.cancelled()


@pytest.mark.parametrize("name", ["requests", "tokens"])
@pytest.mark.parametrize("limit", ["0", "0.0", "-1", "unlimited", ""])
def test_a_limit_that_is_none_holds_nothing_up(name, limit):
    told = {
        f"x-ratelimit-limit-{name}": limit,
        f"x-ratelimit-remaining-{name}": "0",
        f"x-ratelimit-reset-{name}": "60s",
    }
    assert not asyncio.run(held_up(Pace(8), told))


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"limit-tokens": "1", "remaining-tokens": "0"}, "headers allow 1 tokens per minute"),
        ({"limit-tokens": "9000", "remaining-tokens": "0", "reset-tokens": "2h"}, "headers allow 9000 tokens per"),
        ({"limit-requests": "50", "remaining-requests": "0", "reset-requests": "1d"}, "headers allow 50 requests per"),
    ],
)
def test_a_limit_that_holds_up_a_run_is_named_once(capsys, headers, says):
    async def go():
        pace = Pace(8)
        told = {f"x-ratelimit-{name}": value for name, value in headers.items()}
        waited = await held_up(pace, told)
        await asyncio.gather(*(asyncio.wait_for(pace.enter(2500), 0.01) for _ in range(3)), return_exceptions=True)
        return waited

    assert asyncio.run(go())
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert says in told[0]


def test_the_users_own_limit_is_named_too(capsys):
    async def go():
        pace = Pace(8, requests_per_minute=1)
        await pace.enter(1)
        waiting = asyncio.ensure_future(pace.enter(1))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(go())
    assert re.fullmatch(r"sending nothing for \d+ s: --requests-per-minute 1\n", capsys.readouterr().err)


def test_durations_as_endpoints_write_them():
    told = {
        "20ms": 0.02,
        "1s": 1,
        "6m0s": 360,
        "1h2m3s": 3723,
        "59.5": 59.5,
        "0": 0,
        "": None,
        "soon": None,
        "1.2.3": None,
    }
    assert {text: seconds_of(text) for text in told} == told


def test_retry_after_in_its_three_spellings():
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    seconds = retry_after({"retry-after": later})
    assert seconds is not None
    assert 28 < seconds <= 30
    assert retry_after({}) is None
    assert retry_after({"retry-after": "presently"}) is None


def test_back_off_has_full_jitter_and_an_end():
    waits = [back_off(3) for _ in range(500)]
    assert min(waits) < 0.4
    assert 3.5 < max(waits) <= 4
    assert max(back_off(40) for _ in range(500)) <= 60
