"""A watchdog that ends a hanging run. It logs the stacks of all threads and exits with the code for a restart."""

import contextlib
import faulthandler
import queue
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.config import HealthConfig
from asclepius_jax.distributed.job import LOST, current, end

FLOOR_SECONDS = 180.0  # minimum of the limit that is derived from the duration of steps
STEPS_OF_SILENCE = 20  # the derived limit in steps of median duration
PAUSE_SECONDS = 600.0  # limit for what is not a step: the next batch of an evaluation, a save
FIRST_SECONDS = 1800.0  # minimum limit for each part of the start, and for the first step, which includes compilation
REMEMBERED = 101  # number of recent steps whose median is used


class Watchdog:
    """Two threads: one records when each step finishes, the other checks how long ago the last one did."""

    def __init__(self, run_dir: Path, config: HealthConfig):
        self.run_dir, self.config = run_dir, config
        self.sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)  # between finished steps, without pauses
        self.finished = 0
        self.paused = False
        self.last = time.monotonic()
        self.ended = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.last = time.monotonic()
        for target in (self.wait_for_steps, self.look):
            threading.Thread(target=target, daemon=True, name=f"watchdog {target.__name__}").start()
        try:
            yield
        finally:
            self.ended.set()
            self.sent.put(None)

    def step_sent(self, numbers: dict[str, jax.Array]) -> None:
        self.sent.put(numbers["loss"])

    def alive(self) -> None:
        """Reset the timer after progress other than a step, such as an evaluation batch."""
        self.last = time.monotonic()

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Context for what is not a step and may take longer than one: an evaluation, a save."""
        self.alive()
        self.paused = True
        try:
            yield
        finally:
            self.alive()
            self.paused = False

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def limit_seconds(self) -> float:
        if self.finished == 0:
            return max(self.config.timeout_seconds, FIRST_SECONDS)
        if self.paused:
            return self.config.timeout_seconds or PAUSE_SECONDS
        return self.config.timeout_seconds or max(FLOOR_SECONDS, STEPS_OF_SILENCE * self.median_seconds)

    def wait_for_steps(self) -> None:
        while (loss := self.sent.get()) is not None:
            try:
                jax.block_until_ready(loss)
            except jax.errors.JaxRuntimeError:
                return  # the training loop gets the same error and reports it
            now = time.monotonic()
            if self.finished:  # not for the first step, which includes compilation
                self.seconds.append(now - self.last)
            self.finished += 1
            self.last = now

    def look(self) -> None:
        while not self.ended.wait(min(1.0, self.limit_seconds / 10)):
            silent = time.monotonic() - self.last
            if silent > self.limit_seconds:
                self.end_run(silent)

    def end_run(self, silent: float) -> None:
        """End the process and with it the job."""
        job = current()  # not jax.process_index(), which would wait for JAX's start if that is what hangs
        stacks = self.run_dir / f"stacks-{job.process_id if job else 0}.txt"
        with contextlib.suppress(OSError), stacks.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        line = (
            f"no step finished for {silent:.0f} s, the limit is {self.limit_seconds:.0f} s (health.timeout_seconds); "
            f"the stacks of all threads are above and in {stacks}: start the job again, it resumes from its last "
            "checkpoint"
        )
        end(LOST, line)
