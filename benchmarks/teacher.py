"""How fast an endpoint is asked, against a bare `openai.AsyncOpenAI` loop without a ledger, and what it takes.

    python benchmarks/teacher.py [requests]

The endpoint runs in a process of its own on this machine. Each row was measured in this run, the rates in turns.
"""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROUNDS = 3
SLOW_SECONDS, SLOW_IN_FLIGHT = 2.0, 512
# About what a case report and its note are.
PROMPT, REPLY = "The patient was seen on the ward, stable. " * 120, "HPI: seen on the ward, stable. " * 60


def main(argv: list[str]) -> None:
    if argv[:1] == ["--part"]:
        print(json.dumps(PARTS[argv[1]](*map(int, argv[2:]))))
        return
    requests = int(argv[0]) if argv else 5000
    for row in measure(requests):
        print(" | ".join(map(str, row)), flush=True)


def measure(requests: int) -> Iterator[list[Any]]:
    with endpoint(0.0) as port:
        for in_flight in (32, 256):
            rates: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(ROUNDS):
                for name, seen in rates.items():
                    seen.append(part(name, port, requests, in_flight)["rate"])
            bare, ours = (sorted(seen)[ROUNDS // 2] for seen in rates.values())
            yield [
                f"instant endpoint, {in_flight} in flight, requests/s",
                f"{ours:.0f} to {bare:.0f} = {ours / bare:.2f}",
            ]
        stage = part("stage", port, 2 * requests, 128)
        yield [f"the notes stage with its checks, {2 * requests} requests, requests/s", f"{stage['rate']:.0f}"]
        yield ["memory above start, MiB", f"{stage['memory']:.0f}"]
        yield ["of that at a fifth of the requests", f"{stage['early']:.0f}"]
    with endpoint(SLOW_SECONDS) as port:
        slow = part("ours", port, 4 * requests, SLOW_IN_FLIGHT)
    ideal = SLOW_IN_FLIGHT / SLOW_SECONDS
    yield [
        f"endpoint of {SLOW_SECONDS:g} s, {SLOW_IN_FLIGHT} in flight, of the ideal rate",
        f"{slow['rate'] / ideal:.3f}",
    ]
    yield ["of it once it has grown to all of them", f"{slow['steady'] / ideal:.3f}"]
    ledger = part("ledger", requests)
    yield ["ledger, microseconds a request", f"{ledger['seconds'] * 1e6:.0f}"]
    yield ["of it on the event loop", f"{ledger['loop_seconds'] * 1e6:.0f}"]
    yield ["ledger, bytes a request", f"{ledger['bytes']:.0f}"]


def part(name: str, *numbers: int) -> dict[str, float]:
    """A measurement in a process of its own, so that none pays for what another left behind."""
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, __file__, "--part", name, *map(str, numbers)]
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- the endpoint


@contextmanager
def endpoint(seconds: float) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--part", "serve", str(port), str(int(seconds * 1000))]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        server.stdout.readline()
        yield port
    finally:
        server.kill()
        server.wait()


def in_words(number: int) -> str:
    """Another text for each number, without a number that the gate would not find in the report."""
    return "Seen by " + " ".join(f"team {chr(ord('A') + int(digit))}" for digit in f"{number:010d}") + "."


def serve(port: int, milliseconds: int) -> None:
    from aiohttp import web

    async def chat(request: web.Request) -> web.Response:
        seed = json.loads(await request.read())["seed"]
        await asyncio.sleep(milliseconds / 1000)
        message = {"role": "assistant", "content": f"{REPLY} {in_words(seed)}"}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1200, "completion_tokens": 480, "total_tokens": 1680},
        }
        return web.json_response(answer)

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(start())


# ---------------------------------------------------------------- who asks it


