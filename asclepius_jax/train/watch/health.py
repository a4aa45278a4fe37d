"""What a run's numbers tell of its health: updates that were skipped, losses that jump, processes that lag."""

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
from asclepius_jax.train.metrics import Clock, unless_full

EVENTS = "events.jsonl"
REMEMBERED = 100  # losses that a new one is compared with
FEWEST = 20
LEAST_JUMP = 0.1  # nats; below it a jump beyond any multiple of a small spread is no news
ROWS_TOLD = 16
# Of the normal distribution: a median absolute deviation times this is a standard deviation.
SIGMAS_A_MAD = 1.4826


class Health:
    """Looks at each step's numbers as they are fetched; what is out of order goes to the log and to events.jsonl."""

    def __init__(self, run_dir: Path, config: HealthConfig, batches: TrainBatches):
        self.path, self.config, self.batches = run_dir / EVENTS, config, batches
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self.skipped_in_a_row = 0

    def look(self, rows: list[dict[str, Any]]) -> str:
        """Why the run must stop, or "". `rows` are metrics of steps in order."""
        for row in rows:
            if row["skipped"]:
                self.skipped_in_a_row += 1
                self.tell(row, "skipped", "loss or gradient is not finite, the update is skipped")
                if self.skipped_in_a_row > self.config.max_skipped:
                    return self.why_stop(row)
                continue
            self.skipped_in_a_row = 0
            if self.jumps(row["loss"]):
                self.tell(row, "spike", f"the loss {row['loss']:.3f} jumped from {statistics.median(self.losses):.3f}")
            self.losses.append(row["loss"])
        return ""

    def jumps(self, loss: float) -> bool:
        if len(self.losses) < FEWEST:
            return False
        middle = statistics.median(self.losses)
        spread = SIGMAS_A_MAD * statistics.median(abs(other - middle) for other in self.losses)
        return loss - middle > max(self.config.spike_sigmas * spread, LEAST_JUMP)

    def tell(self, row: dict[str, Any], event: str, text: str) -> None:
        if jax.process_index() != 0:
            return
        numbers = {name: row[name] if math.isfinite(row[name]) else str(row[name]) for name in ("loss", "grad_norm")}
        # The batch of a step is numbered from 0.
        record = {"step": row["step"], "event": event, **numbers, "rows": self.batches.row_ids(row["step"] - 1)}
        with unless_full(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"WARNING: step {row['step']}: {text}; its rows are in {self.path}", flush=True)

    def why_stop(self, row: dict[str, Any]) -> str:
        ids = self.batches.row_ids(row["step"] - 1)
        more = f" and {len(ids) - ROWS_TOLD} more" if len(ids) > ROWS_TOLD else ""
        return (
            f"loss or gradient was not finite in {self.skipped_in_a_row} steps in a row (health.max_skipped "
            f"{self.config.max_skipped}), the last of them {row['step']}, with rows "
            f"{', '.join(map(str, ids[:ROWS_TOLD]))}{more} of {self.batches.rows.folder} (all in {self.path}). The "
            "parameters are those before these steps, and are saved: look at the rows, or lower the learning rate in "
            "another --run-dir"
        )


# ---------------------------------------------------------------- processes


class Pace:
    """Compares the processes of a job. They wait for one another in every step, so that all steps take as long; what
    tells them apart is how long each waits for input, and how fast its own devices compute alone."""

    def __init__(self, config: HealthConfig, clock: Clock):
        self.every = config.compare_every if jax.process_count() > 1 else 0
        self.clock, self.last_step, self.input_seconds = clock, 0, 0.0

    def compare_if_due(self, step: int, step_seconds: float) -> None:
        """Name the processes that lag; every process calls this at the same steps."""
        steps = step - self.last_step
        if not self.every or steps < self.every:
            return
        waited = (self.clock.seconds["input"] - self.input_seconds) / steps
        self.last_step, self.input_seconds = step, self.clock.seconds["input"]
        mine = np.array([step_seconds, waited, device_seconds()], np.float32)
        everyones = np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, len(mine))
        for line in laggards(everyones):
            if jax.process_index() == 0:
                print(f"WARNING: step {step}: {line}", flush=True)


def laggards(seconds: np.ndarray) -> list[str]:
    """A line for each process that lags in something, from (processes, 3) seconds."""
    names = ("a step", "a step waiting for input", "for a fixed product on its devices alone")
    return [
        f"process {place} takes {values[place]:.4f} s {name}, the median of all is {np.median(values):.4f}"
        for name, values in zip(names, seconds.T, strict=True)
        for place in lagging(values)
    ]


def lagging(values: np.ndarray, deviations: float = 3.0, share: float = 0.2) -> list[int]:
    """The places of values above the median by more than three median absolute deviations, and by a fifth."""
    middle = np.median(values)
    mad = np.median(np.abs(values - middle))
    return [int(i) for i in np.flatnonzero(values - middle > max(deviations * mad, share * middle, 1e-3))]


@jax.jit
def product(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 8, lambda _, y: y @ x, x)


def device_seconds() -> float:
    """Of the slowest local device, for a product that no other process takes part in."""
    slowest = 0.0
    for device in jax.local_devices():
        x = jax.device_put(jnp.full((512, 512), 1 / 512, jnp.bfloat16), device)
        product(x).block_until_ready()
        started = time.monotonic()
        product(x).block_until_ready()
        slowest = max(slowest, time.monotonic() - started)
    return slowest
