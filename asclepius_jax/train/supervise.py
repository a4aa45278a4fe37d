"""`--restarts N`: a run that crashes is started again, as long as it comes forward between its crashes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asclepius_jax.checkpoint.read import steps_of
from data_prep.contract.errors import UserError

RESTARTS = "ASCLEPIUS_RESTARTS"  # what --restarts is where the flag is not given
SUPERVISED = "ASCLEPIUS_SUPERVISED"  # set for the run itself, so that it does not supervise one in turn
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 300.0
# What a person must mend, and what a person asked for.
FINAL = {0: "", 2: "what it says above must be mended first", 130: "it was interrupted"}


def restarts_asked(flag: int) -> int:
    """How often to start again after crashes in a row without a new checkpoint; 0 where nobody supervises."""
    if SUPERVISED in os.environ:
        return 0
    text = os.environ.get(RESTARTS, "")
    if flag < 0 or not (text.isdigit() or not text):
        raise UserError(f"--restarts is {flag}, {RESTARTS} {text!r}: a number of 0 or more")
    return flag or int(text or 0)


def supervise(command: Sequence[str], run_dir: Path, restarts: int, first_wait: float = FIRST_WAIT_SECONDS) -> int:
    """Run the command until it ends well or for good; returns its last exit code.

    A signal to stop is passed on, and ends the watch. The wait before a start doubles with each crash that brought no
    new checkpoint; after `restarts` of those in a row it gives up.
    """
    child: subprocess.Popen[bytes] | None = None
    stopping = False

    def pass_on(number: int, _: Any) -> None:
        nonlocal stopping
        stopping = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    crashes, reached = 0, newest(run_dir)
    while True:
        child = subprocess.Popen(command, env={**os.environ, SUPERVISED: "1"})
        code = child.wait()
        if code in FINAL or stopping:
            if FINAL.get(code):
                tell(f"the run ended with code {code}: {FINAL[code]}")
            return exit_code(code)
        before, reached = reached, newest(run_dir)
        crashes = 1 if reached > before else crashes + 1
        if crashes > restarts:
            tell(f"the run crashed {crashes} times in a row without a new checkpoint, the last time with code {code}")
            return exit_code(code)
        wait = min(first_wait * 2 ** (crashes - 1), LONGEST_WAIT_SECONDS)
        tell(f"the run crashed with code {code} at checkpoint {reached}: start {crashes} of {restarts} in {wait:.0f} s")
        until = time.monotonic() + wait
        while time.monotonic() < until and not stopping:
            time.sleep(0.1)
        if stopping:
            return exit_code(code)


def exit_code(code: int) -> int:
    """Of a process that a signal ended, as a shell has it."""
    return code if code >= 0 else 128 - code


def newest(run_dir: Path) -> int:
    steps = steps_of(run_dir)
    return int(steps[-1].name) if steps else 0


def tell(line: str) -> None:
    print(f"asclepius train: {line}", file=sys.stderr, flush=True)