def bare(port: int, requests: int, in_flight: int) -> dict[str, float]:
    import openai

    async def go() -> float:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        slots = asyncio.Semaphore(in_flight)

        async def one(seed: int) -> None:
            async with slots:
                message: Any = {"role": "user", "content": f"{PROMPT} {seed}"}
                await client.chat.completions.create(model="m", messages=[message], seed=seed, max_tokens=2048)

        started = time.monotonic()
        await asyncio.gather(*map(one, range(requests)))
        return requests / (time.monotonic() - started)

    return {"rate": asyncio.run(go())}


def ours(port: int, requests: int, in_flight: int) -> dict[str, float]:
    from data_prep.teachers.base import Request, TeacherConfig
    from data_prep.teachers.endpoint.ledger import Ledger
    from data_prep.teachers.endpoint.meter import Meter
    from data_prep.teachers.factory import endpoint_teacher

    moments: list[float] = []

    async def go(folder: str) -> float:
        config = TeacherConfig("openai", f"http://127.0.0.1:{port}/v1", "m", concurrency=in_flight)
        teacher = endpoint_teacher(config, Ledger(Path(folder) / "ledger.sqlite"), Meter())

        async def one(seed: int) -> None:
            message = ({"role": "user", "content": f"{PROMPT} {seed}"},)
            await teacher.ask(Request("note", f"r{seed}", message, seed=seed))
            moments.append(time.monotonic())

        started = time.monotonic()
        await asyncio.gather(*map(one, range(requests)))
        seconds = time.monotonic() - started
        await teacher.close()
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        seconds = asyncio.run(go(folder))
    # The middle half: after it has grown, before it runs dry.
    quarter = requests // 4
    steady = 2 * quarter / (moments[3 * quarter - 1] - moments[quarter - 1])
    return {"rate": requests / seconds, "steady": steady}


def stage(port: int, requests: int, in_flight: int) -> dict[str, float]:
    """The whole notes stage, with reports of usual size; how its memory grows."""
    from data_prep.synthesize import notes
    from data_prep.teachers.base import TeacherConfig

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "reports.jsonl"
        with source.open("w") as file:
            for number in range(requests):
                file.write(json.dumps({"id": f"r{number}", "text": f"{PROMPT} {number}"}) + "\n")
        config = TeacherConfig("openai", f"http://127.0.0.1:{port}/v1", "m", concurrency=in_flight)

        def run(limit: int) -> None:
            from data_prep.execution.shards import ShardsConfig

            out = Path(folder) / "notes"
            notes.run(notes.NotesConfig(str(source), out, teacher=config, shards=ShardsConfig(limit=limit)))

        run(100)  # what is imported is no part of what grows
        before, started = peak(), time.monotonic()
        run(requests // 5)
        early = peak() - before
        run(requests)
        return {"rate": (requests - 100) / (time.monotonic() - started), "memory": peak() - before, "early": early}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ledger(requests: int) -> dict[str, float]:
    from data_prep.teachers.endpoint.ledger import Ledger, canonical, key_of

    async def go(book: Ledger) -> tuple[float, float]:
        async def one(seed: int) -> None:
            text = canonical(
                {"model": "m", "seed": seed, "messages": [{"role": "user", "content": f"{PROMPT} {seed}"}]}
            )
            key = key_of(text)
            await book.plan(key, text, "note")
            await book.begin(key)
            await book.finish(key, f"{REPLY} {in_words(seed)}")

        started, on_loop = time.monotonic(), time.thread_time()
        # As many at once as a run has in flight.
        for start in range(0, requests, 128):
            await asyncio.gather(*map(one, range(start, start + 128)))
        return time.monotonic() - started, time.thread_time() - on_loop

    with tempfile.TemporaryDirectory() as folder:
        book = Ledger(Path(folder) / "ledger.sqlite")
        seconds, loop_seconds = asyncio.run(go(book))
        book.close()
        size = (Path(folder) / "ledger.sqlite").stat().st_size
    return {"seconds": seconds / requests, "loop_seconds": loop_seconds / requests, "bytes": size / requests}


PARTS: dict[str, Any] = {"serve": serve, "bare": bare, "ours": ours, "stage": stage, "ledger": ledger}

if __name__ == "__main__":
    main(sys.argv[1:])
