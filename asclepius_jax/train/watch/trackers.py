"""Experiment trackers beside TensorBoard: `--log.wandb PROJECT` and `--log.mlflow EXPERIMENT`.

A tracker gets the scalars of metrics.jsonl and the settings of the run that are numbers, flags or fixed words, and
nothing else: no paths, no names of data, no code, no Git state, no console output, no facts about the machine. Server,
key and offline mode come from the tools' own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, ...).

run/trackers.json    {"wandb": {"destination": "PROJECT", "id": "5f3a91c2"}}: the tracker run that a resume continues
"""

import contextlib
import dataclasses
import functools
import json
import os
import queue
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.config import TrainConfig
from asclepius_jax.config.checks import value_of
from asclepius_jax.model.sizes import VARIANTS
from asclepius_jax.train.watch.metrics import read_metrics, unless_full
from data_prep.contract.errors import UserError

Row = dict[str, Any]
FILE = "trackers.json"
OPEN_SECONDS = 60.0  # limit for reaching the server before the first step
CLOSE_SECONDS = 30.0  # limit for sending what is left; a preempted machine grants about as much
MOST_WAITING = 1000  # batches of rows that wait for a slow tracker before it is left out


@dataclass(frozen=True)
class Opened:
    """A run of a tracker."""

    id: str
    last_step: int
    """The last step that the tracker has; 0 for a new run."""
    log: Callable[[list[Row]], None]
    """Log one row per step, in order."""
    close: Callable[[bool], None]
    """End the tracker run; True if the training run has all of its steps."""
    abandon: Callable[[], object] = lambda: None
    """Let the process end although the tracker does not answer."""


def open_wandb(project: str, run_id: str, settings: Row, run_dir: Path) -> Opened:
    """Open a run in the project PROJECT or ENTITY/PROJECT; an empty id creates one.

    wandb's own files are in RUN/wandb, or in WANDB_DIR.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    entity, _, name = project.rpartition("/")
    folder = Path(os.environ.get("WANDB_DIR") or run_dir)
    made = not (folder / "wandb").exists()
    id_ = run_id or secrets.token_hex(4)
    try:
        run = wandb.init(
            entity=entity or None,
            project=name,
            id=id_,
            resume="allow",
            config=settings,
            allow_val_change=True,
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                host="",
                program="",
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=OPEN_SECONDS - 10,
                finish_timeout=CLOSE_SECONDS - 10,
                # By default a click on the web page interrupts the main thread.
                stop_fn=lambda: None,
                # The default of 15 s is what a killed process loses.
                x_transaction_log_flush_interval=1.0,
            ),
        )
    except BaseException:
        if made:
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        raise
    # The server knows the last step of the run. Offline, only the files of earlier starts do.
    known_step = run.starting_step - 1 if run.resumed else 0
    last_step = last_offline_step(folder / "wandb", id_) if run.offline else known_step

    def log(rows: list[Row]) -> None:
        for row in rows:
            run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"], commit=True)

    def close(finished: bool) -> None:
        run.finish(exit_code=0 if finished else 1)

    # At the end of the process wandb waits for its service without limit, unless it was torn down before.
    return Opened(id_, last_step, log, close, wandb.teardown)


def last_offline_step(folder: Path, run_id: str) -> int:
    """The last step in the files that earlier starts wrote offline: FOLDER/offline-run-DATE-ID/run-ID.wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    last = 0
    for path in folder.glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"):
        for data in offline_records(path.read_bytes()):
            if (record := Record.FromString(data)).HasField("history"):
                last = max(last, record.history.step.num)
    return last


