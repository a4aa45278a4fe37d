"""Time accounts of a run over all of its starts, and its goodput: the share spent on steps that were not undone.

run/goodput/0001.json, 0002.json, ...    one file per start, updated with the metrics so that it survives a kill
"""

import json
import time
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.train.watch.metrics import Clock, read_metrics, unless_full
from data_prep.contract.folders.holder import process_started

FOLDER = "goodput"


class Goodput:
    """The time account of this start."""

    def __init__(self, run_dir: Path, clock: Clock, first_step: int):
        self.folder, self.clock = run_dir / FOLDER, clock
        earlier = read_accounts(run_dir)
        self.path = self.folder / f"{len(earlier) + 1:04}.json"
        began = process_started() or time.time()
        # The time before the clock existed: starting Python and importing modules.
        clock.seconds["start-up"] += max(0.0, time.time() - began - sum(clock.seconds.values()))
        # Work undone by a crash: the steps after the one from which this start resumes. The first step of each start
        # is left out, because its time is counted as compilation.
        compiled = {account["first_step"] + 1 for account in earlier}
        rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if "seconds" in row]
        self.account: dict[str, Any] = {
            "began": began,
            "first_step": first_step,
            "restart": max(0.0, began - earlier[-1]["ended"]) if earlier else 0.0,
            "lost_work": undone([row for row in rows if row["step"] not in compiled], first_step, earlier),
        }
        self.write(first_step)

    def write(self, step: int) -> None:
        if jax.process_index() != 0:
            return
        self.account |= {"ended": time.time(), "step": step, "seconds": dict(self.clock.seconds)}
        with unless_full():
            self.folder.mkdir(exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.account) + "\n")
            partial.replace(self.path)


def undone(rows: list[dict[str, Any]], first_step: int, accounts: list[dict[str, Any]]) -> float:
    """The step seconds of earlier starts that were spent after `first_step`.

    The seconds of a row include the loop itself, unlike those of the clock, so only the share of the rows is used.
    """
    kept = sum(account["seconds"].get("step", 0.0) - account["lost_work"] for account in accounts)
    lost = sum(row["seconds"] for row in rows if row["step"] > first_step)
    return max(0.0, kept) * lost / max(sum(row["seconds"] for row in rows), 1e-9)


def read_accounts(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((run_dir / FOLDER).glob("*.json"))]


def summed(run_dir: Path) -> dict[str, float]:
    """Seconds of each kind over all starts of a run, largest first.

    "step" is training that was not undone. "lost work" was undone by a crash and computed again. "restart" is the time
    between starts. "other" is time that no clock measured: the loop itself, and the end of a process after its last
    record.
    """
    accounts = read_accounts(run_dir)
    total = {"lost work": 0.0}
    for account in accounts:
        spent = account["ended"] - account["began"]
        parts = {**account["seconds"], "restart": account["restart"], "lost work": account["lost_work"]}
        parts["other"] = max(0.0, spent - sum(account["seconds"].values()))
        for name, seconds in parts.items():
            total[name] = total.get(name, 0.0) + seconds
    total["step"] = total.get("step", 0.0) - total["lost work"]
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def share(seconds: dict[str, float]) -> float:
    """The goodput: the fraction of all time spent on steps that were not undone."""
    return seconds.get("step", 0.0) / max(sum(seconds.values()), 1e-9)


def goodput_line(run_dir: Path) -> str:
    seconds, count = summed(run_dir), len(read_accounts(run_dir))
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if value >= 0.05)
    starts = "1 start" if count == 1 else f"{count} starts"
    return f"goodput {share(seconds):.1%} of {sum(seconds.values()):.1f} s over {starts}: {parts}"
