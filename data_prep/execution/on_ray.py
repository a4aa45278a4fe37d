"""The parts of a stage as tasks of a Ray cluster, and their join.

A task is `--part I/N` of the command itself, in the driver's working folder, which all machines of the cluster must
see. Ray runs the tasks of a lost machine again; the ledgers of parts keep their requests from being paid twice. With an
endpoint, part 0 comes first.
"""

import dataclasses
import importlib
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.folders.buckets.addresses import as_url, bucket_path
from data_prep.contract.folders.buckets.local_copies import fetch, sending
from data_prep.execution.parts import JoinConfig, Part, as_json, command_of, from_json, settings_of_stage
from data_prep.execution.progress import say, shown

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_CONNECT = 10.0
MOST_RETRIES = 20  # of a part whose machine is lost


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    engine: Literal["here", "ray"] = "here"
    """Where the work is done. here: by processes of this machine. ray: as parts, by the machines of a Ray cluster, all
    of which must see the working folder; needs `pip install 'asclepius-jax[ray]'`."""

    address: str = ""
    """Address of the Ray cluster, such as auto or HOST:6379; empty for that of RAY_ADDRESS, or else a cluster of this
    machine alone."""

    parts: int = 0
    """Number of parts for the cluster; 0 for one per core of the cluster."""


def with_engine(settings: Any) -> Any:
    """The settings of a stage (`run`), and where it runs (`on`), as one dataclass of flags."""

    @dataclasses.dataclass(frozen=True)
    class Flags:
        run: Annotated[settings, tyro.conf.arg(name="")]
        on: Annotated[EngineConfig, tyro.conf.arg(name="")]

    return Flags


def with_part(settings: Any, text: str) -> Any:
    """The settings for one part, which one core works on."""
    inner = vars(settings).get("shards")
    if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
        return dataclasses.replace(settings, shards=dataclasses.replace(inner, part=text, workers=1))
    return dataclasses.replace(settings, part=text, **({"workers": 1} if "workers" in vars(settings) else {}))


def run_part(module: str, function: str, settings: Any, folder: str) -> None:
    """One part, in a worker process of the cluster.

    settings: of the part, or (settings as JSON, their type) of one in a bucket, of which this machine has copies of its
    own.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder} is not on this machine of the cluster ({error}): use a folder that all see"
        ) from error
    outputs = []
    if isinstance(settings, tuple):
        settings = from_json(*settings)
        outputs = [as_url(str(settings.out))]
    with sending(outputs):
        getattr(importlib.import_module(module), function)(settings)


def portable(settings: Any) -> Any:
    """Settings for a worker of another machine, which `run_part` reads."""
    return (as_json(settings), type(settings)) if bucket_path(settings.out) else settings


def run_on_ray(stage: Any, function: str, settings: Any, engine: EngineConfig) -> Any:
    """Run a stage as parts on a Ray cluster, join them, and return the result of the join.

    stage: the module of the stage, with this function. Raises UserError for errors that the user can fix, in the parts
    too.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--engine ray needs Ray: pip install 'asclepius-jax[ray]'") from error
    if engine.parts < 0:
        raise UserError(f"--parts {engine.parts}: must be 0 or above")
    address = engine.address or os.environ.get("RAY_ADDRESS") or None
    try:
        check_reachable(address or "")
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=None)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address or 'this machine'} ({first_line(error)})") from error
    try:
        count = engine.parts or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=MOST_RETRIES)(run_part)
        first = [0] if asks_an_endpoint(settings) else []
        for numbers in (first, range(1, count + 1)):
            parts = {number: portable(with_part(settings, f"{number}/{count}")) for number in numbers}
            tasks = {
                task.remote(stage.__name__, function, part, str(Path.cwd())): number for number, part in parts.items()
            }
            finish(ray, tasks, count)
    finally:
        ray.shutdown()
    folders = tuple(Part(number, count).folder(settings.out) for number in [*first, *range(1, count + 1)])
    for folder in folders if bucket_path(settings.out) else ():
        fetch(as_url(str(folder)), ours=True)
    join = JoinConfig(folders, settings.out)
    result = getattr(stage, function)(settings_of_stage(join, command_of(join), type(settings)))
    say(f"joined {count} parts -> {settings.out}")
    return result


def check_reachable(address: str) -> None:
    """Raise OSError if nothing answers at HOST:PORT, where Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()


def asks_an_endpoint(settings: Any) -> bool:
    teacher = vars(settings).get("teacher")
    gate = vars(settings).get("gate")
    return bool((teacher and teacher.teacher != "offline") or (gate and gate.second_reader))


def finish(ray: Any, tasks: dict[Any, int], count: int) -> None:
    """Wait for tasks. Raises UserError with the line of a part that failed."""
    waiting = [*tasks]
    with shown("parts on Ray", lambda: f"{len(tasks) - len(waiting)} of {count} done"):
        while waiting:
            done, waiting = ray.wait(waiting, timeout=SECONDS_BETWEEN_LOOKS)
            for one in done:
                try:
                    ray.get(one)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    reason = str(cause) if isinstance(cause, UserError) else first_line(cause or error)
                    raise UserError(
                        f"part {tasks[one]} of {count}: {reason}; finished parts are kept, run this again"
                    ) from error
