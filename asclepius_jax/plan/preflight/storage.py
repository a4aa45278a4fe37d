"""Packed rows readable and the run folder writable from each host, with the speed of both, and room for checkpoints."""

import contextlib
import dataclasses
import functools
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from asclepius_jax.checkpoint.places import Place
from asclepius_jax.config import TrainConfig
from asclepius_jax.config.sources import training_sources
from asclepius_jax.distributed.job import before_end
from asclepius_jax.distributed.same_program import from_first, problems_of_all
from asclepius_jax.plan.preflight.records import Measure, Row, between, slow
from asclepius_jax.train.adapters import readable
from asclepius_jax.train.start import check_hosts, lock_of_run
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import as_url, bucket_path
from data_prep.contract.manifests import read_manifest

RUN_FOLDER, WRITING, FREE = "run folder", "writing to the run folder", "free space"
NEEDED_TO_SAVE = (RUN_FOLDER, WRITING, FREE)
READ_BYTES, WRITE_BYTES, PIECE_BYTES = 2**28, 2**26, 2**20


class RunFolder:
    """The run folder during a preflight, and a folder in it for what is written to try it out."""

    def __init__(self, path: Path):
        self.path, self.trial = path, path / ".preflight-none"
        self.problem = ""  # why process 0 cannot write to it
        self.held = contextlib.ExitStack()
        before_end(self.held.close)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Context that holds the lock of the run. Everything that was written is removed at its end.

        Raises UserError if a run uses the folder, or if it contains something else.
        """
        try:
            self.held.enter_context(lock_of_run(self.path))
        except UserError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            self.problem = str(error)
        try:
            yield
        finally:
            self.held.close()

    def make_trial(self) -> None:
        """Make the folder for trials, of the same name in every process."""
        name = from_first("preflight/folder", f".preflight-{secrets.token_hex(6)}", longer=60.0)
        self.trial = self.path / name
        if jax.process_index() == 0 and not self.problem:
            place = bucket_path(self.path) or self.path
            for left in [*place.glob(".preflight-*")]:  # by a killed one, as this one holds the lock
                remove(left)
            self.trial.mkdir()
            self.held.callback(functools.partial(remove, place / name))
            self.held.callback(functools.partial(remove, self.trial))


def remove(folder: Place) -> None:
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.remove_all()


def measure_storage(config: TrainConfig, folder: RunFolder) -> Measure:
    found: Measure = {"shared": folder.problem}
    if not problems_of_all("preflight/run folder", folder.problem):
        try:
            # A hub id is no folder yet.
            local = not config.init.hf or Path(config.init.hf).is_dir()
            init = config.init if local else dataclasses.replace(config.init, hf="")
            check_hosts(dataclasses.replace(config, init=init))
        except UserError as error:
            found["shared"] = str(error)
    folder.make_trial()
    found["read"], found["unread"] = attempt(
        lambda: min(read_speed(Path(source.path)) for source in training_sources(config.data))
    )
    place = folder.trial if folder.trial.is_dir() else folder.path
    found["write"], found["unwritten"] = attempt(lambda: write_speed(place / f"trial-{jax.process_index()}"))
    if folder.problem:
        found["write"], found["unwritten"] = 0.0, folder.problem
    found["free"] = shutil.disk_usage(folder.path).free if folder.path.is_dir() else 0
    if bucket_path(folder.path):
        found["free"] = None
    return found


def attempt(measure: Callable[[], float]) -> tuple[float, str]:
    """(speed, "") or (0, the error)."""
    try:
        return measure(), ""
    except (OSError, UserError) as error:
        return 0.0, error.strerror or str(error) if isinstance(error, OSError) else str(error)


def read_speed(folder: Path) -> float:
    """Bytes per second at which packed rows are read from the disk, or 0 if there are none."""
    size, seconds = 0, 0.0
    for file in read_manifest(folder, "packed")["files"]:
        path = folder / file["name"]
        forget(path)
        started = time.monotonic()
        with path.open("rb", buffering=0) as opened:
            while size < READ_BYTES and (piece := opened.read(PIECE_BYTES)):
                size += len(piece)
        seconds += time.monotonic() - started
    return size / max(seconds, 1e-9)


def forget(path: Path) -> None:
    """Drop a file from the memory of this host, so that reading it reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_speed(path: Path) -> float:
    """Bytes per second at which a new file reaches the disk. Raises OSError if it does not."""
    piece, size = secrets.token_bytes(PIECE_BYTES), 0  # nothing that a file system could compress
    started = time.monotonic()
    if (target := bucket_path(path)) is not None:
        size = WRITE_BYTES
        target.write_bytes(piece * (size // PIECE_BYTES))
        seconds = time.monotonic() - started
        target.unlink()
        return size / max(seconds, 1e-9)
    try:
        with path.open("xb", buffering=0) as file:
            while size < WRITE_BYTES:
                size += file.write(piece)
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    return size / max(time.monotonic() - started, 1e-9)


def judge_storage(config: TrainConfig, step_bytes: int, measures: list[Measure]) -> list[Row]:
    told = sorted({each["shared"] for each in measures} - {""})
    rows = [Row(RUN_FOLDER, "wrong", line) for line in told]
    if not rows:
        rows = [Row(RUN_FOLDER, "ok", as_url(config.run_dir), "one for all hosts, with the same steps")]
    rows += speeds_of("read", "unread", "reading packed rows", measures, "mount the folder of --data.path on this host")
    rows += speeds_of("write", "unwritten", WRITING, measures, "make room in --run-dir, or choose another")
    if any(each["free"] is None for each in measures):
        return [*rows, Row(FREE, "ok", "a bucket", "no limit is known")]
    free, kept = min(each["free"] for each in measures), config.checkpoint.keep + 1  # the new one comes before one goes
    status = "wrong" if free < step_bytes else "warning" if free < kept * step_bytes else "ok"
    place = ", ".join(each["place"] for each in measures if each["free"] == free) if status != "ok" else ""
    return [
        *rows,
        Row(
            FREE,
            status,
            readable(free),
            f"{kept} steps of {readable(step_bytes)}",
            place,
            "" if status == "ok" else "make room in --run-dir",
        ),
    ]


def speeds_of(speed: str, error: str, check: str, measures: list[Measure], remedy: str) -> list[Row]:
    rows = [Row(check, "wrong", each[error], place=each["place"], remedy=remedy) for each in measures if each[error]]
    speeds = {each["place"]: each[speed] for each in measures if not each[error]}
    rows += [
        Row(
            check,
            "warning",
            f"{speeds[place] / 1e6:,.0f} MB/s",
            f"median of its peers: {peers / 1e6:,.0f}",
            place,
            "look for other programs and the mount's options",
        )
        for place, peers in slow(speeds).items()
        if speeds[place] < peers / 2  # disks vary more than devices
    ]
    if speeds and not rows:
        rows.append(Row(check, "ok", between([each / 1e6 for each in speeds.values()], "MB/s per host")))
    return rows
