"""The stages of a preflight: each measures in every process, and all processes judge the same measurements.

A stage that takes longer than its limit ends the job. The line names the processes for which the others wait.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NoReturn

import jax

from asclepius_jax.config import TrainConfig
from asclepius_jax.distributed import same_program
from asclepius_jax.distributed.job import BROKEN_CONNECTION, Job, current, end, here
from asclepius_jax.plan.preflight.records import Measure, Row
from asclepius_jax.plan.preflight.tables import show, write_json
from data_prep.contract.errors import UserError, first_line

# Seconds. Compiling the step of a large model takes a TPU's compiler minutes, in the last stage and not before.
LIMITS = {
    "hosts": 60.0,
    "settings and data": 600.0,  # reads and hashes all packed rows
    "devices": 60.0,
    "kernels": 180.0,
    "speed": 180.0,
    "storage": 120.0,
    "checkpoint": 300.0,
    "ten steps": 900.0,
}
GRACE_SECONDS = 4.0  # by which other processes than the first wait longer, as the first prints the table


class Stages:
    """Runs stages in order and keeps their rows, which are the same in every process."""

    def __init__(self, config: TrainConfig, json_file: str):
        self.config, self.json_file = config, json_file
        self.rows: list[Row] = []
        self.seconds: dict[str, float] = {}
        self.places: list[str] = []
        self.stage, self.began = "", time.monotonic()
        self.ended = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        threading.Thread(target=self.look, daemon=True, name="stages").start()
        try:
            yield
        finally:
            self.ended.set()

    def run(
        self, stage: str, measure: Callable[[], Measure], judge: Callable[[list[Measure]], list[Row]]
    ) -> list[Measure]:
        """Measure in this process, exchange, and judge. Returns the measurements of all processes.

        An error of a process is a row, and `judge` sees the measurements of the others.
        """
        self.began, self.stage = time.monotonic(), stage
        try:
            own = measure()
        except Exception as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in BROKEN_CONNECTION):
                raise
            kind = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
            own = {"error": kind + (first_line(error) or "no message")}
        texts = same_program.gathered(f"preflight/{stage}", json.dumps({"place": here(), **own}))
        measures = [json.loads(text) for text in texts]
        self.places = [each["place"] for each in measures]
        self.rows += errors_of(stage, measures)
        if good := [each for each in measures if "error" not in each]:
            self.rows += judge(good)
        self.seconds[stage], self.stage = round(time.monotonic() - self.began, 2), ""
        if current() is None or current().process_id == 0:  # type: ignore[union-attr]
            print(f"preflight: {stage} took {self.seconds[stage]:.1f} s", flush=True)
        return measures

    def wrong(self, checks: Container[str]) -> bool:
        return any(row.status == "wrong" and row.check in checks for row in self.rows)

    def look(self) -> None:
        job = current()
        grace = GRACE_SECONDS if job is not None and job.process_id else 0.0
        while not self.ended.wait(0.2):
            stage = self.stage
            if stage and time.monotonic() - self.began > LIMITS[stage] + grace:
                self.give_up(stage)

    def give_up(self, stage: str) -> NoReturn:
        job, limit = current(), LIMITS[stage]
        if job is None:
            line = f"{here()} does not finish the stage {stage} within {limit:.0f} s"
        elif failed := self.told_so_far(job):
            self.rows += failed  # while others wait for it in a collective
            line = f"{failed[0].place} failed in the stage {stage}: {failed[0].value}"
        elif late := same_program.late(job):
            names = [self.places[number] if self.places else f"process {number}" for number in late]
            do = "does" if len(names) == 1 else "do"
            line = f"{', '.join(names)} {do} not answer in the stage {stage} within {limit:.0f} s"
        else:
            line = f"no process returns from a collective of the stage {stage} within {limit:.0f} s: does a link hang?"
        self.rows.append(Row(stage, "wrong", line, f"at most {limit:.0f} s", remedy="see the log of that process"))
        if job is None or job.process_id == 0:
            self.report()
        end(2, line)

    def told_so_far(self, job: Job) -> list[Row]:
        """Errors of the stage that processes have told."""
        texts = same_program.gathered_so_far(job, f"preflight/{self.stage}")
        return errors_of(self.stage, [json.loads(text) for text in texts])

    def report(self) -> None:
        """Print the table and write the JSON file."""
        show(self.rows)
        if self.json_file:
            write_json(Path(self.json_file), self.rows, self.seconds, self.config)


def errors_of(stage: str, measures: list[Measure]) -> list[Row]:
    """One row for each error, with all processes that have it."""
    places: dict[str, list[str]] = {}
    for each in measures:
        if "error" in each:
            places.setdefault(each["error"], []).append(each["place"])
    return [Row(stage, "wrong", error, place=", ".join(hosts)) for error, hosts in places.items()]


def meet(name: str) -> None:
    """Wait for all processes before a collective, so that one that is late is known by name."""
    same_program.problems_of_all(f"preflight/{name}", "")
