"""Web application of a study: addresses, access and security headers.

    /r/TOKEN                         a rater's first page
    /r/TOKEN/item/POSITION           an item; POST .../LABEL changes the verdict on one of its answers
    /r/TOKEN/time/POSITION           POST: seconds for which the item was visible, by the answer that was current
    /r/TOKEN/guess                   after the last item: which model wrote what; POST closes the scores, and saves
    /admin/TOKEN                     progress; ratings.csv and log.csv below it

A wrong link, another rater's item and a page that does not exist all return the same 404.
"""

import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asclepius_jax.evaluate.clinicians import guesses, ratings, store, views
from asclepius_jax.evaluate.clinicians.verdicts import changed
from data_prep.contract.errors import UserError

LARGEST_FORM = 64 * 1024  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def application(database: Path) -> Starlette:
    page = Page(database)
    routes = [
        Route("/r/{token}", quickly(page.start)),
        Route("/r/{token}/item/{position:int}", quickly(page.item)),
        Route("/r/{token}/item/{position:int}/{label}", changing(page.change), methods=["POST"]),
        Route("/r/{token}/time/{position:int}", changing(page.count_time), methods=["POST"]),
        Route("/r/{token}/guess", quickly(page.guess)),
        Route("/r/{token}/guess", changing(page.change_guess), methods=["POST"]),
        Route("/admin/{token}", quickly(page.administration)),
        Route("/admin/{token}/{table}.csv", quickly(page.table)),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
    ]
    handlers: dict[Any, Any] = {HTTPException: refusal, UserError: refusal}
    return Starlette(routes=routes, middleware=[Middleware(SafeHeaders)], exception_handlers=handlers)


class SafeHeaders:
    """Middleware that adds headers to every response: no external content, no caching, no framing."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
                message["headers"] = [*kept, *own.items()]
            await send(message)

        await self.app(scope, receive, send_safely)


def refusal(request: Request, error: Exception) -> Response:
    """Error in one line, as JSON for the page's script or as a page for a person."""
    if isinstance(error, HTTPException):
        status, text = error.status_code, "Not found." if error.status_code == 404 else error.detail
    elif isinstance(error, store.Busy):
        status, text = 503, "The study is in use by another program. Nothing was saved. Try again in a moment."
    else:
        status, text = 400, f"Not saved: {error}."
    if wants_json(request):
        return JSONResponse({"error": text}, status)
    return PlainTextResponse(text, status) if status == 404 else views.message(text, status)


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def quickly(function: Callable[[Request], Response]) -> Endpoint:
    """Endpoint that runs in a thread, because SQLite waits for the disk and would block the event loop."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(function, request)

    return endpoint


def changing(function: Callable[[Request, dict[str, str]], Response]) -> Endpoint:
    """Endpoint for a POST with a form. If a field is given twice, the last value counts."""

    async def endpoint(request: Request) -> Response:
        check_origin(request)
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_FORM:
            raise HTTPException(413, f"A form may have at most {LARGEST_FORM} bytes. Nothing was saved.")
        form = {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}
        return await run_in_threadpool(function, request, form)

    return endpoint


def check_origin(request: Request) -> None:
    """Refuse a POST from another site, as a second defence: a forger would need the personal link as well.

    Because of our own `no-referrer` header, browsers send "null" as the origin of a plain form. Sec-Fetch-Site decides
    if the browser sends it.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        allowed = site == "same-origin"
    else:
        allowed = origin is not None and origin.partition("://")[2] in (request.headers.get("host"), "")
        allowed = allowed and (origin == "null" or "://" in str(origin))
    if not allowed:
        raise HTTPException(403, "This form was sent from another site. Nothing was saved.")


