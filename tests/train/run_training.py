"""A training run in a process of its own that can be struck at a step: `run_training.py CONFIG STEP SIGNAL`.

CONFIG is a Python file of values; STEP and SIGNAL 0 let it run to its end.
"""

import os
import signal
import sys
import time
from typing import Any

from asclepius_jax.config import load_config
from asclepius_jax.train import loop


def strike(step: int, number: int) -> None:
    """Send this process a signal once `step` is computed and every earlier save is on disk."""
    add = loop.Metrics.add

    def add_and_strike(self: loop.Metrics, at: int, numbers: dict[str, Any]) -> None:
        add(self, at, numbers)
        if at == step:
            while list((self.path.parent / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
                time.sleep(0.05)
            os.kill(os.getpid(), number)

    loop.Metrics.add = add_and_strike


if __name__ == "__main__":
    config, step, number = load_config(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if step:
        strike(step, signal.Signals(number))
    loop.train(config)
