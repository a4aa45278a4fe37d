"""A preflight in a process of its own, with faults planted into it.

run_preflight.py FAULTS [ARGUMENTS]

FAULTS are separated by commas, or "none":
  kernel       attention sees the documents before its own, on every device of this process
  disk         no file can be written, as on a full disk
  rows         reading a row takes 50 ms
  device       products take five times as long
  broken       products fail
  stuck        the process does not come back from the meeting before its first collective
  sleep:STAGE  the process sleeps in a stage, whose limit is 3 seconds
  limit:STAGE  the same limit without sleeping
ARGUMENTS are those of `asclepius preflight`.
"""

import os
import sys
import time
from typing import Any

import jax.numpy as jnp

from asclepius_jax import cli
from asclepius_jax.model import attention
from asclepius_jax.plan.preflight import preflight, speeds, stages, storage
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.watch import health


def leak(segments_BT: Any, window: int | None = None) -> Any:
    B, T = segments_BT.shape
    return jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool)), (B, T, T))


def full(*_: Any) -> float:
    raise OSError(28, os.strerror(28))


def late_rows() -> None:
    read = PackedRows.__getitem__

    def slow(self: PackedRows, index: int) -> Any:
        time.sleep(0.05)
        return read(self, index)

    PackedRows.__getitem__ = slow


def plant(fault: str) -> None:
    kind, _, stage = fault.partition(":")
    if kind == "kernel":
        attention.packed_mask = leak
    elif kind == "disk":
        storage.write_speed = full
    elif kind == "rows":
        late_rows()
    elif kind == "device":
        seconds = health.product_seconds
        health.product_seconds = lambda *arguments: 5 * seconds(*arguments)
    elif kind == "broken":
        health.product_seconds = lambda *_: 1 / 0
    elif kind == "stuck":
        meet = speeds.meet
        speeds.meet = lambda name: (meet(name), time.sleep(100))
    elif kind in ("sleep", "limit"):
        stages.LIMITS[stage] = 3.0
        if kind == "sleep":
            setattr(preflight, f"measure_{stage}", lambda *_: time.sleep(100))
    else:
        assert kind == "none", kind


if __name__ == "__main__":
    faults, *arguments = sys.argv[1:]
    for fault in faults.split(","):
        plant(fault)
    sys.argv = ["asclepius", "preflight", *arguments]
    cli.main()
