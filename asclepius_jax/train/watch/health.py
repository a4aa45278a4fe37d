"""Health checks of a run: skipped updates, loss spikes and slow processes."""

import json
import math
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from asclepius_jax.config import HealthConfig
from asclepius_jax.train.batches import TrainBatches
from asclepius_jax.train.watch.metrics import Clock, unless_full

EVENTS = "events.jsonl"
REMEMBERED = 100  # number of recent losses with which a new one is compared
FEWEST = 20  # number of losses needed before any is called a spike
LEAST_JUMP = 0.1  # nats; smaller jumps are ignored even if the usual spread is tiny
ROWS_SHOWN = 16
# For a normal distribution, the standard deviation is the median absolute deviation (MAD) times this.
SIGMAS_PER_MAD = 1.4826


class Health:
    """Checks the metrics of each step when they are fetched, and reports problems to the log and to events.jsonl."""

    def __init__(self, run_dir: Path, config: HealthConfig, batches: TrainBatches):
        self.path, self.config, self.batches = run_dir / EVENTS, config, batches
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self.skipped_in_a_row = 0

    def look(self, rows: list[dict[str, Any]]) -> str:
        """Check the metrics of steps in order. Returns the reason why the run must stop, or ""."""
        for row in rows:
            if row["skipped"]:
                self.skipped_in_a_row += 1
                self.report(row, "skipped", f"{culprit(row)} is not finite, skipping the update")
                if self.skipped_in_a_row > self.config.max_skipped:
                    return self.why_stop(row)
                continue
            self.skipped_in_a_row = 0
            if self.jumps(row["loss"]):
                self.report(
                    row, "spike", f"the loss {row['loss']:.3f} jumped from {statistics.median(self.losses):.3f}"
                )
            self.losses.append(row["loss"])
        return ""

    def jumps(self, loss: float) -> bool:
        if len(self.losses) < FEWEST:
            return False
        middle = statistics.median(self.losses)
        spread = SIGMAS_PER_MAD * statistics.median(abs(other - middle) for other in self.losses)
        return loss - middle > max(self.config.spike_sigmas * spread, LEAST_JUMP)

    def report(self, row: dict[str, Any], event: str, text: str) -> None:
        if jax.process_index() != 0:
            return
        numbers = {name: row[name] if math.isfinite(row[name]) else str(row[name]) for name in ("loss", "grad_norm")}
        # Batches are counted from 0, steps from 1.
        record = {"step": row["step"], "event": event, **numbers, "rows": self.batches.row_names(row["step"] - 1)}
        with unless_full(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"WARNING: step {row['step']}: {text}; its rows are listed in {self.path}", flush=True)

    def why_stop(self, row: dict[str, Any]) -> str:
        ids = self.batches.row_names(row["step"] - 1)
        more = f" and {len(ids) - ROWS_SHOWN} more" if len(ids) > ROWS_SHOWN else ""
        remedy = {
            "the update": "use a larger optimizer.epsilon or a lower learning rate",
            "loss or gradient": "inspect the rows, or use a lower learning rate",
        }
        return (
            f"{culprit(row)} was not finite in {self.skipped_in_a_row} steps in a row (health.max_skipped "
            f"{self.config.max_skipped}), the last of them {row['step']}, with rows "
            f"{', '.join(map(str, ids[:ROWS_SHOWN]))}{more} of {self.batches.rows.folder} (all in {self.path}). The "
            f"parameters from before these steps are saved: {remedy[culprit(row)]}, in another --run-dir"
        )


def culprit(row: dict[str, Any]) -> str:
    """The quantity of a skipped step that is not finite. Updates overflow through the optimizer's settings alone."""
    return "the update" if math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) else "loss or gradient"


# ---------------------------------------------------------------- processes


class Pace:
    """Compares the speed of the processes of a job.

    The processes wait for one another in every step, so their steps take equally long. They are therefore also compared
    by how long they wait for input, and how fast their own devices compute on their own.
    """

    def __init__(self, config: HealthConfig, clock: Clock):
        self.every = config.compare_every if jax.process_count() > 1 else 0
        self.clock, self.last_step, self.input_seconds = clock, 0, 0.0

    def compare_if_due(self, step: int, step_seconds: float) -> None:
        """Report slow processes. Every process must call this at the same steps."""
        steps = step - self.last_step
        if not self.every or steps < self.every:
            return
        waited = (self.clock.seconds["input"] - self.input_seconds) / steps
        self.last_step, self.input_seconds = step, self.clock.seconds["input"]
        own = np.array([step_seconds, waited, device_seconds()], np.float32)
        all_seconds = np.asarray(multihost_utils.process_allgather(own)).reshape(-1, len(own))
        for line in laggards(all_seconds):
            if jax.process_index() == 0:
                print(f"WARNING: step {step}: {line}", flush=True)


def laggards(seconds: np.ndarray) -> list[str]:
    """One line per slow process and kind of delay, from seconds (processes, 3)."""
    names = ("per step", "per step waiting for input", "for a benchmark product on its own devices")
    return [
        f"process {place} takes {values[place]:.4f} s {name}, the median of all processes is {np.median(values):.4f} s"
        for name, values in zip(names, seconds.T, strict=True)
        for place in lagging(values)
    ]


def lagging(values: np.ndarray, deviations: float = 3.0, share: float = 0.2) -> list[int]:
    """Indices of values above the median by more than 3 median absolute deviations, by a fifth and by 1 ms."""
    middle = np.median(values)
    mad = np.median(np.abs(values - middle))
    return [int(i) for i in np.flatnonzero(values - middle > max(deviations * mad, share * middle, 1e-3))]


PRODUCTS = 8  # in one program, so that its start does not count


@jax.jit
def product(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, PRODUCTS, lambda _, y: y @ x, x)


def device_seconds() -> float:
    """Seconds that the slowest local device takes for a benchmark product without communication."""
    return max(product_seconds(device, 512, "bfloat16") for device in jax.local_devices())


def product_seconds(device: jax.Device, size: int, dtype: str) -> float:
    """Seconds that a device takes for PRODUCTS products of square matrices."""
    x = jax.device_put(jnp.full((size, size), 1 / size, dtype), device)
    product(x).block_until_ready()
    started = time.monotonic()
    product(x).block_until_ready()
    return time.monotonic() - started
