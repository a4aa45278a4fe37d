"""A training run in a process of its own that can be struck at a step.

run_training.py CONFIG STEP SIGNAL [COORDINATOR RANK COUNT]

CONFIG is a Python file of values; STEP 0 lets it run to its end. The last three make it one of several processes.
"""

import os
import signal
import sys
import time
from typing import Any

import jax

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
    if len(sys.argv) > 4:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(sys.argv[4], process_id=int(sys.argv[5]), num_processes=int(sys.argv[6]))
    if step:
        strike(step, signal.Signals(number))
    loop.train(config)
