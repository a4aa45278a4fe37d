"""Check at the start that all processes of a job run the same program on the same data.

Without this check, a job with different settings would hang in its first collective or train the wrong thing.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.config import TrainConfig
from asclepius_jax.config.sources import held_out_sources, training_sources, with_paths
from asclepius_jax.distributed.job import Disagreement, Job, current
from data_prep.contract.errors import UserError, first_line
from data_prep.contract.folders.buckets.addresses import as_url

PACKAGES = ("asclepius_jax", "data_prep")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "tensorstore", "libtpu", "jax-cuda13-plugin")
# Settings that may differ between hosts, because they change nothing of the program: a cache on a local disk.
OF_ONE_HOST = ("compute.compiled",)
# Environment variables that change how the compiler translates the same program.
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def check_agreement(facts: dict[str, str]) -> None:
    """Compare the facts of all processes of the job. Returns at once if there is only one process.

    Raises Disagreement in every process, with the differing facts and processes, or UserError if a process does not
    take part within the timeout.
    """
    job = current()
    if job is None:
        return
    compare(job, "program", facts)
    # After comparing the versions, because devices of different versions may not even start together.
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    compare(job, "devices", {"devices": f"{jax.local_device_count()} x {', '.join(kinds)}"})


def check_same_files(folder: str) -> None:
    """Compare a folder of weights between the processes of the job, which may each have their own copy of it.

    Raises Disagreement or UserError as `check_agreement` does.
    """
    if (job := current()) is not None:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix in (".json", ".safetensors", ".model"))
        compare(
            job,
            f"weights/{as_url(folder)}",
            {as_url(str(path)): f"{path.stat().st_size} bytes, {beginning_hash(path)}" for path in paths},
        )


def beginning_hash(path: Path) -> str:
    """Hash of the first MiB, in which a safetensors file has its header and the first of its weights."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(2**20)).hexdigest()[:12]


def compare(job: Job, name: str, facts: dict[str, str]) -> None:
    if differing := differences(job, name, facts):
        raise Disagreement(f"the processes of the job do not agree: {summary(differing)}")


def differences(job: Job, name: str, facts: dict[str, str]) -> list[tuple[str, str]]:
    """(key that ends in a process id, lines `fact is A in process 0, B in process `) of each process that differs.

    Compares each process with process 0 only, so that traffic does not grow with the square of their number.
    """
    client, seconds = job.client, job.config.timeout_seconds
    place = f"asclepius/{name}"
    if job.process_id == 0:
        client.key_value_set(f"{place}/facts", json.dumps(facts))
    try:
        first = json.loads(client.blocking_key_value_get(f"{place}/facts", seconds * 1000))
        differing = [
            f"{fact} is {first.get(fact, 'absent')} in process 0, {facts.get(fact, 'absent')} in process "
            for fact in sorted(first.keys() | facts.keys())
            if first.get(fact) != facts.get(fact)
        ]
        if differing:
            client.key_value_set(f"{place}/differs/{job.process_id:06}", "\n".join(differing))
        meet(job, f"{place}/compared", seconds)
        differs: list[tuple[str, str]] = client.key_value_dir_get(f"{place}/differs/")
        meet(job, f"{place}/read", seconds)  # the coordinator must not leave before all have read
    except jax.errors.JaxRuntimeError as error:
        what = name.partition("/")[0]
        raise UserError(
            f"not every process reported its {what} within {job.config.timeout_seconds} s: see the logs of the other "
            f"processes ({first_line(error)})"
        ) from error
    return differs


def meet(job: Job, name: str, seconds: float) -> None:
    """Wait for all processes of the job, under a name that can be used only once.

    Each says first that it has come, so that `late` finds those for which the others wait.
    """
    job.meetings += 1
    job.client.key_value_set(f"asclepius/met/{job.process_id:06}", str(job.meetings), allow_overwrite=True)
    job.client.wait_at_barrier(name, int(seconds * 1000))


def late(job: Job) -> list[int]:
    """The processes that have not come to a meeting at which others wait. Empty if all came, and hang elsewhere."""
    met = dict.fromkeys(range(job.processes), 0)
    for key, count in job.client.key_value_dir_get("asclepius/met/"):
        met[int(key.rpartition("/")[2])] = int(count)
    return [number for number, count in met.items() if count < max(met.values())]


def from_first(name: str, value: str, longer: float = 0.0) -> str:
    """The value of process 0, in every process of the job; `value` itself in a single process.

    A name can be used only once per job. Raises UserError if process 0 does not tell it within the job's timeout and
    `longer` seconds, which process 0 may need for something before.
    """
    job = current()
    if job is None:
        return value
    place, seconds = f"asclepius/first/{name}", job.config.timeout_seconds + longer
    if job.process_id == 0:
        job.client.key_value_set(place, value)
        return value
    try:
        told: str = job.client.blocking_key_value_get(place, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"process 0 did not say within {seconds:.0f} s what it takes ({name}): see its log ({first_line(error)})"
        ) from error
    return told


def problems_of_all(name: str, problem: str, timeout_seconds: int = 3600) -> list[str]:
    """Exchange problems between the processes of the job and return all of them; "" means no problem.

    Waits for all processes. A name can be used only once per job. A single process gets back its own problem.
    """
    job = current()
    if job is None:
        return [problem] if problem else []
    client, place = job.client, f"asclepius/problems/{name}"
    if problem:
        client.key_value_set(f"{place}/{job.process_id:06}", problem)
    meet(job, f"{place}/told", timeout_seconds)
    return [text for _, text in sorted(client.key_value_dir_get(place))]


def gathered(name: str, text: str, timeout_seconds: float = 3600) -> list[str]:
    """The texts of all processes of the job, by their numbers, after waiting for all. A name can be used only once."""
    job = current()
    if job is None:
        return [text]
    job.client.key_value_set(f"asclepius/gathered/{name}/{job.process_id:06}", text)
    meet(job, f"asclepius/gathered/{name}/told", timeout_seconds)
    return gathered_so_far(job, name)


def gathered_so_far(job: Job, name: str) -> list[str]:
    return [text for _, text in sorted(job.client.key_value_dir_get(f"asclepius/gathered/{name}"))]


def summary(differences: list[tuple[str, str]], most: int = 4) -> str:
    """The first few differences, written as `fact is A in process 0, B in process 1, 2`."""
    processes: dict[str, list[int]] = {}
    for key, text in sorted(differences):
        for line in text.splitlines():
            processes.setdefault(line, []).append(int(key.rpartition("/")[2]))
    lines = [line + ", ".join(map(str, ids)) for line, ids in processes.items()]
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def facts_of(config: TrainConfig) -> dict[str, str]:
    """Everything that determines the program and its data: settings, packed folders, code, versions, compiler flags."""
    settings = leaves(dataclasses.asdict(dataclasses.replace(config, data=with_paths(config.data, as_url))))
    facts = {f"--{name}": as_url(str(value)) for name, value in settings if name not in OF_ONE_HOST}
    facts |= facts_of_data(config)
    root = Path(__file__).resolve().parents[2]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            facts[f"code {path.relative_to(root)}"] = short_hash(path)
    facts["python"] = platform.python_version()
    for name in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts[name] = metadata.version(name)
    return facts | {name: os.environ[name] for name in COMPILER_FLAGS if name in os.environ}


def facts_of_data(config: TrainConfig) -> dict[str, str]:
    sources = [*training_sources(config.data), *held_out_sources(config.data)]
    folders = [Path(source.path) for source in sources]
    return {as_url(str(folder / "manifest.json")): short_hash(folder / "manifest.json") for folder in folders}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def short_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "absent"
