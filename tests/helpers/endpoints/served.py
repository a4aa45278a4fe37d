"""`asclepius serve` as a process of its own, with a random model small enough to answer at once on a CPU."""

import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.made_inputs import MODEL, transformers_model

COMMAND = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", "serve"]
# A position of the context for every prompt of a teacher, of which this vocabulary makes thousands of tokens.
LONG_MODEL = dataclasses.replace(MODEL, max_length=8192)
CHAT = (
    "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def chat_folder(folder: Path, tokenizer: Path) -> Path:
    """A Hugging Face folder with a chat template, whose logits are far enough apart to have one greatest."""
    from data_prep.contract.tokenizer import JsonTokenizer

    JsonTokenizer(tokenizer).save(folder)
    transformers_model(folder, LONG_MODEL, noise=0.2)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


class Server:
    """A running server. What it has printed is in `log`."""

    def __init__(self, folder: Path, *arguments: object):
        self.log_file = folder / "serve.log"
        # With XLA's optimizations, which tests are quicker without: this process computes more than it compiles.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
        command = [*COMMAND, "--port", "0", "--dtype", "float32", *map(str, arguments)]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"^Serving (\S+) on (\S+)/v1", self.log, re.MULTILINE)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(self.log)
            time.sleep(0.05)
        self.model, self.url = found.groups()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def health(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))  # httpx takes 0.1 s to make a client
        try:
            connection.request("GET", "/health")
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def busy(self, slots: int, waiting: int = 0, seconds: float = 30) -> None:
        """Wait until so many slots are in use, and so many requests wait for one."""
        deadline = time.monotonic() + seconds
        while (health := self.health())["slots_in_use"] < slots or health["waiting"] < waiting:
            assert time.monotonic() < deadline, f"{slots} slots and {waiting} waiting were not seen: {health}"
            time.sleep(0.005)

    def idle(self, seconds: float = 30) -> dict[str, Any]:
        """The health once no slot, page or place in the queue is in use; the last one if that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            health = self.health()
            if not any(health[name] for name in ("slots_in_use", "pages_in_use", "waiting")):
                return health
            if time.monotonic() > deadline:
                return health
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
