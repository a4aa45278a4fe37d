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
from data_prep.teachers.base import KEY_VARIABLE, TeacherConfig, api_key
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.budget import Budget
from data_prep.teachers.endpoint.ledger import Call, Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.endpoint.rate_limit import Pace, back_off, retry_after
from data_prep.teachers.endpoint.replies import GARBLED, Reply, one_line
from data_prep.teachers.endpoint.transport import EXHAUSTED, HOPELESS, PASSING, Outgoing, Parameters, receive

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
    throttled: bool = False
    at_once: bool = False  # repeat it with other parameters, which counts as no failure
    wait_seconds: float | None = None


class Live:
    """The transport for an endpoint that answers immediately; see `Transport`."""

    def __init__(self, config: TeacherConfig, ledger: Ledger, budget: Budget, meter: Meter):
        self.config, self.ledger, self.budget, self.meter = config, ledger, budget, meter
        self.pace = Pace(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        meter.pace = self.pace
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
                await self.ledger.fail(outgoing.key)
                return Reply(attempt.reason, "error", self.config.model)
            if not attempt.at_once:
                await asyncio.sleep(attempt.wait_seconds or back_off(failures + throttles))

    def _check_throttled(self, count: int, since: float, attempt: Attempt) -> None:
        """Raise UserError if the endpoint has answered nothing but 429 during many retries of one request."""
        keep_waiting = attempt.wait_seconds is None and time.monotonic() - since < SECONDS_OF_429
        if count > self.config.max_retries and self.last_answer < since and not keep_waiting:
            raise self._fatal(
                f"{self.config.where} still answered 429 after {count - 1} retries ({attempt.reason}): lower "
                "--concurrency or raise the account's limit; replies so far are not paid for again"
            )

    async def _attempt(self, outgoing: Outgoing, before_others: bool) -> Attempt:
        tokens = outgoing.likely_tokens
        sent_at = await self.pace.enter(tokens, before_others)
        task = asyncio.current_task()
        assert task
        try:
            cost = self.budget.worst(outgoing.prompt_tokens, outgoing.max_tokens)
            await self.budget.reserve(cost)
            spent = cost  # the upper bound, until the actual cost is known
            try:
                if self.ended:
                    raise UserError(
                        str(self.ended)
                    )  # a new instance: a shared one would accumulate thousands of traceback frames
                self.on_the_wire.add(task)
                await self.ledger.begin(outgoing.key, cost)
                attempt, spent = await self._exchange(outgoing, sent_at, cost)
            except UserError:
                spent = 0.0  # the endpoint refused the request or was never reached
                raise
            finally:
                self.on_the_wire.discard(task)
                self.budget.settle(cost, spent)
                if spent != cost:
                    self.ledger.settle(outgoing.key, spent)
        finally:
            self.pace.leave(tokens)
        return attempt

    async def _exchange(self, outgoing: Outgoing, sent_at: float, cost: float) -> tuple[Attempt, float]:
        """Send a request and record the response; the attempt and its cost, which is `cost` if it is unknown."""
        import aiohttp

        body = self.parameters.body(outgoing.body)
        try:
            # A redirect would carry the note to a host that nobody named.
            request = self._open().post(self.url, data=json.dumps(body).encode(), allow_redirects=False)
            async with request as response:
                status, headers = response.status, response.headers
                content = await response.read()
        except TimeoutError:
            return self._lost(f"no response within {self.config.timeout_seconds:g} seconds", sent_at), cost
        except aiohttp.ClientError as error:
            reason = self._scrubbed(one_line(error))
            if isinstance(error, aiohttp.ClientConnectorError):
                await self.ledger.fail(outgoing.key, "planned")
                if self.last_answer == float("-inf"):
                    raise self._fatal(f"cannot reach {self.config.base_url} ({reason}): check --base-url") from error
                return self._lost(f"connection lost: {reason}", sent_at), 0.0
            return self._lost(f"connection lost: {reason}", sent_at), cost
        self.pace.update_limits(headers, outgoing.likely_tokens)
        raw = self._scrubbed(content.decode("utf-8", errors="replace"))
        if status != 200:
            # The endpoint did not process the request, so it costs nothing.
            await self.ledger.fail(outgoing.key, "planned")
            if self.parameters.refused(status, raw, body):
                if self.budget.config.max_cost and not self.parameters.limits_tokens(body):
                    raise self._fatal(f"{self.config.where} takes no limit of tokens, so --max-cost cannot be kept")
                return Attempt(at_once=True), 0.0
            return self._refused(status, raw, headers, sent_at), 0.0
        await self.ledger.finish(outgoing.key, raw)
        reply, used = receive(raw, self.config.model, self.meter)
        spent = cost if used is None else used
        if reply.finish_reason == "error":
            # A complete but unusable completion would be the same on a retry, so it is left to the next run.
            return self._lost(reply.text, sent_at, again=reply.text.startswith(GARBLED)), spent
        self.meter.answered += 1
        self.last_answer = time.monotonic()
        self.lost_in_a_row = self.probes = 0
        self.pace.answered()
        return Attempt(reply), spent

    def _lost(self, reason: str, sent_at: float, again: bool = True) -> Attempt:
        """An attempt without a reply. After many in a row, single requests probe whether the endpoint is back."""
        self.meter.lost += 1
        self.lost_in_a_row += 1
        if again and self.lost_in_a_row >= HOPELESS and sent_at > self.pace.suspected_at:
            self.probes += 1
            if self.probes > self.config.max_retries:
                # `send` raises the error, after this request, which may have been paid for, is charged.
                self._stop(
                    f"{self.config.where}: {self.lost_in_a_row} requests in a row failed, the last with: {reason}; "
                    "replies so far are saved, run this again when the endpoint is working"
                )
            self.pace.suspect(back_off(self.probes))
        return Attempt(reason=reason, again=again)

    def _refused(self, status: int, raw: str, headers: Mapping[str, str], sent_at: float) -> Attempt:
        reason, code = error_of(raw)
        wait = retry_after(headers)
        where = self.config.where
        if status in (401, 403):
            raise self._fatal(f"{where} answered {status} ({reason}): check the key in {KEY_VARIABLE}")
        if 300 <= status < 400:
            target = self._scrubbed(one_line(headers.get("Location", "another address")))
            raise self._fatal(f"{where} answered {status}, a redirect to {target}: check --base-url")
        if status == 404:
            raise self._fatal(f"{where} answered 404 ({reason}): check --base-url and --model")
        if status == 402 or (status == 429 and code in EXHAUSTED):
            raise self._fatal(
                f"{where} answered {status} ({reason}): the quota is used up; replies so far are saved, raise it and "
                "run this again"
            )
        if wait is not None and wait > LONGEST_WAIT_SECONDS:
            raise self._fatal(
                f"{where} answered {status} and asks to wait {wait / 3600:.1f} hours: run this again after that"
            )
        if status == 429:
            self.meter.throttled += 1
            self.pace.throttled(sent_at, wait or 0.0)
            return Attempt(reason=f"status 429: {reason}", throttled=True, wait_seconds=wait)
        if status < 500 and status not in PASSING:
            return Attempt(reason=f"status {status}: {reason}", again=False)
        return replace(self._lost(f"status {status}: {reason}", sent_at), wait_seconds=wait)

    def _stop(self, reason: str) -> None:
        """Send nothing more. If called twice, the first reason is kept."""
        self.ended = self.ended or UserError(reason)

    def _fatal(self, reason: str) -> UserError:
        """Send nothing more, and return the error to raise."""
        self._stop(reason)
        assert self.ended
        return self.ended

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
