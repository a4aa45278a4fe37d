"""`--restarts N`: restart a run that crashes, as long as it makes progress between crashes."""

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

RESTARTS = "ASCLEPIUS_RESTARTS"  # default of --restarts
SUPERVISED = "ASCLEPIUS_SUPERVISED"  # set for the supervised run, so that it does not supervise another one
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 300.0
# Exit codes after which there is no restart: success, an error that the user must fix, an interruption by the user.
FINAL = {0: "", 2: "fix the error above first", 130: "it was interrupted"}


def restarts_asked(flag: int) -> int:
    """Maximum number of consecutive restarts without a new checkpoint. 0 means no supervision.

    Raises UserError if the flag or the environment variable is not a number of 0 or more.
    """
    if SUPERVISED in os.environ:
        return 0
    text = os.environ.get(RESTARTS, "")
    if flag < 0 or not (text.isdigit() or not text):
        raise UserError(f"--restarts is {flag}, {RESTARTS} is {text!r}: each must be a number of 0 or more")
    return flag or int(text or 0)


def supervise(command: Sequence[str], run_dir: Path, restarts: int, first_wait: float = FIRST_WAIT_SECONDS) -> int:
    """Run the command, restarting it after crashes, and return its last exit code.

    SIGTERM and SIGINT are passed on and end the supervision. The wait before a restart doubles with each crash that
    brought no new checkpoint. After `restarts` such crashes in a row it gives up.
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
                report(f"the run ended with code {code}: {FINAL[code]}")
            return exit_code(code)
        before, reached = reached, newest(run_dir)
        crashes = 1 if reached > before else crashes + 1
        if crashes > restarts:
            report(f"the run crashed {crashes} times in a row without a new checkpoint, the last time with code {code}")
            return exit_code(code)
        wait = min(first_wait * 2 ** (crashes - 1), LONGEST_WAIT_SECONDS)
        report(
            f"the run crashed with code {code} at checkpoint {reached}: restart {crashes} of {restarts} in {wait:.0f} s"
        )
        until = time.monotonic() + wait
        while time.monotonic() < until and not stopping:
            time.sleep(0.1)
        if stopping:
            return exit_code(code)


def exit_code(code: int) -> int:
    """Exit code of a process as a shell reports it: 128 + N if signal N ended it."""
    return code if code >= 0 else 128 - code


def newest(run_dir: Path) -> int:
    steps = steps_of(run_dir)
    return int(steps[-1].name) if steps else 0


def report(line: str) -> None:
    print(f"asclepius train: {line}", file=sys.stderr, flush=True)
