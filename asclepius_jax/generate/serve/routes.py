"""Web application of `asclepius serve`: addresses, access, limits, and the way from a request to its response.

    POST /v1/chat/completions     GET /v1/models     GET /v1/models/NAME     GET /health

Texts of requests and answers are never logged.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asclepius_jax.generate import replica
from asclepius_jax.generate.serve.api_errors import OURS, ApiError, shortened
from asclepius_jax.generate.serve.chat_prompts import Prompts
from asclepius_jax.generate.serve.chat_reply import Reply, event
from asclepius_jax.generate.serve.chat_request import ChatRequest, read_chat_request
from asclepius_jax.generate.serve.engine_thread import Ended, EngineThread, Full, Job, Part
from asclepius_jax.generate.serve.token_text import TokenText
from data_prep.contract.errors import UserError

LARGEST_BODY = 4 * 1024 * 1024  # bytes; the longest context of a supported model is about 1 MB of text
SECONDS_OF_BODY = 60.0  # for the whole body to arrive
COMPLETIONS, MODELS, HEALTH = "/v1/chat/completions", "/v1/models", "/health"
CLIENT_GONE = 499  # as nginx logs it


@dataclass(frozen=True)
class Served:
    """The model that the application serves, with its name, key and prompts."""

    name: str
    key: str  # empty for none
    prompts: Prompts
    engine: EngineThread


def application(served: Served) -> ASGIApp:
    endpoints = Endpoints(served)
    routes = [
        Route(COMPLETIONS, endpoints.complete, methods=["POST"]),
        Route(MODELS, endpoints.models),
        Route(MODELS + "/{name:path}", endpoints.model),
        Route(HEALTH, endpoints.health),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: refused_address,
        ApiError: lambda _, error: error.response(),
        Exception: lambda *_: ApiError(OURS, status=500).response(),
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Outermost(app)


def refused_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        return ApiError(f"Not allowed: {where}", status=405, headers=error.headers).response()
    return ApiError(f"Invalid URL ({where})", status=error.status_code, headers=error.headers).response()


class Outermost:
    """Middleware that logs one line per request, and of errors of this program their place without their text."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, complete = time.monotonic(), 0, False

        async def send_counted(message: Message) -> None:
            nonlocal status, complete
            status = message.get("status", status)
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - its text may quote a prompt
            last = traceback.extract_tb(error.__traceback__)[-1]
            log(f"error {type(error).__name__} in {last.filename}:{last.lineno}")
            if not complete:
                raise ClosedEarly from None
        finally:
            known = scope["path"] in (COMPLETIONS, MODELS, HEALTH)
            shown = scope["path"] if known else "another address"
            log(f"{scope['method'][:10]} {shown} {status or CLIENT_GONE} {time.monotonic() - start:.2f} s")


class ClosedEarly(Exception):
    """The response has begun and cannot be completed: the server closes the connection."""


def log(line: str) -> None:
    print(line, flush=True)


