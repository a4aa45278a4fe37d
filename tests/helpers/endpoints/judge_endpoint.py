"""An endpoint that judges by a hash of what it is asked, and writes down every request: a judge that never tires.

python judge_endpoint.py PORT LOG SECONDS
"""

import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path


def verdict(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).digest()
    if digest[0] < 8:
        return "I cannot say."
    texts = dict(re.findall(r"<(\w+)-\w{8}>\n(.*?)\n</\1-\w{8}>", prompt, re.DOTALL))
    incorrect, omitted = digest[1] < 64, ("nothing", "minor", "significant")[digest[2] % 3]
    evidence = [{"fault": "incorrect", "quote": texts["answer"], "why": ""}] if incorrect else []
    evidence += [{"fault": "omitted", "quote": texts["note"], "why": ""}] if omitted != "nothing" else []
    told = {
        "incorrect": "yes" if incorrect else "no",
        "harm": "minor" if incorrect else "none",
        "omitted": omitted,
        "answerable": "yes",
        "recognised": "yes",
        "evidence": evidence,
    }
    return json.dumps(told)


async def serve(port: int, log: Path, seconds: float) -> None:
    from aiohttp import web

    async def chat(request: web.Request) -> web.Response:
        body = await request.read()
        with log.open("a") as file:
            file.write(hashlib.sha256(body).hexdigest() + "\n")
        await asyncio.sleep(seconds)
        # With what a retry adds: its verdict is another one.
        prompt = "\n".join(message["content"] for message in json.loads(body)["messages"])
        message = {"role": "assistant", "content": verdict(prompt)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550}
        return web.json_response({"id": "x", "model": "judge", "choices": [choice], "usage": usage})

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
