"""An object store on loopback: moto's S3 server behind a proxy, which also speaks Google's two APIs and makes faults.

The objects are those of one store, whichever way they are read. Google's XML API is nearly S3's; of its JSON API, what
TensorStore uses is translated. The proxy counts the generation of each object, which S3 does not have.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from data_prep.contract.folders.buckets import objects

BUCKET = "bucket"
# What a fault does to a request: refuses it, holds it up, or cuts its answer.
Fault = Callable[[str, str], str]  # (method, path) -> "", "503", "403", "slow", "cut" or "lost"
NAME = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def no_fault(method: str, path: str) -> str:
    return ""


class ObjectStore:
    def __init__(self, moto: int):
        self.moto = moto
        self.fault: Fault = no_fault
        self.top = ""
        self.generations: dict[str, int] = defaultdict(int)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []
        store = self

        class Proxy(Handler):
            pass

        Proxy.store = store
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which S3 and Google Cloud Storage are this store."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_REGION": "us-east-1",
            "TENSORSTORE_GCS_HTTP_URL": self.url,
        }

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.moto, timeout=60)
        try:
            known = {name.lower(): value for name, value in (headers or {}).items()}
            connection.request(method, path, body, {"authorization": "Bearer none", **known})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def names(self, prefix: str = "") -> list[str]:
        found, token = [], ""
        while True:
            after = f"&continuation-token={quote(token, safe='')}" if token else ""
            answer = self.ask("GET", f"/{BUCKET}?list-type=2&prefix={quote(prefix, safe='')}{after}")
            root = ElementTree.fromstring(answer.body)
            found += [str(entry.findtext(f"{NAME}Key")) for entry in root.iter(f"{NAME}Contents")]
            token = root.findtext(f"{NAME}NextContinuationToken") or ""
            if not token:
                return sorted(found)

    def read(self, key: str) -> bytes:
        return self.ask("GET", f"/{BUCKET}/{quote(key)}").body

    def write(self, key: str, data: bytes) -> None:
        with self.lock:
            self.ask("PUT", f"/{BUCKET}/{quote(key)}", data)
            self.generations[f"/{BUCKET}/{quote(key)}"] += 1

    def delete(self, key: str) -> None:
        self.ask("DELETE", f"/{BUCKET}/{quote(key)}")


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, headers, body


class Handler(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self) -> None:
        body = self.content()
        kind = self.store.fault(self.command, self.path)
        self.store.requests.append((self.command, self.path))
        if kind == "503":
            return self.answer(Answer(503, {}, b"<Error><Code>SlowDown</Code></Error>"))
        if kind == "403":
            return self.answer(Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>"))
        if kind == "slow":
            time.sleep(1.0)
        answer = self.batch(body) if self.path.startswith("/batch") else self.respond(self.command, self.path, body)
        if kind == "lost":  # carried out, without an answer
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.answer(answer, cut=kind == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def answer(self, answer: Answer, cut: bool = False) -> None:
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        bare = answer.status in (204, 304)  # by the protocol, these have no content
        if not bare:
            self.send_header("Content-Length", length or str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD" or bare:
            return
        if cut and answer.body:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(answer.body)

    def respond(self, method: str, path: str, body: bytes) -> Answer:
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if match := re.fullmatch(r"/(?:upload/)?storage/v1/b/([^/]+)/o(?:/(.+))?", url.path):
            return self.json_api(method, match[1], unquote(match[2] or query.get("name", "")), query, body)
        name = quote(unquote(url.path))  # one spelling, whichever characters a client escapes
        path = f"{name}?{url.query}" if url.query else name
        wanted = self.headers.get("x-goog-if-generation-match")
        passed = {
            header: value
            for header, value in self.headers.items()
            if header.lower() not in ("host", "content-length", "transfer-encoding", "connection")
        }
        with self.store.lock:
            if wanted is not None and not self.is_generation(name, wanted):
                return Answer(412, {}, b"")
            answer = self.store.ask(method, path, body, passed)
            if answer.status < 300:
                self.count(method, name)
                answer.headers["x-goog-generation"] = str(self.store.generations[name])
        return answer

    def count(self, method: str, path: str) -> None:
        if method in ("PUT", "POST"):
            self.store.generations[path] += 1

    def is_generation(self, path: str, wanted: str) -> bool:
        there = self.store.ask("HEAD", path).status == 200
        return wanted == (str(self.store.generations[path]) if there else "0")

    def json_api(self, method: str, bucket: str, key: str, query: dict[str, str], body: bytes) -> Answer:
        path = f"/{bucket}/{quote(key)}"
        if method == "GET" and not key:
            names = self.store.names(query.get("prefix", ""))
            items = [{"name": name, "size": "0", "generation": "1"} for name in names]
            return Answer(200, {"Content-Type": "application/json"}, json.dumps({"items": items}).encode())
        with self.store.lock:
            if (wanted := query.get("ifGenerationMatch")) and not self.is_generation(path, wanted):
                return Answer(412, {}, b"{}")
            if method == "POST":
                self.store.ask("PUT", path, body)
                self.store.generations[path] += 1
            generation = str(self.store.generations[path])
            if method == "DELETE":
                return self.store.ask("DELETE", path)
            headers = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
            found = self.store.ask("GET", path, headers=headers)
        if found.status >= 300:
            return Answer(found.status, {}, b"{}")
        if query.get("alt") == "media":
            kept = {name: value for name, value in found.headers.items() if name.lower() == "content-range"}
            return Answer(found.status, {**kept, "x-goog-generation": generation}, found.body)
        facts = {"name": key, "bucket": bucket, "size": str(len(found.body)), "generation": generation}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())

    def batch(self, body: bytes) -> Answer:
        """Google's way to delete many objects: a request of requests."""
        boundary = "batch"
        parts = []
        for number, path in enumerate(re.findall(rb"DELETE (\S+)", body)):
            status = self.respond("DELETE", path.decode(), b"").status
            parts.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
                f"HTTP/1.1 {status} Done\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(parts) + f"--{boundary}--\r\n"
        return Answer(200, {"Content-Type": f"multipart/mixed; boundary={boundary}"}, text.encode())


@contextmanager
def running() -> Iterator[ObjectStore]:
    """A store with one empty bucket. Skips the test where moto's server is not installed."""
    command = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
    if not command:
        pytest.skip("no moto_server: pip install 'moto[server]', in an environment of its own")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    store = ObjectStore(port)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                assert store.ask("PUT", f"/{BUCKET}").status == 200
                break
            except OSError:
                assert time.monotonic() < until, "moto's server did not start"
                time.sleep(0.1)
        yield store
    finally:
        store.server.shutdown()
        process.terminate()
        process.wait()


@contextmanager
def used(store: ObjectStore, top: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The store without faults, known to this process and emptied at the end; `top` is an address in it."""
    for name, value in {**store.environment, "ASCLEPIUS_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)
    store.top = top
    objects.opened.cache_clear()
    try:
        yield store
    finally:
        store.fault = no_fault
        for key in store.names():
            store.delete(key)
        objects.opened.cache_clear()
