"""An OpenAI-compatible endpoint on 127.0.0.1 for tests: it answers as it is told and keeps what it was asked."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], str]  # status, headers, body


def completion(text: Any, finish_reason: Any = "stop", **more: Any) -> Answer:
    message = {"role": "assistant", "content": text, **more}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "fake-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    return 200, {}, json.dumps(body)


def failure(status: int, code: str = "some_code", **headers: str) -> Answer:
    return status, headers, json.dumps({"error": {"message": f"told to say {status}", "code": code}})


# A wait of zero would fall back to the client's own, longer one.
AT_ONCE = {"Retry-After": "0.01"}


class FakeEndpoint:
    """Use as a context manager. `answer` gets the request's body and its number, from 0."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer], port: int = 0):
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each reply waits 40 ms for an acknowledgement

            def do_GET(self) -> None:
                """/v1/models, by which a server says that it is ready."""
                data = json.dumps({"object": "list", "data": [{"id": "fake-1", "object": "model"}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    number = len(endpoint.requests)
                    endpoint.requests.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                status, headers, text = endpoint.answer(body, number)
                data = text.encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512  # a full queue drops a connection, and its client waits a second

            def handle_error(self, *_: Any) -> None:
                """A client that goes away in the middle is part of the tests."""

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "FakeEndpoint":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
