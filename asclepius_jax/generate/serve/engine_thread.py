"""The thread that owns the engine. Handlers of requests submit and cancel jobs; it delivers the parts of answers."""

import queue
import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from asclepius_jax.generate.engine import Engine
from asclepius_jax.generate.programs import MOST_STEPS
from asclepius_jax.generate.replica import Answer, Request
from asclepius_jax.generate.serve.token_text import TokenText, Vocabulary

# Tokens of a slot in one call of the device while a client reads along, or a stop string may end an answer. More of
# them spare round trips, and come in larger pieces.
STEPS_WHILE_READ = 4


class Full(Exception):
    """No room in the queue."""


class Ended(Exception):
    """The engine answers nothing more: the server ends."""


@dataclass(frozen=True)
class Token:
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Part:
    """The next piece of a sample. The last one has a finish reason, stop or length."""

    sample: int
    text: str
    tokens: tuple[Token, ...]
    finish: str
    drawn: int  # tokens drawn so far


Deliver = Callable[[Part | Exception], Any]  # called in this thread


class Job:
    """One sample of a request: what the engine is to decode, and how far its text has come."""

    def __init__(self, request: Request, text: TokenText, deliver: Deliver, sample: int = 0, stream: bool = False):
        self.request, self.text, self.deliver, self.sample, self.stream = request, text, deliver, sample, stream
        self.answer: Answer | None = None
        self.sent = 0  # tokens delivered

    @property
    def is_read_along(self) -> bool:
        return self.stream or bool(self.text.stops)

    def read(self, answer: Answer) -> str:
        """Read the tokens that are new, up to a stop string. Returns the finish reason, or nothing."""
        if not self.is_read_along:
            self.text.add_all(answer.tokens)
            return answer.finish
        for token in answer.tokens[len(self.text.begins) :]:
            if self.text.add(token):
                return "stop"
        if answer.finish and self.text.finish():
            return "stop"
        return answer.finish

    def part(self, answer: Answer, finish: str) -> Part | None:
        """The text and tokens since the last part, if there are any."""
        text = self.text.take(bool(finish))
        if not text and not finish:
            return None
        begins = self.text.begins
        end = self.text.tokens_within() if finish else bisect_left(begins, self.text.taken)
        tokens = [
            Token(answer.tokens[n], answer.logprobs[n], tuple(answer.top[n]) if answer.top else ())
            for n in range(self.sent, end)
        ]
        self.sent = max(self.sent, end)
        return Part(self.sample, text, tuple(tokens), finish, len(begins))


@dataclass(frozen=True)
class Status:
    """Load of the server, for its operator."""

    slots: int
    slots_in_use: int
    waiting: int
    pages: int
    pages_in_use: int


class EngineThread:
    """Runs an engine. All methods may be called from any thread.

    `failed` is called if the engine fails; `error` then holds the reason.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, most_waiting: int, failed: Callable[[], Any]):
        self.engine, self.vocabulary, self.failed = engine, vocabulary, failed
        self.slots = sum(len(replica.table_SM) for replica in engine.replicas)
        self.most_open = self.slots + most_waiting
        self.commands: queue.SimpleQueue[tuple[str, list[Job]]] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.open = 0  # jobs submitted and not ended
        self.jobs: dict[Answer, Job] = {}
        self.error: BaseException | None = None
        self.ended = False
        self.used = (0, 0)  # slots and pages
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs, all or none. Raises Full or Ended."""
        with self.lock:
            if self.ended:
                raise Ended
            if self.open + len(jobs) > self.most_open:
                raise Full
            self.open += len(jobs)
            self.commands.put(("add", jobs))

    def cancel(self, jobs: list[Job]) -> None:
        """End jobs whose client has gone; those that have ended are left alone."""
        self.commands.put(("cancel", jobs))

    def stop(self) -> None:
        """End the thread after its current step, and wait for it."""
        self.commands.put(("stop", []))
        self.thread.join()

    def status(self) -> Status:
        slots, pages = self.used
        replicas = self.engine.replicas
        return Status(self.slots, slots, max(0, self.open - slots), sum(r.num_pages for r in replicas), pages)

    def health(self) -> dict[str, Any]:
        return {"status": "ended" if self.ended else "ready", **asdict(self.status())}

    # ------------------------------------------------ in the thread

    def run(self) -> None:
        try:
            while self.obey():
                if self.engine.busy:
                    for answer in self.engine.step(self.steps()):
                        if answer in self.jobs:
                            self.progress(self.jobs[answer], answer)
                self.count()
        except BaseException as error:  # noqa: BLE001 - nothing may leave clients waiting
            self.error = error
        self.end()

    def obey(self) -> bool:
        """Carry out the commands in the queue; without work, wait for one. Returns False for the last one."""
        idle = not self.engine.busy
        while idle or not self.commands.empty():
            command, jobs = self.commands.get()
            if command == "stop":
                return False
            for job in jobs:
                if command == "add":
                    job.answer = self.engine.add(job.request)
                    self.jobs[job.answer] = job
                elif job.answer in self.jobs:
                    self.close(job)
            idle = not self.engine.busy
            if idle:
                self.count()
        return True

    def steps(self) -> int:
        return STEPS_WHILE_READ if any(job.is_read_along for job in self.jobs.values()) else MOST_STEPS

    def progress(self, job: Job, answer: Answer) -> None:
        if not (job.is_read_along or answer.finish):
            return
        finish = job.read(answer)
        part = job.part(answer, finish) if job.stream or finish else None
        if finish:
            self.close(job)
        if part:
            hand(job, part)

    def close(self, job: Job) -> None:
        assert job.answer is not None
        self.engine.cancel(job.answer)  # after a stop string the engine would continue
        del self.jobs[job.answer]
        with self.lock:
            self.open -= 1

    def count(self) -> None:
        replicas = self.engine.replicas
        self.used = (
            sum(len(replica.answers) for replica in replicas),
            sum(replica.num_pages - len(replica.free_pages) for replica in replicas),
        )

    def end(self) -> None:
        with self.lock:
            self.ended = True
        left = list(self.jobs.values())
        while not self.commands.empty():
            command, jobs = self.commands.get()
            left += jobs if command == "add" else []
        for job in left:
            hand(job, Ended())
        if self.error is not None:
            self.failed()


def hand(job: Job, part: Part | Exception) -> None:
    with suppress(RuntimeError):  # the event loop is closed: the server ends, and the client is gone
        job.deliver(part)
