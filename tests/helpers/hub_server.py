"""A small Hugging Face hub on 127.0.0.1: what huggingface_hub needs to create a repository, to commit to it, and to
download a model from it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """What huggingface_hub needs of a hub to create a repository and to commit to it, large files by LFS."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.private = True
        self.fails_after = 10**9  # uploads
        self.objects: dict[str, bytes] = {}
        self.uploads = 0
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cards: list[str] = []
        # Downloads: the files of lab/model by name, and how the hub fails at them.
        self.ended = threading.Event()
        self.offered: dict[str, bytes] = {}
        self.refusal: tuple[int, str] | None = None  # (status, X-Error-Code)
        self.hangs_at = ""  # part of a path that is never answered

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, body: Any, status: int = 200) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = b""
            while size := int(self.rfile.readline(), 16):
                parts += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return parts
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {self.path}")
        if hub.hangs_at and hub.hangs_at in path:
            hub.ended.wait()
        elif hub.refusal:
            self.send_response(hub.refusal[0])
            self.send_header("X-Error-Code", hub.refusal[1])
            self.end_headers()
        elif hub.offered and "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in hub.offered.items()
            ]
            self.answer(entries)
        elif "/resolve/" in path:
            self.send_file(hub.offered[path.rpartition("/")[2]])
        else:
            self.describe()

    def send_file(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def describe(self) -> None:
        self.answer({"id": "lab/model", "private": self.server.private, "siblings": [], "sha": "0" * 40})

    def do_PUT(self) -> None:
        content = self.body()
        self.server.uploads += 1
        if self.server.uploads > self.server.fails_after:
            self.answer({"error": "the line was cut"}, 403)
            return
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self) -> None:
        hub, raw = self.server, self.body()
        hub.requests.append(f"POST {self.path}")
        token = self.headers.get("Authorization", "")
        if token != "Bearer hf_secret":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(raw))
            self.answer({"url": f"{hub.address}/lab/model", "id": "lab/model"})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > 20_000 else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(raw)["files"]
            ]
            self.answer({"files": files})
        elif self.path.endswith("/objects/batch"):
            objects = []
            for wanted in json.loads(raw)["objects"]:
                upload = {"upload": {"href": f"{hub.address}/lfs/{wanted['oid']}"}}
                there = wanted["oid"] in hub.objects
                objects.append({**wanted, **({} if there else {"actions": upload})})
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, raw.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            self.answer({"success": True, "commitUrl": f"{hub.address}/lab/model/commit/1", "commitOid": "1"})
        elif self.path == "/api/validate-yaml":
            hub.cards.append(json.loads(raw)["content"])
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"error": self.path}, 404)


@contextmanager
def serving() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
