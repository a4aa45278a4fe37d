"""The text stages in tests: case reports in, an endpoint to ask, and the folders that come out."""

import asyncio
import json
import socket
from pathlib import Path

from data_prep.contract.records import Example, Note, Reject, read_parquet
from data_prep.teachers.base import Request, TeacherConfig
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.factory import endpoint_teacher
from tests.helpers.endpoints.fake_endpoint import completion

TEXT = (
    "A {age}-year-old woman was admitted with chest pain and dyspnea. Her blood pressure was 150/90 mmHg. She had a "
    "history of hypertension. An electrocardiogram (ECG) showed ST elevation. She was treated with aspirin 100 mg "
    "daily and underwent percutaneous coronary intervention. She was discharged on day {age} in good condition."
)


def write_reports(path: Path, count: int) -> str:
    rows = [{"id": f"r{k}", "text": TEXT.format(age=20 + k), "licence": "CC0", "doi": f"10/{k}"} for k in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_notes(out: Path) -> tuple[list[Note], list[Reject]]:
    shards = sorted(out.glob("notes-*.parquet"))
    return [n for path in shards for n in read_parquet(path, Note)], list(
        read_parquet(out / "rejected.parquet", Reject)
    )


def read_examples(out: Path) -> tuple[list[Example], list[Reject]]:
    shards = sorted(out.glob("instructions-*.parquet"))
    examples = [example for path in shards for example in read_parquet(path, Example)]
    return examples, list(read_parquet(out / "rejected.parquet", Reject))


def api(endpoint, **more):
    settings = {"model": "m", "max_retries": 0, "timeout_seconds": 5, **more}
    return TeacherConfig(teacher="openai", base_url=endpoint.url, **settings)


def ask(endpoint, folder, count=1, **settings):
    """The replies to `count` different requests, and the teacher after it."""
    settings = {"model": "m", "max_retries": 1, "timeout_seconds": 5, **settings}
    config = TeacherConfig(teacher="openai", base_url=endpoint.url, **settings)

    async def go():
        teacher = endpoint_teacher(config, Ledger(folder / "ledger.sqlite"), Meter())
        requests = [Request("note", f"r{k}", ({"role": "user", "content": f"say {k}"},), seed=k) for k in range(count)]
        try:
            return await asyncio.gather(*map(teacher.ask, requests)), teacher
        finally:
            await teacher.close()

    return asyncio.run(go())


def usage(text: str, prompt: int, completion_tokens: int):
    status, headers, body = completion(text)
    answer = {**json.loads(body), "usage": {"prompt_tokens": prompt, "completion_tokens": completion_tokens}}
    return status, headers, json.dumps(answer)


def folder_content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
