"""A training run in a process of its own that can be struck at a step.

run_training.py CONFIG STEP STRIKE [FLAGS]

CONFIG is a Python file of values; STEP 0 lets it run to its end; STRIKE is the number of a signal that comes once every
earlier save is on disk, or one of
  hang      the process does nothing more, as with a file system that does not answer
  hang-fast as hang; from then on the clock of its watchdog runs 300 times as fast, so that ten minutes are two seconds
  full      the first save after the step fails in this process, as on a full disk
  saving    SIGTERM as soon as a save is under way, and a second one at once
  judging   SIGTERM after the first batch of the first evaluation from the step on
FLAGS are those of `asclepius train`.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from asclepius_jax import cli
from asclepius_jax.train import loop
from asclepius_jax.train.watch import watchdog


def strike(step: int, what: str) -> None:
    add = loop.Metrics.add

    def add_and_strike(self: loop.Metrics, at: int, numbers: dict[str, Any]) -> None:
        add(self, at, numbers)
        if at != step:
            return
        folder = self.path.parent / "checkpoints"
        if what == "hang-fast":
            hurry()
        if what.startswith("hang"):
            threading.Event().wait()
        elif what == "full":
            fail_once()
        elif what == "saving":
            threading.Thread(target=when_saving, args=(folder,), daemon=True).start()
        elif what == "judging":
            strike_evaluation()
        else:
            while list(folder.glob(".*.saving")):
                time.sleep(0.05)
            os.kill(os.getpid(), int(what))

    loop.Metrics.add = add_and_strike


def hurry() -> None:
    began = time.monotonic()
    watchdog.time = SimpleNamespace(monotonic=lambda: began + 300 * (time.monotonic() - began))


def fail_once() -> None:
    start = loop.Saver.start

    def fail(*_: Any) -> None:
        loop.Saver.start = start
        raise OSError(28, os.strerror(28))

    loop.Saver.start = fail


def strike_evaluation() -> None:
    eval_batches = loop.eval_batches

    def struck(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(eval_batches(*arguments)):
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    loop.eval_batches = struck


def when_saving(folder: Path) -> None:
    while not list(folder.glob(".*.saving")):
        time.sleep(0.001)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


if __name__ == "__main__":
    config, step, what, *flags = sys.argv[1:]
    if int(step):
        strike(int(step), what)
    # A supervisor starts this very command again.
    arguments, sys.argv = sys.argv, ["asclepius", "train", config, *flags]
    if "--restarts" in flags:
        from asclepius_jax.train.watch import supervise

        run = supervise.supervise
        supervise.supervise = lambda _, run_dir, restarts: run([sys.executable, *arguments], run_dir, restarts, 0.2)
    cli.main()
