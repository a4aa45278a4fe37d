"""A training run in a process of its own that can be struck at a step.

run_training.py CONFIG STEP SIGNAL [FLAGS]

CONFIG is a Python file of values; STEP 0 lets it run to its end; FLAGS are those of `asclepius train`.
"""

import os
import signal
import sys
import time
from typing import Any

from asclepius_jax import cli
from asclepius_jax.train import loop


def strike(step: int, number: int) -> None:
    """Send this process a signal once `step` is computed and every earlier save is on disk."""
    add = loop.Metrics.add

    def add_and_strike(self: loop.Metrics, at: int, numbers: dict[str, Any]) -> None:
        add(self, at, numbers)
        if at == step:
            while list((self.path.parent / "checkpoints").glob(".*.saving")):
                time.sleep(0.05)
            os.kill(os.getpid(), number)

    loop.Metrics.add = add_and_strike


if __name__ == "__main__":
    config, step, number, *flags = sys.argv[1:]
    if int(step):
        strike(int(step), signal.Signals(int(number)))
    sys.argv = ["asclepius", "train", config, *flags]
    cli.main()