def offline_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes. A torn tail is left out."""
    block, header = 2**15, struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last part
    at, record = 7, b""
    while at + header.size <= len(data):
        if block - at % block < header.size:  # the rest of a block that has no room for a header is filled up
            at += block - at % block
            continue
        _, length, kind = header.unpack_from(data, at)
        at += header.size
        if kind not in (1, 2, 3, 4) or at + length > len(data):
            return
        record = data[at : at + length] if kind in (1, 2) else record + data[at : at + length]
        at += length
        if kind in (1, 4):
            yield record


def open_mlflow(experiment: str, run_id: str, settings: Row, run_dir: Path) -> Opened:
    """Open a run in an experiment, which is created if it is missing; an empty id creates a run."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    if run_id:
        client.update_run(run_id, status="RUNNING")
        last_step = max((metric.step for metric in client.get_metric_history(run_id, "loss")), default=0)
    else:
        found = client.get_experiment_by_name(experiment)
        run_id = client.create_run(found.experiment_id if found else client.create_experiment(experiment)).info.run_id
        last_step = 0
        # Numbers and single words, far below MLflow's limits. A parameter of MLflow never changes, so a resumed run
        # keeps those of its first start.
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in settings.items()])

    def log(rows: list[Row]) -> None:
        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, row["step"]) for row in rows for name, value in row.items() if name != "step"
        ]
        for begin in range(0, len(metrics), 1000):  # MLflow's limit for one request
            client.log_batch(run_id, metrics=metrics[begin : begin + 1000])

    def close(finished: bool) -> None:
        client.set_terminated(run_id, "FINISHED" if finished else "KILLED")

    return Opened(run_id, last_step, log, close)


TRACKERS: dict[str, Callable[[str, str, Row, Path], Opened]] = {"wandb": open_wandb, "mlflow": open_mlflow}


class Tracker(threading.Thread):
    """A tracker in a thread of its own, so that neither opening nor logging nor closing can hold a run up."""

    def __init__(self, name: str, open_run: Callable[[], Opened]):
        super().__init__(name=name, daemon=True)
        self.open_run, self.opened = open_run, threading.Event()
        self.tracked: Opened | None = None
        self.problem = ""
        self.leaving = threading.Thread(target=self.abandon, daemon=True)  # abandoning may hang as well
        self.waiting: queue.Queue[list[Row] | bool] = queue.Queue(MOST_WAITING)
        self.start()

    def run(self) -> None:
        try:
            self.tracked = self.open_run()
        except BaseException as error:  # noqa: BLE001, shown by the main thread
            self.problem = described(self.name, error)
            return
        finally:
            self.opened.set()
        try:
            self.forward(self.tracked)
        except BaseException as error:  # noqa: BLE001, a tracker must not stop a run
            self.leave_out(described(self.name, error))

    def forward(self, tracked: Opened) -> None:
        # The last step is held back until the next one, because the row of its evaluation may follow.
        held: list[Row] = []
        while not isinstance(rows := self.waiting.get(), bool):
            *whole, last = by_step([*held, *rows])
            held = [last]
            tracked.log([row for row in whole if row["step"] > tracked.last_step])
        tracked.log([row for row in held if row["step"] > tracked.last_step])
        tracked.close(rows)

    def send(self, rows: list[Row]) -> None:
        if self.problem or not rows:
            return
        try:
            self.waiting.put_nowait(rows)
        except queue.Full:
            self.leave_out(f"--log.{self.name} does not answer")

    def leave_out(self, problem: str) -> None:
        if not self.problem:
            self.problem = problem
            print(f"WARNING: {problem}; the run goes on without it, and metrics.jsonl has its rows", flush=True)
            self.leaving.start()

    def abandon(self) -> None:
        if self.tracked is not None:
            with contextlib.suppress(BaseException):
                self.tracked.abandon()


def described(name: str, error: BaseException) -> str:
    """One line, even of an error that quotes a page of its server."""
    if isinstance(error, ModuleNotFoundError):
        return f"--log.{name} needs {name}: pip install 'asclepius-jax[{name}]' ({error.name} is not installed)"
    return str(UserError(f"--log.{name}: {str(error).strip() or type(error).__name__}"))


def by_step(rows: Iterable[Row]) -> list[Row]:
    """One row per step, without missing values; the rows of a step and of its evaluation become one."""
    steps: dict[int, Row] = {}
    for row in rows:
        steps.setdefault(row["step"], {}).update({name: value for name, value in row.items() if value is not None})
    return list(steps.values())


