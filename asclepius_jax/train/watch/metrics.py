"""Metrics of a run: metrics.jsonl, TensorBoard and the line on the terminal."""

import errno
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asclepius_jax.config import LogConfig
from asclepius_jax.cost_model.flops import flops_per_token
from asclepius_jax.cost_model.hardware import peak_flops
from asclepius_jax.model.sizes import DecoderConfig

Send = Callable[[list[dict[str, Any]]], None]


class Clock:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] += time.monotonic() - started


@contextmanager
def unless_full() -> Iterator[None]:
    """Context that ignores a full disk, because failing to log must not stop a run."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


class Metrics:
    """Keeps the metrics of each step on the device and fetches them every `every_steps`, so that no step waits."""

    def __init__(self, run_dir: Path, config: LogConfig, first_step: int, total_steps: int, send: Send):
        """`send` passes the rows on to other trackers."""
        self.config, self.total_steps, self.send = config, total_steps, send
        self.pending: list[tuple[int, dict[str, jax.Array]]] = []
        self.unwritten: list[dict[str, Any]] = []  # rows that could not be written because the disk was full
        self.last_fetch = time.monotonic()
        self.paused = 0.0
        self.writes = jax.process_index() == 0
        self.path = run_dir / "metrics.jsonl"
        self.tensorboard: Any = None
        self.progress: Progress | None = None
        if self.writes:
            self.open(run_dir, first_step)

    def open(self, run_dir: Path, first_step: int) -> None:
        # Steps after the last checkpoint are repeated. Drop their old rows, which would otherwise appear twice.
        rows = read_metrics(self.path)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= first_step))
        if self.config.tensorboard:
            from tensorboardX import SummaryWriter

            self.tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        console = Console(stderr=True)
        if self.config.progress and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.progress = Progress(*columns, console=console)
            self.bar = self.progress.add_task("starting", total=self.total_steps, completed=first_step)
            self.progress.start()

    def start_clock(self) -> None:
        self.last_fetch, self.paused = time.monotonic(), 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Context whose time does not count as step time."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - started

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self.pending.append((step, metrics))

    def due(self, step: int) -> bool:
        return step % self.config.every_steps == 0 or step == self.total_steps

    def fetch(self, throughput: "Throughput") -> list[dict[str, Any]]:
        """Wait for the pending steps and write their rows."""
        if not self.pending:
            return []
        fetched = jax.device_get([metrics for _, metrics in self.pending])
        seconds = (time.monotonic() - self.last_fetch - self.paused) / len(self.pending)
        rows = [
            {"step": step, **numbers(values), **throughput.of(seconds), **held()}
            for (step, _), values in zip(self.pending, fetched, strict=True)
        ]
        self.pending = []
        self.start_clock()
        self.write(rows)
        if self.writes:
            self.show(rows[-1])
        return rows

    def write(self, rows: list[dict[str, Any]]) -> None:
        if not self.writes:
            return
        self.unwritten += rows
        with unless_full():
            with self.path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in self.unwritten))
            self.unwritten = []
        if self.tensorboard is not None:
            for row in rows:
                for name, value in row.items():
                    if name != "step" and value is not None:
                        self.tensorboard.add_scalar(name, value, row["step"])
        self.send(rows)

    def show(self, row: dict[str, Any]) -> None:
        mfu = "" if row["mfu"] is None else f"  MFU {row['mfu']:.1%}"
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        text = f"loss {row['loss']:.4f}  lr {row['learning_rate']:.2e}  {speed}{mfu}"
        if self.progress is not None:
            self.progress.update(self.bar, completed=row["step"], description=text)
        elif self.config.progress:
            left = (self.total_steps - row["step"]) * row["seconds"]
            print(f"step {row['step']}/{self.total_steps}  {text}  {left / 60:.1f} min left", flush=True)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.tensorboard is not None:
            self.tensorboard.close()


class Throughput:
    """Tokens per second and MFU from seconds per step. Padding counts as tokens, since the hardware computes it."""

    def __init__(self, model: DecoderConfig, global_batch: int, row_length: int, adapters: int = 0):
        self.tokens = global_batch * row_length
        peak = peak_flops(jax.devices()[0].device_kind)
        self.peak = None if peak is None else peak * jax.device_count()
        self.flops = {
            "mfu": self.tokens * flops_per_token(model, row_length, False, adapters),
            "mfu_causal": self.tokens * flops_per_token(model, row_length, True, adapters),
        }

    def of(self, seconds: float) -> dict[str, float | None]:
        return {
            "seconds": seconds,
            "tokens_per_second": self.tokens / seconds,
            "tokens_per_second_per_device": self.tokens / seconds / jax.device_count(),
            **{name: None if self.peak is None else flops / seconds / self.peak for name, flops in self.flops.items()},
        }


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """A step's metrics as numbers, without the loss of a source that had no row in the batch."""
    found = {name: float(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if "/" not in name or not math.isnan(value)}


def held() -> dict[str, int]:
    """Peak memory in bytes of this process's first device. Empty if the platform does not report it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_memory_peak": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a truncated last line."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Trace:
    """Profile for xprof that starts at the third step, because the first compiles and the second may be irregular."""

    def __init__(self, folder: Path, first_step: int, steps: int):
        self.folder, self.begin, self.end = folder, first_step + 2, first_step + 2 + steps
        self.running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def after(self, step: int, numbers: dict[str, jax.Array]) -> None:
        """Start or stop tracing after `step` was sent to the devices. Waits for the step only in these two cases."""
        if step == self.begin and self.end > self.begin:
            jax.block_until_ready(numbers)
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        elif step == self.end and self.running:
            jax.block_until_ready(numbers)
            self.stop()

    def stop(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