class Endpoints:
    def __init__(self, served: Served):
        self.served = served
        self.created = int(time.time())
        # Prompts are written one at a time, because a tokenizer of transformers is not safe for use by several threads.
        self.writer = ThreadPoolExecutor(1, "prompts")

    async def health(self, request: Request) -> Response:
        status = self.served.engine.health()
        return JSONResponse(status, 200 if status["status"] == "ready" else 503)

    async def models(self, request: Request) -> Response:
        self.check_key(request)
        return JSONResponse({"object": "list", "data": [self.card()]})

    async def model(self, request: Request) -> Response:
        self.check_key(request)
        if (name := request.path_params["name"]) != self.served.name:
            raise ApiError(f"The model {shortened(name)} does not exist.", "model", "model_not_found", 404)
        return JSONResponse(self.card())

    def card(self) -> dict[str, Any]:
        return {"id": self.served.name, "object": "model", "created": self.created, "owned_by": "asclepius-jax"}

    def check_key(self, request: Request) -> None:
        """Raise ApiError unless the request has the key. Hashes have one length, and are compared in constant time."""
        if not self.served.key:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        wanted = f"Bearer {self.served.key}".encode("latin-1")
        if not hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest()):
            raise ApiError(
                "Incorrect API key provided.", code="invalid_api_key", status=401,
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def complete(self, request: Request) -> "Response | EventStream":
        self.check_key(request)
        raw = await read_body(request)
        loop = asyncio.get_running_loop()
        asked, prompt = await loop.run_in_executor(self.writer, self.read, raw)
        inbox: asyncio.Queue[Part | Exception] = asyncio.Queue()
        jobs = self.jobs(asked, prompt, lambda part: loop.call_soon_threadsafe(inbox.put_nowait, part))
        self.submit(jobs)
        answering = Answering(self.served.engine, jobs, inbox)
        reply = Reply(asked, self.served.name, len(prompt), self.served.engine.vocabulary)
        if asked.stream:
            return EventStream(answering, reply)
        try:
            return JSONResponse(reply.whole([part async for part in answering.parts(request.receive)]))
        finally:
            answering.close()

    def read(self, raw: bytes) -> tuple[ChatRequest, list[int]]:
        """A request and the tokens of its prompt. Raises ApiError."""
        asked = read_chat_request(raw, self.served.name, self.served.engine.most_open)
        try:
            return asked, self.served.prompts.ids(asked.messages)
        except UserError as error:
            raise ApiError(str(error), "messages", "invalid_value") from error

    def jobs(self, asked: ChatRequest, prompt: list[int], deliver: Callable[[Any], Any]) -> list[Job]:
        """One job per sample. Raises ApiError if prompt and answer are longer than the model or its cache takes."""
        thread = self.served.engine
        # The last token that is drawn is never read, and needs no place in the cache.
        longest = min(thread.engine.max_length, thread.engine.replicas[0].num_pages * replica.PAGE + 1)
        room = longest - len(prompt)
        new = room if asked.max_tokens is None else asked.max_tokens
        if not prompt:
            raise ApiError("The messages give an empty prompt.", "messages", "invalid_value")
        if not 1 <= new <= room:
            wanted = "" if asked.max_tokens is None else f" and {asked.max_tokens} in the completion"
            raise ApiError(
                f"This model's maximum context length is {longest} tokens. However, you requested {len(prompt)} tokens "
                f"in the messages{wanted}. Please reduce the length of the messages or the completion.",
                "messages", "context_length_exceeded",
            )  # fmt: skip
        sampling = (asked.temperature, asked.top_p)
        requests = [
            replica.Request(tuple(prompt), new, *sampling, asked.key(sample), asked.top_logprobs)
            for sample in range(asked.samples)
        ]
        return [
            Job(request, TokenText(thread.vocabulary, asked.stops), deliver, sample, asked.stream)
            for sample, request in enumerate(requests)
        ]

    def submit(self, jobs: list[Job]) -> None:
        try:
            self.served.engine.submit(jobs)
        except Full as error:
            raise ApiError(
                "Too many requests are waiting; please try again later.", code="rate_limit_exceeded", status=429,
                headers={"Retry-After": "1"},
            ) from error  # fmt: skip
        except Ended as error:
            raise ending() from error


def ending() -> ApiError:
    return ApiError(
        "The server is ending; please try again later.", code="unavailable", status=503, headers={"Retry-After": "10"}
    )


async def read_body(request: Request) -> bytes:
    too_large = ApiError(f"The body of a request may have at most {LARGEST_BODY} bytes.", status=413)
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_OF_BODY):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise too_large
    except TimeoutError as error:
        raise ApiError("The body of the request did not arrive in time.", status=408) from error
    return bytes(body)


class Answering:
    """The jobs of one request while its client waits."""

    def __init__(self, engine: EngineThread, jobs: list[Job], inbox: "asyncio.Queue[Part | Exception]"):
        self.engine, self.jobs, self.inbox = engine, jobs, inbox

    def close(self) -> None:
        """Free the slots of what is not finished, because the client has gone or the server ends."""
        self.engine.cancel(self.jobs)

    async def parts(self, receive: Receive) -> AsyncGenerator[Part, None]:
        """The parts of all samples. Raises ClientDisconnect if the client leaves, and ApiError if the engine ends."""
        gone = asyncio.ensure_future(disconnected(receive))
        left = len(self.jobs)
        try:
            while left:
                coming = asyncio.ensure_future(self.inbox.get())
                await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    raise ClientDisconnect
                part = coming.result()
                if isinstance(part, Exception):
                    raise ending() from part
                left -= bool(part.finish)
                yield part
        finally:
            gone.cancel()


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """Response of server-sent events with the chunks of a completion. A slow reader delays its own events alone."""

    def __init__(self, answering: Answering, reply: Reply):
        self.answering, self.reply = answering, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for chunk in self.chunks(receive):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.answering.close()

    async def chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        for chunk in self.reply.first_chunks():
            yield chunk
        finished = []
        try:
            async with contextlib.aclosing(self.answering.parts(receive)) as parts:
                async for part in parts:
                    for chunk in self.reply.chunks(part):
                        yield chunk
                    if part.finish:
                        finished.append(part)
        except ApiError as error:
            yield event(error.body())
            return
        for chunk in self.reply.last_chunks(finished):
            yield chunk