class Trackers:
    """The trackers of a run, on process 0. What metrics.jsonl has and a tracker lacks is sent at the start.

    Steps after the last checkpoint are computed again after a crash; those that a tracker has are not sent again.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, first_step: int, total_steps: int):
        """Raises UserError if a tracker of a new run cannot be opened. A resumed run goes on without it."""
        self.last_step, self.total_steps = first_step, total_steps
        self.trackers: list[Tracker] = []
        wanted = {name: getattr(config.log, name) for name in TRACKERS if getattr(config.log, name)}
        if jax.process_index() != 0 or not wanted:
            return
        # Without a checkpoint the run begins anew, perhaps with other settings, and so does the tracker's.
        known = read_known(run_dir) if first_step else {}
        history = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["step"] <= first_step]
        settings = settings_to_send(config)
        for name, destination in wanted.items():
            entry = known.get(name, {})
            run_id = entry["id"] if entry.get("destination") == destination else ""
            tracker = self.opened(name, functools.partial(TRACKERS[name], destination, run_id, settings, run_dir))
            if tracker.problem and not first_step:
                self.close()
                raise UserError(tracker.problem)
            if tracker.problem or tracker.tracked is None:
                print(f"WARNING: {tracker.problem}; the run goes on without it", flush=True)
                continue
            self.trackers.append(tracker)
            tracker.send(history)
            known[name] = {"destination": destination, "id": tracker.tracked.id}
            print(f"--log.{name} {destination}: run {tracker.tracked.id}", flush=True)
        if self.trackers:
            with unless_full():
                (run_dir / FILE).write_text(json.dumps(known) + "\n")

    def opened(self, name: str, open_run: Callable[[], Opened]) -> Tracker:
        tracker = Tracker(name, open_run)
        if not tracker.opened.wait(OPEN_SECONDS):
            tracker.problem = f"--log.{name} does not answer within {OPEN_SECONDS:.0f} s"
        return tracker

    def send(self, rows: list[Row]) -> None:
        self.last_step = max([self.last_step, *(row["step"] for row in rows)])
        for tracker in self.trackers:
            tracker.send(rows)

    def close(self) -> None:
        """Wait until everything is sent, but not longer than CLOSE_SECONDS."""
        until = time.monotonic() + CLOSE_SECONDS
        for tracker in self.trackers:
            with contextlib.suppress(queue.Full):
                tracker.waiting.put_nowait(self.last_step == self.total_steps)
        for tracker in self.trackers:
            tracker.join(max(0.0, until - time.monotonic()))
            if tracker.is_alive():
                tracker.leave_out(f"--log.{tracker.name} does not take the last rows within {CLOSE_SECONDS:.0f} s")
            if tracker.leaving.is_alive():
                tracker.leaving.join(1.0)


def read_known(run_dir: Path) -> dict[str, dict[str, str]]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((run_dir / FILE).read_text())
    return {}


def settings_to_send(config: TrainConfig) -> Row:
    """The settings that cannot name a person, a place or a file: numbers, flags, and words of a fixed list.

    {"model": "llama2_7b", "optimizer.learning_rate": 2e-05, ...}. Other text, such as paths, hub ids and the name of a
    model that is no built-in size, is left out.
    """
    sent: Row = {"model": config.model} if config.model in VARIANTS else {}
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if dataclasses.is_dataclass(value):
            names = [f"{section.name}.{field.name}" for field in dataclasses.fields(value) if may_send(section, field)]
            sent |= {name: value_of(config, name) for name in names}
        elif section.type is not str:
            sent[section.name] = value
    return sent


def may_send(section: dataclasses.Field[Any], field: dataclasses.Field[Any]) -> bool:
    """Return True for a setting that holds no free text. `check` allows only words of a list for lora.targets."""
    return field.type not in (str, tuple[str, ...]) or (section.name, field.name) == ("lora", "targets")
