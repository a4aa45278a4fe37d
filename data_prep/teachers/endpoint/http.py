"""The transport that sends each request on its own, with retries, rate limits and a budget.

It uses aiohttp, because the connection pool of the `openai` client handles only some hundreds of requests per second,
and fewer with many in flight.
"""

import asyncio
import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.teachers.base import TeacherConfig, api_key
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.budget import Budget
from data_prep.teachers.endpoint.ledger import Call, Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.rate_limit import Pace, back_off, retry_after
from data_prep.teachers.endpoint.replies import GARBLED, Reply, one_line
from data_prep.teachers.endpoint.transport import EXHAUSTED, HOPELESS, PASSING, Outgoing, Parameters, is_free, receive

# If an endpoint asks for a longer wait, the run ends: with the ledger, a later run costs nothing extra.
LONGEST_WAIT_SECONDS = 3600.0
# Limits are per minute: without a Retry-After header, retries go on for at least two minutes.
SECONDS_OF_429 = 120.0
# Open files other than connections: shards, the ledger, and Python's own.
OTHER_OPEN_FILES = 256
ACCOUNT_HEADERS = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}


@dataclass(frozen=True)
class Attempt:
    """The outcome of one attempt: a reply, or the reason for the failure, whether to retry and after how long."""

    reply: Reply | None = None
    reason: str = ""
    again: bool = True
    lasting: bool = False  # the endpoint refuses this request as such
    throttled: bool = False
    at_once: bool = False  # repeat it with other parameters, which counts as no failure
    wait_seconds: float | None = None


