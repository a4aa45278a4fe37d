"""The table of devices, used for measuring, planning and predicting.

Sources: the manufacturers' pages (docs.cloud.google.com/tpu/docs/v4 ... tpu7x; NVIDIA's data sheets of A100, RTX A6000,
H100, H200 and HGX B200). A device is a JAX device: a chip of v4 to v6e, half a chip of tpu7x, or one GPU.
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
    """One row of the table. Bandwidths are for one direction, in bytes per second."""

    name: str  # name in --topology
    kind: str  # JAX's device_kind, in full
    platform: Literal["tpu", "cuda", "cpu"]
    compute_capability: tuple[int, int] | None
    peak_flops: float  # dense bfloat16, FLOP/s
    memory_bytes: int  # as stated by Google for TPUs, as reported by the driver for GPUs
    usable: float  # fraction of the memory that programs can use
    memory_bandwidth: float
    link_bandwidth: float  # per device over all its fast links: all axes of the torus together, or NVLink
    network_bandwidth: float  # per device between slices or nodes
    devices_per_node: int  # devices per TPU host of a multi-host slice, or per GPU node connected by NVLink

    @property
    def limit_bytes(self) -> int:
        """Bytes of memory that a program can use."""
        return int(self.memory_bytes * self.usable)


ROWS = (
    # Usable: the limit in libtpu 0.0.42's error for a program that is too large. ICI: Google states the sum of both
    # directions, 1200 GB/s for v5p's six links of 100 each way; v4's six links carry 50 each way (arXiv 2304.01433).
    # Network: Google's Gb/s per chip. v4's is not stated and assumed to equal v5p's; v5e has 2 x 100 for eight chips.
    Device("v4", "TPU v4", "tpu", None, 275e12, 32 * GIB, 30.75 / 32, 1200e9, 300e9, 50e9 / 8, 4),
    Device("v5e", "TPU v5 lite", "tpu", None, 197e12, 16 * GIB, 15.75 / 16, 819e9, 200e9, 25e9 / 8, 4),
    # The page says 95 GiB, which already excludes the reserved part.
    Device("v5p", "TPU v5", "tpu", None, 459e12, 96 * GIB, 95.74 / 96, 2765e9, 600e9, 50e9 / 8, 4),
    Device("v6e", "TPU v6 lite", "tpu", None, 918e12, 32 * GIB, 31.25 / 32, 1638e9, 400e9, 100e9 / 8, 4),
    # Two devices share a chip's 2307 TFLOP/s, 192 GiB, 7380 GB/s, 600 GB/s of links and 100 Gb/s.
    Device("tpu7x", "TPU7x", "tpu", None, 1153.5e12, 96 * GIB, 94.75 / 96, 3690e9, 300e9, 50e9 / 8, 8),
    # Network: one InfiniBand port per GPU in the reference nodes, 200 Gb/s (DGX A100) or 400 Gb/s (DGX H100, H200,
    # B200).
    Device("a100-80g", "NVIDIA A100-SXM4-80GB", "cuda", (8, 0), 312e12, 85_100_068_864, ALLOCATED, 2039e9, 300e9,
           25e9, 8),
    # The same chip with less memory, and on cards that NVLink connects only in pairs, on PCIe 4.0 x16.
    Device("a100-40g", "NVIDIA A100-SXM4-40GB", "cuda", (8, 0), 312e12, 42_285_268_992, ALLOCATED, 1555e9, 300e9,
           25e9, 8),
    Device("a100-pcie-80g", "NVIDIA A100 80GB PCIe", "cuda", (8, 0), 312e12, 84_974_239_744, ALLOCATED, 1935e9, 32e9,
           25e9, 8),
    Device("a100-pcie-40g", "NVIDIA A100-PCIE-40GB", "cuda", (8, 0), 312e12, 42_285_268_992, ALLOCATED, 1555e9, 32e9,
           25e9, 8),
    # NVLink connects A6000s only in pairs, so eight use PCIe 4.0 x16; a node usually has one 200 Gb/s port.
    Device("a6000-48g", "NVIDIA RTX A6000", "cuda", (8, 6), 154.8e12, 51_041_271_808, ALLOCATED, 768e9, 32e9, 3.1e9, 8),
    Device("h100", "NVIDIA H100 80GB HBM3", "cuda", (9, 0), 989e12, 84_942_979_072, ALLOCATED, 3352e9, 450e9, 50e9, 8),
    # These two are also connected only in pairs; otherwise PCIe 5.0 x16.
    Device("h100-pcie", "NVIDIA H100 PCIe", "cuda", (9, 0), 756e12, 84_942_979_072, ALLOCATED, 2039e9, 64e9, 25e9, 8),
    Device("h100-nvl", "NVIDIA H100 NVL", "cuda", (9, 0), 835e12, 100_485_038_080, ALLOCATED, 3938e9, 64e9, 25e9, 8),
    Device("h200", "NVIDIA H200", "cuda", (9, 0), 989e12, 151_397_597_184, ALLOCATED, 4800e9, 450e9, 50e9, 8),
    Device("b200", "NVIDIA B200", "cuda", (10, 0), 2250e12, 191_514_411_008, ALLOCATED, 7672e9, 900e9, 50e9, 8),
    # For trial runs: orders of magnitude of one or two server cores. The memory of a local CPU is measured instead.
    Device("cpu", "cpu", "cpu", None, 1e11, 16 * GIB, 1.0, 2e10, 1e10, 1e9, 8),
)  # fmt: skip
DEVICES = {device.name: device for device in ROWS}


# Versions of libtpu differ in the names of these.
OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def find_device(device_kind: str) -> Device | None:
    """The row of a device by its full name, JAX's device_kind.

    None for any other name. One that begins with a known name may be another device: a smaller card, or a part of one.
    """
    name = OTHER_NAMES.get(device_kind, device_kind)
    return next((device for device in ROWS if device.kind == name), None)


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device. None for a device without a row, and for CPUs, whose row is a guess."""
    device = find_device(device_kind)
    return None if device is None or device.platform == "cpu" else device.peak_flops


def this_cpu(devices: int) -> Device:
    """The row of one of several CPU devices, with its share of the free memory of this machine."""
    return dataclasses.replace(DEVICES["cpu"], memory_bytes=available_memory() // max(devices, 1))


def available_memory() -> int:
    """Bytes that a program can still allocate on this machine without swapping, within the limits of its cgroup."""
    return int(min(psutil.virtual_memory().available, cgroup_room()))


def cgroup_room(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left under the strictest cgroup limit of a container or job. Infinity if there is no limit."""
    room = math.inf
    for line in proc.read_text().splitlines() if proc.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # cgroup version 1 lists its controllers and mounts each separately; version 2 has a single tree.
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
                used = int((folder / usage).read_text()) - int(counts.get(cache, 0))  # cached file pages can be dropped
                room = min(room, int(most) - used)
    return max(room, 0)
