"""The rows of a preflight's table, and what its checks share: the run, and the measurements of every process."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from asclepius_jax.config import TrainConfig
from asclepius_jax.cost_model.choose import Machine
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import Model
from asclepius_jax.train.batches import Rows
from asclepius_jax.train.setup import TrainStep

# One process's measurements of a stage, in JSON types. "place" is the process, such as "process 1 on node7"; "error" is
# there, and nothing else, if they failed.
Measure = dict[str, Any]

PEERS = 0.8  # of the median speed of its peers, below which a device, link or host counts as slow


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    status: str  # "ok", "warning", "wrong" or "skipped"
    value: str
    expected: str = ""
    place: str = ""  # host, and device or link; empty for the whole job
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """The run that is checked, as far as it can be set up."""

    config: TrainConfig
    model: Model
    mesh: Mesh
    kernel: Kernel
    machine: Machine
    rows: Rows | None
    setup: TrainStep

    @property
    def devices(self) -> list[jax.Device]:
        """The devices of this process."""
        return [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform


def name_of(device: jax.Device) -> str:
    return f"{device.platform}:{device.id}"


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def slow(speeds: dict[Any, float]) -> dict[Any, float]:
    """The slow ones among speeds, each with the median of the others, which are its peers."""
    found = {}
    for name, speed in speeds.items():
        peers = [other for key, other in speeds.items() if key != name]
        if peers and speed < PEERS * median(peers):
            found[name] = median(peers)
    return found


def between(values: list[float], unit: str, digits: int = 0) -> str:
    """Values of several hosts or devices as one, or as a range."""
    low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