class Page:
    """Endpoints of one study database."""

    def __init__(self, database: Path):
        self.database = database

    def start(self, request: Request) -> Response:
        with store.transaction(self.database) as db:
            rater = rater_of(db, request)
            items = store.items_of(db, rater["id"])
            made = guesses.guesses_of(db, rater["id"])
            closed = guesses.is_closed(db, rater["id"])
        return views.start_page(request.path_params["token"], rater["name"], items, made, closed)

    def item(self, request: Request) -> Response:
        token = request.path_params["token"]
        with store.transaction(self.database, write=True) as db:
            rater = rater_of(db, request)
            items = store.items_of(db, rater["id"])
            item = item_at(items, request)
            if waits_for_training(items, item):
                return RedirectResponse(f"/r/{token}", 303)
            question, reference = store.question_of(db, item), views.reference_of(db, item)
            store.opened(db, item, time.time())
        return views.item_page(token, items, item, question, reference)

    def change(self, request: Request, form: dict[str, str]) -> Response:
        token, label = request.path_params["token"], request.path_params["label"]
        with store.transaction(self.database, write=True) as db:
            rater = rater_of(db, request)
            items = store.items_of(db, rater["id"])
            item = item_at(items, request)
            answer = next((answer for answer in item.answers if answer.label == label), None)
            if answer is None:
                raise HTTPException(404)
            if waits_for_training(items, item):
                raise UserError("the training items come first")
            guesses.check_open(db, rater["id"])
            store.save(db, rater["name"], item, answer, changed(answer.draft, answer.text, form))
            items = store.items_of(db, rater["id"])
            question, reference = store.question_of(db, item), views.reference_of(db, item)
        # The transaction is committed, so the reply may say "saved".
        item = items[item.position - 1]
        if wants_json(request):
            return JSONResponse(views.after_change(items, item, label, question, reference))
        return RedirectResponse(f"/r/{token}/item/{item.position}#{label}", 303)

    def guess(self, request: Request) -> Response:
        token = request.path_params["token"]
        with store.transaction(self.database) as db:
            rater = rater_of(db, request)
            made = guesses.guesses_of(db, rater["id"])
            if not made or not guesses.is_closed(db, rater["id"]):
                return RedirectResponse(f"/r/{token}", 303)
            return views.guess_page(token, rater["name"], made, guesses.models_of(db))

    def change_guess(self, request: Request, form: dict[str, str]) -> Response:
        with store.transaction(self.database, write=True) as db:
            rater = rater_of(db, request)
            made = guesses.guesses_of(db, rater["id"])
            if not made:
                raise HTTPException(404)
            guesses.close(db, rater, store.items_of(db, rater["id"]))
            for guess in made:
                if model := form.get(str(guess.position), ""):
                    guesses.save(db, rater, guess, model)
        return RedirectResponse(f"/r/{request.path_params['token']}/guess", 303)

    def count_time(self, request: Request, form: dict[str, str]) -> Response:
        with store.transaction(self.database, write=True) as db:
            rater = rater_of(db, request)
            item = item_at(store.items_of(db, rater["id"]), request)
            seconds = {answer.label: seconds_of(form[answer.label]) for answer in item.answers if answer.label in form}
            store.add_seconds(db, item, seconds, time.time())
        return Response(status_code=204)

    def administration(self, request: Request) -> Response:
        with store.transaction(self.database) as db:
            check_administrator(db, request)
            return views.administration_page(db, request.path_params["token"])

    def table(self, request: Request) -> Response:
        tables = {"ratings": ratings.blinded_csv, "log": ratings.log_csv}
        name = request.path_params["table"]
        with store.transaction(self.database) as db:
            check_administrator(db, request)
            if name not in tables:
                raise HTTPException(404)
            text = tables[name](db)
        disposition = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=disposition)


def seconds_of(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UserError(f"seconds {text[:40]!r}: must be a number")
    return seconds


def rater_of(db: Any, request: Request) -> Any:
    rater = store.rater_with(db, request.path_params["token"])
    if rater is None:
        raise HTTPException(404)
    return rater


def check_administrator(db: Any, request: Request) -> None:
    if store.token_hash(request.path_params["token"]) != store.setting(db, "administrator_hash"):
        raise HTTPException(404)


def item_at(items: list[store.Item], request: Request) -> store.Item:
    position = request.path_params["position"]
    if not 1 <= position <= len(items):
        raise HTTPException(404)
    return items[position - 1]


def waits_for_training(items: list[store.Item], item: store.Item) -> bool:
    return item.kind != "training" and any(other.kind == "training" and not other.complete for other in items)
