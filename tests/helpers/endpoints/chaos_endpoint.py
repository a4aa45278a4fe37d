"""A chat endpoint in a process of its own that fails on purpose, and counts on disk what it would charge for.

    python chaos_endpoint.py PORT FOLDER SHARE_OF_FAULTS SECONDS

Its answers depend on the request alone, its faults on the request and on how often it came. Of all requests, at a
share of 1: 5 % get a 429 with Retry-After, 3 % a 500, 2 % no reply, 1 % half a reply, 1 % a reply that is no JSON, and
5 % a body in slow pieces. `paid.log` has a line for each that was worked on: key, and how it ended.
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

from aiohttp import web

FAULTS = (("throttled", 0.05), ("broken", 0.03), ("hung", 0.02), ("cut", 0.01), ("garbled", 0.01), ("slow", 0.05))
LOST = ("hung", "cut", "garbled")


def fraction(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


def fault_of(key: str, attempt: int, share: float) -> str:
    drawn = fraction("fault", key, attempt)
    for name, part in FAULTS:
        drawn -= part * share
        if drawn < 0:
            return name
    return "answered"


def reply(body: dict, key: str) -> bytes:
    words = " ".join(f"finding {fraction(key, word):.6f} stable" for word in range(20))
    message = {"role": "assistant", "content": f"HPI: patient of request {key[:12]}. {words}"}
    size = sum(len(each["content"]) for each in body["messages"])
    answer = {
        "id": key,
        "model": "chaos-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": size // 4, "completion_tokens": 100, "total_tokens": size // 4 + 100},
    }
    return json.dumps(answer).encode()


class Endpoint:
    def __init__(self, folder: Path, share: float, seconds: float):
        self.share, self.seconds = share, seconds
        self.attempts: Counter[str] = Counter()
        self.paid = (folder / "paid.log").open("a", buffering=1)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        key = hashlib.sha256(raw).hexdigest()
        self.attempts[key] += 1
        fault = fault_of(key, self.attempts[key], self.share)
        if fault == "throttled":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        if fault == "broken":
            return web.json_response({"error": {"message": "overloaded"}}, status=500)
        self.paid.write(f"{key} {fault}\n")
        await asyncio.sleep(self.seconds * 2 * fraction("delay", key, self.attempts[key]))
        body = reply(json.loads(raw), key)
        if fault == "hung":
            await asyncio.sleep(3600)
        if fault == "garbled":
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        if fault not in ("cut", "slow"):
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        for start in range(0, len(body), len(body) // 4 + 1):
            await response.write(body[start : start + len(body) // 4 + 1])
            if fault == "cut":
                request.transport.abort()
                return response
            await asyncio.sleep(self.seconds)
        return response


async def serve(port: int, folder: Path, share: float, seconds: float) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Endpoint(folder, share, seconds).chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
