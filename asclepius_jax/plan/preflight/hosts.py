"""Do the hosts agree: settings, code, versions, compiler flags, clocks and packed rows."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from asclepius_jax.config import TrainConfig
from asclepius_jax.config.sources import training_sources
from asclepius_jax.distributed.job import current
from asclepius_jax.distributed.same_program import differences, facts_of, facts_of_data
from asclepius_jax.plan.preflight.records import Measure, Row, median
from asclepius_jax.plan.preflight.stages import meet
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import text_hash

PROGRAM, DATA = "settings, code and versions", "packed rows and prompt template"
CLOCK_SECONDS = 5.0  # beyond which logs of several hosts cannot be read together, and certificates may be refused
MOST_FACTS = 3


def measure_hosts(config: TrainConfig) -> Measure:
    """Differences of this process from process 0, and its clock at a moment that all share."""
    facts, data = facts_of(config), data_facts(config)
    program = {name: value for name, value in facts.items() if name not in data}
    meet("clocks")
    clock = time.time()
    return {
        "clock": clock,
        "program": differing("preflight program", program),
        "data": differing("preflight data", data),
    }


def data_facts(config: TrainConfig) -> dict[str, str]:
    """Hashes of the packed folders' manifests, which list those of their files, and of the prompt template."""
    facts = facts_of_data(config)
    with contextlib.suppress(UserError):  # a folder without a readable manifest is refused when it is opened
        folders = [Path(source.path) for source in training_sources(config.data)]
        templates = [read_manifest(folder, "packed")["prompt_template"] for folder in folders]
        facts["prompt template"] = text_hash(*templates)[:12]
    return facts


def differing(name: str, facts: dict[str, str]) -> list[str]:
    """Names of the facts that differ between this process and process 0."""
    job = current()
    if job is None:
        return []
    found = {int(key.rpartition("/")[2]): text for key, text in differences(job, name, facts)}
    return [line.removesuffix(" in process ") for line in found.get(job.process_id, "").splitlines()]


def judge_hosts(measures: list[Measure]) -> list[Row]:
    middle = median([each["clock"] for each in measures])
    offsets = {each["place"]: each["clock"] - middle for each in measures}
    rows = [
        Row(
            "clock",
            "warning",
            f"{offset:+.1f} s from the median",
            f"at most {CLOCK_SECONDS:.0f} s",
            place,
            "synchronize it (chrony, ntp)",
        )
        for place, offset in offsets.items()
        if abs(offset) > CLOCK_SECONDS
    ]
    if not rows:
        widest = max(offsets.values()) - min(offsets.values())
        rows = [Row("clocks", "ok", f"within {widest:.2f} s", f"within {CLOCK_SECONDS:.0f} s")]
    remedy = "install the same version and code, and start the same command, on every host"
    rows += agreement(PROGRAM, measures, lambda each: each["program"], remedy)
    return rows + agreement(
        DATA,
        measures,
        lambda each: each["data"],
        "copy the packed folder from the host of process 0, or share one",
    )


def agreement(check: str, measures: list[Measure], facts_in: Callable[[Measure], list[str]], remedy: str) -> list[Row]:
    rows = []
    for each in measures:
        if facts := facts_in(each):
            more = f"; and {len(facts) - MOST_FACTS} more" if facts[MOST_FACTS:] else ""
            rows.append(
                Row(check, "wrong", "; ".join(facts[:MOST_FACTS]) + more, "as in process 0", each["place"], remedy)
            )
    count = "one process" if len(measures) == 1 else f"the same in all {len(measures)} processes"
    return rows or [Row(check, "ok", count)]