class Live:
    """The transport for an endpoint that answers immediately; see `Transport`."""

    def __init__(self, config: TeacherConfig, ledger: Ledger, budget: Budget, meter: Meter, pace: Pace | None = None):
        self.config, self.ledger, self.budget, self.meter = config, ledger, budget, meter
        self.pace = pace or Pace(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        if pace is None:
            meter.paces.append(self.pace)
        allow_connections(config.concurrency)
        self.url = f"{config.base_url.rstrip('/')}/chat/completions"
        self.key = api_key(config)
        self.parameters = Parameters(config.where, meter.omitted)
        self.on_the_wire: set[asyncio.Task[Any]] = set()
        self.ended: UserError | None = None  # the error after which nothing more is sent
        self.last_answer = float("-inf")  # in this run; without any answer, the endpoint is probably the wrong one
        self.lost_in_a_row = self.probes = 0
        self._session: Any = None

    async def send(self, outgoing: Outgoing, call: Call) -> Reply:
        failures = throttles = 0
        throttled_since = 0.0
        while True:
            attempt = await self._attempt(outgoing, before_others=failures + throttles > 0)
            if attempt.reply is not None:
                return attempt.reply
            if self.ended:
                raise UserError(str(self.ended))
            if attempt.throttled:
                throttled_since = throttled_since or time.monotonic()
                throttles += 1
                self._check_throttled(throttles, throttled_since, attempt)
            elif not attempt.at_once:
                failures += 1
            if not attempt.again or failures > self.config.max_retries:
                self._count_uncertain(await self.ledger.fail(outgoing.key))
                return Reply(attempt.reason, "error", self.config.model, lasting=attempt.lasting)
            if not attempt.at_once:
                await asyncio.sleep(attempt.wait_seconds or back_off(failures + throttles))

    def _check_throttled(self, count: int, since: float, attempt: Attempt) -> None:
        """Raise UserError if the endpoint has answered nothing but 429 during many retries of one request."""
        keep_waiting = attempt.wait_seconds is None and time.monotonic() - since < SECONDS_OF_429
        if count > self.config.max_retries and self.last_answer < since and not keep_waiting:
            self._stop(
                f"{self.config.where} still answered 429 after {count - 1} retries ({attempt.reason}): lower "
                "--concurrency or raise the account's limit; replies so far are not paid for again"
            )
            raise UserError(str(self.ended))

    async def _attempt(self, outgoing: Outgoing, before_others: bool) -> Attempt:
        tokens = outgoing.likely_tokens
        sent_at = await self.pace.enter(tokens, before_others)
        task = asyncio.current_task()
        assert task
        try:
            cost = self.budget.worst(outgoing.prompt_tokens, outgoing.max_tokens)
            await self.budget.reserve(cost)
            spent = 0.0
            try:
                if self.ended:
                    # A new instance: a shared one would accumulate thousands of traceback frames.
                    raise UserError(str(self.ended))
                self.on_the_wire.add(task)
                self._count_uncertain(await self.ledger.begin(outgoing.key, cost))
                spent = cost  # the upper bound, here and in the ledger, until the actual cost is known
                attempt, spent = await self._exchange(outgoing, sent_at, cost)
            finally:
                self.on_the_wire.discard(task)
                self.budget.settle(cost, spent)
        finally:
            self.pace.leave(tokens)
        return attempt

    async def _exchange(self, outgoing: Outgoing, sent_at: float, cost: float) -> tuple[Attempt, float]:
        """Send a request and record the response; the attempt and its cost, which is `cost` if it is unknown.

        An error that ends the run is in `self.ended` afterwards, for `send` to raise.
        """
        import aiohttp

        if self.ended:  # while the attempt was recorded
            return await self._free(outgoing, Attempt(reason=str(self.ended)))
        body = self.parameters.body(outgoing.body)
        try:
            # A redirect would carry the note to a host that nobody named.
            request = self._open().post(self.url, data=json.dumps(body).encode(), allow_redirects=False)
            async with request as response:
                status, headers = response.status, response.headers
                content = await response.read()
        except TimeoutError:
            return self._lost(outgoing, f"no response within {self.config.timeout_seconds:g} seconds", sent_at), cost
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:  # nothing was sent
            reason = self._scrubbed(one_line(error))
            if self.last_answer == float("-inf"):
                self._stop(f"cannot reach {self.config.base_url} ({reason}): check {self.config.flags.url}")
            return await self._free(outgoing, self._lost(outgoing, f"connection lost: {reason}", sent_at))
        except aiohttp.ClientError as error:
            return self._lost(outgoing, f"connection lost: {self._scrubbed(one_line(error))}", sent_at), cost
        self.pace.update_limits(headers, outgoing.likely_tokens)
        raw = self._scrubbed(content.decode("utf-8", errors="replace"))
        if status == 200:
            return await self._answered(outgoing, raw, sent_at, cost)
        if self.parameters.refused(status, raw, body):
            if self.budget.config.max_cost and not self.parameters.limits_tokens(body):
                self._stop(f"{self.config.where} takes no limit of tokens, so --max-cost cannot be kept")
            return await self._free(outgoing, Attempt(at_once=True))
        attempt = self._refused(outgoing, status, raw, headers, sent_at)
        return await self._free(outgoing, attempt) if is_free(status, raw) else (attempt, cost)

    async def _free(self, outgoing: Outgoing, attempt: Attempt) -> tuple[Attempt, float]:
        """An attempt that the endpoint has not charged, with its cost."""
        await self.ledger.take_back(outgoing.key)
        return attempt, 0.0

    async def _answered(self, outgoing: Outgoing, raw: str, sent_at: float, cost: float) -> tuple[Attempt, float]:
        await self.ledger.finish(outgoing.key, raw)
        reply, used = receive(raw, self.config.model, self.meter, self.budget)
        spent = cost if used is None else used
        if used is not None:
            self.ledger.settle(outgoing.key, used)
        if reply.finish_reason == "error":
            # A complete but unusable completion would be the same on a retry, so it is left to the next run.
            return self._lost(outgoing, reply.text, sent_at, again=reply.text.startswith(GARBLED)), spent
        self.meter.answered += 1
        self.last_answer = time.monotonic()
        self.lost_in_a_row = self.probes = 0
        self.pace.answered()
        return Attempt(reply), spent

    def _lost(self, outgoing: Outgoing, reason: str, sent_at: float, again: bool = True) -> Attempt:
        """An attempt without a reply. After many in a row, single requests probe whether the endpoint is back.

        A request that failed in an earlier run says nothing about the endpoint.
        """
        self.meter.lost += 1
        self.lost_in_a_row += not outgoing.failed_before
        if again and self.lost_in_a_row >= HOPELESS and sent_at > self.pace.suspected_at:
            self.probes += 1
            if self.probes > self.config.max_retries:
                self._stop(
                    f"{self.config.where}: {self.lost_in_a_row} requests in a row failed, the last with: {reason}; "
                    "replies so far are saved, run this again when the endpoint is working"
                )
            self.pace.suspect(back_off(self.probes))
        return Attempt(reason=reason, again=again)

    def _refused(
        self, outgoing: Outgoing, status: int, raw: str, headers: Mapping[str, str], sent_at: float
    ) -> Attempt:
        """The attempt that an error response answers. If the error ends the run, it is in `self.ended` afterwards."""
        reason, code = error_of(raw)
        wait = retry_after(headers)
        if problem := self._hopeless(status, reason, code, headers):
            self._stop(f"{self.config.where} answered {status}{problem}")
        elif status == 429:
            self.meter.throttled += 1
            self.pace.throttled(sent_at, wait or 0.0)
            return Attempt(reason=f"status 429: {reason}", throttled=True, wait_seconds=wait)
        elif status >= 500 or status in PASSING:
            return replace(self._lost(outgoing, f"status {status}: {reason}", sent_at), wait_seconds=wait)
        return Attempt(reason=f"status {status}: {reason}", again=False, lasting=status >= 400)

    def _hopeless(self, status: int, reason: str, code: str, headers: Mapping[str, str]) -> str:
        """The problem and its remedy, if every request would get this error response; otherwise empty."""
        if status in (401, 403):
            return f" ({reason}): check the key in {self.config.flags.key}"
        if 300 <= status < 400:
            target = self._scrubbed(one_line(headers.get("Location", "another address")))
            return f", a redirect to {target}: check {self.config.flags.url}"
        if status == 404:
            return f" ({reason}): check {self.config.flags.url} and {self.config.flags.model}"
        if status == 402 or (status == 429 and code in EXHAUSTED):
            return f" ({reason}): the quota is used up; replies so far are saved, raise it and run this again"
        wait = retry_after(headers) or 0.0
        if wait > LONGEST_WAIT_SECONDS:
            return f" and asks to wait {wait / 3600:.1f} hours: run this again after that"
        return ""

    def _stop(self, reason: str) -> None:
        """Send nothing more. If called twice, the first reason is kept."""
        self.ended = self.ended or UserError(reason)

    def _count_uncertain(self, uncertain: bool) -> None:
        self.meter.uncertain += uncertain

    def _scrubbed(self, text: str) -> str:
        # Some endpoints repeat a rejected key in their error message.
        return text.replace(self.key, "***") if self.key != "none" else text

    def _open(self) -> Any:
        import aiohttp

        if self._session is None:
            accounts = {header: os.environ[name] for name, header in ACCOUNT_HEADERS.items() if os.environ.get(name)}
            self._session = aiohttp.ClientSession(
                # Pace limits the connections; waiting for the connector's own limit would count towards the timeout.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=self.config.timeout_seconds),
                headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **accounts},
                # A proxy of the environment must not read what is meant for a host of the institution.
                proxy=self.config.proxy or None,
                trust_env=not self.config.proxy and not is_own_host(self.config.host),
            )
        return self._session

    def stop(self) -> None:
        self._stop("the run has ended")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def allow_connections(count: int) -> None:
    """Raise the limit of open files if needed, because a connection is an open file and the default is often 1,024.

    Raises UserError if the system's hard limit is too low.
    """
    wanted = count + OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserError(
            f"--concurrency {count}: this system allows {hard} open files; lower --concurrency, or raise ulimit -Hn"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def error_of(raw: str) -> tuple[str, str]:
    """The message of an endpoint's error, in one line, and its code."""
    try:
        error = json.loads(raw)["error"]
        return one_line(error["message"]), str(error.get("code") or error.get("type") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return one_line(raw) if raw.strip() else "no reason given", ""
