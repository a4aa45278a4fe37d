"""A preflight's rows as a table on the terminal, and as JSON for a support ticket."""

import dataclasses
import json
import platform
import time
from importlib import metadata
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from asclepius_jax.config import TrainConfig
from asclepius_jax.distributed.same_program import VERSIONS
from asclepius_jax.plan.preflight.records import Row
from data_prep.contract.folders.output_folders import write_durably

COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red", "skipped": "dim"}


def show(rows: list[Row]) -> None:
    table = Table("check", "", "value", "expected", "host and device", "remedy", title="preflight")
    for row in rows:
        colour = COLOURS[row.status]
        table.add_row(row.check, f"[{colour}]{row.status}[/{colour}]", row.value, row.expected, row.place, row.remedy)
    # A log is not a terminal of 80 columns.
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def write_json(path: Path, rows: list[Row], seconds: dict[str, float], config: TrainConfig) -> None:
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    report = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "verdict": verdict(rows),
        "rows": [dataclasses.asdict(row) for row in rows],
        "seconds": seconds,
        "versions": {"python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "processes": jax.process_count(),
        "config": dataclasses.asdict(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(report, indent=1) + "\n")


def verdict(rows: list[Row]) -> str:
    statuses = [row.status for row in rows]
    return "wrong" if "wrong" in statuses else "warning" if "warning" in statuses else "ok"
