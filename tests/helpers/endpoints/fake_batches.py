"""OpenAI's Batch API on 127.0.0.1, as far as a client can tell: files, batches, and counts that are not to be believed.

A context manager. `answer(body, number)` gets a line's request and says where it ends: ("output" or "error", line), or
None for a request that is in neither file.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.helpers.endpoints.fake_endpoint import completion

Line = dict[str, Any]
Told = tuple[str, Line] | None


def good(body: dict[str, Any], text: str, finish_reason: str = "stop") -> Told:
    answer = json.loads(completion(text, finish_reason)[2])
    answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return "output", {"response": {"status_code": 200, "body": answer}, "error": None}


def bad(status: int, code: str) -> Told:
    error = {"message": f"told to say {status}", "code": code}
    return "error", {"response": {"status_code": status, "body": {"error": error}}, "error": None}


EXPIRED: Told = ("error", {"response": None, "error": {"code": "batch_expired", "message": "not in time"}})


class FakeBatches:
    def __init__(self, answer: Callable[[dict[str, Any], int], Told], polls: int = 1):
        self.answer, self.polls = answer, polls
        self.files: dict[str, bytes] = {}  # that are there
        self.uploaded: dict[str, bytes] = {}  # in all the time
        self.names: dict[str, str] = {}
        self.batches: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []  # of all batches
        self.fail_with: list[str | list[Line]] = []  # codes or errors of batches that fail as a whole, taken first
        self.most_queued = 10**9  # lines of all batches that wait or are worked on
        self.cut: list[str] = []  # how to damage the next downloads: "short", "broken" or "html", taken first
        self.states_sizes = True
        self.deleted: list[str] = []
        self.refuse_polls = False
        self.name_files_late = 0  # how many polls of a batch that has ended do not name its files yet
        self.refuse_delete = 0  # how many deletions to answer with 500
        self.hold_created = threading.Event()  # until it is set, nobody hears that a batch was created
        self.hold_created.set()
        self.refuse_create = 0  # how many creations to answer with 500 before anything is created
        self.calls = 0  # of the API
        self.pages: set[int] = set()  # numbers of calls that a gateway answers with a page and status 200
        self.on_call: Callable[[int], None] = lambda number: None
        self.created, self.polled = threading.Event(), threading.Event()
        self.keys: set[str] = set()
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> "FakeBatches":
        started = threading.Event()
        threading.Thread(target=self.serve, args=(started,), daemon=True).start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold_created.set()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def serve(self, started: threading.Event) -> None:
        async def start() -> None:
            app = web.Application(client_max_size=2**28, middlewares=[self.count])
            app.router.add_post("/v1/files", self.upload)
            app.router.add_get("/v1/files", self.list_files)
            app.router.add_get("/v1/files/{id}", self.file)
            app.router.add_delete("/v1/files/{id}", self.delete)
            app.router.add_get("/v1/files/{id}/content", self.content)
            app.router.add_post("/v1/batches", self.create)
            app.router.add_get("/v1/batches", self.list_all)
            app.router.add_get("/v1/batches/{id}", self.retrieve)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            started.set()

        asyncio.set_event_loop(self.loop)
        self.loop.create_task(start())
        self.loop.run_forever()

    @web.middleware
    async def count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls += 1
        self.on_call(self.calls)
        if self.calls in self.pages:
            return web.Response(text="<html>One moment, please</html>", content_type="text/html")
        return await handler(request)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        name = f"file-{len(self.uploaded)}"
        self.files[name] = self.uploaded[name] = form["file"].file.read()  # type: ignore[union-attr]
        self.names[name] = form["file"].filename  # type: ignore[union-attr]
        return web.json_response(self.described(name))

    def described(self, name: str) -> dict[str, Any]:
        size = {"bytes": len(self.files[name])} if self.states_sizes else {}
        return {"id": name, "object": "file", "purpose": "batch", "filename": self.names.get(name, name), **size}

    def missing(self, request: web.Request) -> web.Response | None:
        if request.match_info["id"] in self.files:
            return None
        return web.json_response({"error": {"message": "No such File object"}}, status=404)

    async def list_files(self, request: web.Request) -> web.Response:
        found = [self.described(name) for name in self.files]
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def file(self, request: web.Request) -> web.Response:
        return self.missing(request) or web.json_response(self.described(request.match_info["id"]))

    async def delete(self, request: web.Request) -> web.Response:
        if self.refuse_delete:
            self.refuse_delete -= 1
            return web.json_response({"error": {"message": "told to say 500"}}, status=500)
        if missing := self.missing(request):
            return missing
        name = request.match_info["id"]
        del self.files[name]
        self.deleted.append(name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def content(self, request: web.Request) -> web.StreamResponse:
        if missing := self.missing(request):
            return missing
        body = self.files[request.match_info["id"]]
        damage = self.cut.pop(0) if self.cut else ""
        if not damage:
            return web.Response(body=body)
        if damage == "html":
            return web.Response(text="<html>One moment, please</html>", content_type="text/html")
        half = body[: len(body) // 2]
        length = "" if damage == "short" else f"Content-Length: {len(body)}\r\n"
        assert request.transport is not None
        request.transport.write(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode() + half)
        request.transport.close()
        return web.Response()

    async def create(self, request: web.Request) -> web.Response:
        if self.refuse_create:
            self.refuse_create -= 1
            return web.json_response({"error": {"message": "told to say 500"}}, status=500)
        asked = await request.json()
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        self.keys.add(request.headers["Authorization"])
        batch = {
            "id": f"batch-{len(self.batches)}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "completion_window": "24h",
            "created_at": len(self.batches),
            "input_file_id": asked["input_file_id"],
            "metadata": asked["metadata"],
            "status": "in_progress",
            "polls": self.polls,
        }
        queued = sum(map(self.lines, (each for each in self.batches if each["status"] == "in_progress")))
        batch["fits"] = queued + self.lines(batch) <= self.most_queued
        self.batches.append(batch)
        self.created.set()
        while not self.hold_created.is_set():
            await asyncio.sleep(0.01)
        return web.json_response(batch)

    async def list_all(self, request: web.Request) -> web.Response:
        """Two a page, newest first, as the real one pages by a hundred."""
        newest = self.batches[::-1]
        after = request.query.get("after")
        start = 1 + next(i for i, batch in enumerate(newest) if batch["id"] == after) if after else 0
        page = newest[start : start + 2]
        return web.json_response(
            {
                "object": "list",
                "data": page,
                "has_more": start + 2 < len(newest),
                "last_id": page[-1]["id"] if page else "",
            }
        )

    async def retrieve(self, request: web.Request) -> web.Response:
        batch = next(batch for batch in self.batches if batch["id"] == request.match_info["id"])
        self.polled.set()
        if self.refuse_polls:
            return web.json_response({"error": {"message": "told to say 401"}}, status=401)
        batch["polls"] -= 1
        if batch["polls"] < 0 and batch["status"] == "in_progress":
            self.work(batch)
        if batch["status"] == "completed" and self.name_files_late:
            self.name_files_late -= 1
            return web.json_response({**batch, "output_file_id": None, "error_file_id": None})
        return web.json_response(batch)

    def work(self, batch: dict[str, Any]) -> None:
        told = "token_limit_exceeded" if not batch["fits"] else self.fail_with.pop(0) if self.fail_with else ""
        if told:
            problems = [{"code": told, "message": f"told to say {told}"}] if isinstance(told, str) else told
            batch |= {"status": "failed", "errors": {"object": "list", "data": problems}}
            return
        lines: dict[str, list[bytes]] = {"output": [], "error": []}
        asked = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        for line in asked[::-1]:  # the order of an output file is not that of its input
            number = len(self.requests)
            self.requests.append(line["body"])
            told = self.answer(line["body"], number)
            if told:
                row = {"id": f"row-{number}", "custom_id": line["custom_id"], **told[1]}
                # Half a surrogate pair is escaped, as JSON may.
                lines[told[0]].append(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace"))
        for kind, rows in lines.items():
            if rows:
                batch[f"{kind}_file_id"] = f"{kind}-{batch['id']}"
                self.files[batch[f"{kind}_file_id"]] = b"\n".join(rows) + b"\n"
        batch["status"] = "completed"
        # All done, none failed: what the real one has been seen to claim.
        batch["request_counts"] = {"total": len(asked), "completed": len(asked), "failed": 0}

    def lines(self, batch: dict[str, Any]) -> int:
        return self.uploaded[batch["input_file_id"]].count(b"\n")

    def line_counts(self) -> list[int]:
        return list(map(self.lines, self.batches))
