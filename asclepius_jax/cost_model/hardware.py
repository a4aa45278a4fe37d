"""What a device can do: the one table that measuring, planning and predicting read.

Sources: the makers' pages (docs.cloud.google.com/tpu/docs/v4 ... tpu7x; NVIDIA's data sheets of A100, RTX A6000, H100,
H200 and HGX B200). A device is what JAX calls one: a chip of v4 to v6e, half a chip of tpu7x, one GPU.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from asclepius_jax.distributed.xla_flags import ALLOCATED

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One row; bandwidths are of one direction, in bytes a second."""

    name: str  # what a person types
    kind: str  # JAX's device_kind begins with it
    platform: Literal["tpu", "cuda", "cpu"]
    compute_capability: tuple[int, int] | None
    peak_flops: float  # dense bfloat16, FLOP/s
    memory_bytes: int  # a TPU's as its maker states it, a GPU's as its driver reports it
    usable: float  # share of the memory
    memory_bandwidth: float
    link_bandwidth: float  # out of one device over all of its fast links: the axes of the torus together, or NVLink
    network_bandwidth: float  # of one device between slices or nodes
    devices_per_node: int  # of a TPU host that is one of many; of a GPU node, which is also what NVLink joins

    @property
    def limit_bytes(self) -> int:
        """What a program may use of the memory."""
        return int(self.memory_bytes * self.usable)


ROWS = (
    # Usable: what libtpu 0.0.42 names when it refuses a program that needs more. ICI: Google states the sum of both
    # directions, 1200 GB/s for v5p's six links of 100 each way; v4's six carry 50 each way (arXiv 2304.01433).
    # Network: Google's Gb/s a chip; v4's is not stated, and taken to be v5p's; v5e has 2 x 100 for eight chips.
    Device("v4", "TPU v4", "tpu", None, 275e12, 32 * GIB, 30.75 / 32, 1200e9, 300e9, 50e9 / 8, 4),
    Device("v5e", "TPU v5 lite", "tpu", None, 197e12, 16 * GIB, 15.75 / 16, 819e9, 200e9, 25e9 / 8, 4),
    # The page says 95 GiB, which leaves out the reserve already.
    Device("v5p", "TPU v5", "tpu", None, 459e12, 96 * GIB, 95.74 / 96, 2765e9, 600e9, 50e9 / 8, 4),
    Device("v6e", "TPU v6 lite", "tpu", None, 918e12, 32 * GIB, 31.25 / 32, 1638e9, 400e9, 100e9 / 8, 4),
    # Two devices share a chip's 2307 TFLOP/s, 192 GiB, 7380 GB/s, 600 GB/s of links and 100 Gb/s.
    Device("tpu7x", "TPU7x", "tpu", None, 1153.5e12, 96 * GIB, 94.75 / 96, 3690e9, 300e9, 50e9 / 8, 8),
    # Networks: the reference nodes' InfiniBand port a GPU, 200 Gb/s (DGX A100) and 400 Gb/s (DGX H100, H200, B200).
    Device("a100-80g", "NVIDIA A100", "cuda", (8, 0), 312e12, 85_100_068_864, ALLOCATED, 2039e9, 300e9, 25e9, 8),
    # NVLink joins A6000s in pairs only, so that eight talk over PCIe 4.0 x16; a node usually has one 200 Gb/s port.
    Device("a6000-48g", "NVIDIA RTX A6000", "cuda", (8, 6), 154.8e12, 51_041_271_808, ALLOCATED, 768e9, 32e9, 3.1e9, 8),
    Device("h100", "NVIDIA H100", "cuda", (9, 0), 989e12, 84_942_979_072, ALLOCATED, 3352e9, 450e9, 50e9, 8),
    # These two are joined in pairs as well; PCIe 5.0 x16.
    Device("h100-pcie", "NVIDIA H100 PCIe", "cuda", (9, 0), 756e12, 84_942_979_072, ALLOCATED, 2039e9, 64e9, 25e9, 8),
    Device("h100-nvl", "NVIDIA H100 NVL", "cuda", (9, 0), 835e12, 100_485_038_080, ALLOCATED, 3938e9, 64e9, 25e9, 8),
    Device("h200", "NVIDIA H200", "cuda", (9, 0), 989e12, 151_397_597_184, ALLOCATED, 4800e9, 450e9, 50e9, 8),
    Device("b200", "NVIDIA B200", "cuda", (10, 0), 2250e12, 191_514_411_008, ALLOCATED, 7672e9, 900e9, 50e9, 8),
    # For rehearsals: a core or two of a server, orders of magnitude only. Memory is measured where one is at hand.
    Device("cpu", "cpu", "cpu", None, 1e11, 16 * GIB, 1.0, 2e10, 1e10, 1e9, 8),
)  # fmt: skip
DEVICES = {device.name: device for device in ROWS}


def find_device(device_kind: str) -> Device | None:
    """The row with the longest `kind` that JAX's name of a device begins with."""
    matching = [device for device in ROWS if device_kind.startswith(device.kind)]
    return max(matching, key=lambda device: len(device.kind), default=None)


def peak_flops(device_kind: str) -> float | None:
    """None for a device without a row, and for a CPU, whose row is a guess."""
    device = find_device(device_kind)
    return None if device is None or device.platform == "cpu" else device.peak_flops


def this_cpu(devices: int) -> Device:
    """The row of a CPU device, with its part of the memory that is free on this machine."""
    return dataclasses.replace(DEVICES["cpu"], memory_bytes=available_memory() // max(devices, 1))


def available_memory() -> int:
    """Bytes that a program can still use on this machine without swapping, within the limits of its cgroup."""
    return int(min(psutil.virtual_memory().available, cgroup_room()))


def cgroup_room(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left under the strictest limit of a container or a scheduler's job; infinity where there is none."""
    room = math.inf
    for line in proc.read_text().splitlines() if proc.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # Version 1 names its controllers and mounts each apart; version 2 has one tree.
        base, limit, usage, cache = (
            (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (root, "memory.max", "memory.current", "inactive_file")
        )
        here = base / path.lstrip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(base) and (folder / limit).is_file():
                most = (folder / limit).read_text().strip()
                if most == "max":
                    continue
                counts = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / usage).read_text()) - int(counts.get(cache, 0))  # files' pages can be dropped
                room = min(room, int(most) - used)
    return max(room, 0)
