"""Machines by name, such as `v5e-256`, `v5p-128`, `v5e-256x2` or `h100-64`, and devices to compile for.

No access to such a machine is needed, because libtpu and the CUDA plugin can compile for a description of a device.
"""

import difflib
import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from asclepius_jax.cost_model.hardware import DEVICES, Device, this_cpu
from data_prep.contract.errors import UserError

EXAMPLES = (
    "v4-128 v5e-64 v5e-256 v5e-256x2 v5p-128 v6e-256 tpu7x-64 a100-80g-8 a6000-48g-8 h100-8 h100-64 h200-8 b200-8 cpu-8"
).split()
PATTERN = "GENERATION-N, with xM for M slices of a TPU"


@dataclass(frozen=True)
class Slices:
    """The available slices of a TPU generation."""

    libtpu_name: str
    cores_per_chip: int  # units per chip that the number in a name counts
    devices_per_chip: int  # JAX devices per chip
    dimensions: int  # dimensions of the torus
    largest: int  # chips in the largest slice


# The number in a name counts TensorCores for v4, v5p and tpu7x, and chips for v5e and v6e
# (docs.cloud.google.com/tpu/docs). The two cores of a chip are one JAX device on v4 and v5p (megacore), two on tpu7x.
TPUS = {
    "v4": Slices("v4", 2, 1, 3, 4096),
    "v5e": Slices("v5e", 1, 1, 2, 256),
    "v5p": Slices("v5", 2, 1, 3, 8960),
    "v6e": Slices("v6e", 1, 1, 2, 256),
    "tpu7x": Slices("tpu7x", 2, 2, 3, 9216),
}
GRIDS_2D = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
GRIDS_3D = (
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
)  # smaller than a cube of 4x4x4 chips; larger ones are multiples of that cube


@dataclass(frozen=True)
class Silicon:
    """Properties of a GPU that the CUDA compiler needs in addition to its `Device` row, as reported by the driver."""

    full_name: str
    multiprocessors: int
    clock_gigahertz: float
    l2_bytes: int
    shared_memory_bytes: int  # per multiprocessor; a block can opt in to 1 KiB less
    threads: int  # per multiprocessor
    float32_units: int  # per multiprocessor


GPUS = {
    "a100-80g": Silicon("NVIDIA A100-SXM4-80GB", 108, 1.41, 41_943_040, 167_936, 2048, 64),
    "a6000-48g": Silicon("NVIDIA RTX A6000", 84, 1.8, 6_291_456, 102_400, 1536, 128),
    "h100": Silicon("NVIDIA H100 80GB HBM3", 132, 1.98, 52_428_800, 233_472, 2048, 128),
    "h200": Silicon("NVIDIA H200", 132, 1.98, 52_428_800, 233_472, 2048, 128),
    "b200": Silicon("NVIDIA B200", 148, 1.965, 132_644_864, 233_472, 2048, 128),
}


@dataclass(frozen=True)
class Topology:
    name: str
    device: Device
    count: int  # total number of JAX devices
    slices: int = 1  # number of TPU slices; 1 for other machines

    @property
    def grid(self) -> tuple[int, ...]:
        """Chips of one TPU slice along each axis of its torus."""
        slices = TPUS[self.device.name]
        return chip_grids(slices)[self.count // self.slices // slices.devices_per_chip]

    @property
    def nodes(self) -> int:
        """Number of hosts."""
        return -(-self.count // self.devices_per_node)

    @property
    def devices_per_node(self) -> int:
        # v5e-8 and v6e-8 are the only slices with a single host of eight chips.
        one_host = self.device.platform == "tpu" and self.grid == (2, 4)
        return 8 if one_host else min(self.device.devices_per_node, self.count)

    @property
    def fast_domain(self) -> int:
        """Number of devices connected by fast links, which is a TPU slice or a GPU node."""
        return self.count // self.slices if self.device.platform == "tpu" else self.devices_per_node

    @property
    def wraps(self) -> bool:
        """True if the links form rings: on v4, v5p and tpu7x from one cube, on v5e and v6e only in a whole pod."""
        return self.device.platform != "tpu" or min(self.grid) >= (4 if len(self.grid) == 3 else 16)


def chip_grids(slices: Slices) -> dict[int, tuple[int, ...]]:
    """Grids of all slices by number of chips. Google uses the most cubic grid, with the shortest side first."""
    if slices.dimensions == 2:
        return {grid[0] * grid[1]: grid for grid in GRIDS_2D}
    grids: dict[int, tuple[int, ...]] = {grid[0] * grid[1] * grid[2]: grid for grid in GRIDS_3D}
    cubes = slices.largest // 64
    for a in range(1, cubes + 1):
        for b in range(a, cubes // a + 1):
            for c in range(b, cubes // (a * b) + 1):
                grid = (4 * a, 4 * b, 4 * c)
                chips = 64 * a * b * c
                if chips not in grids or sum(grid) < sum(grids[chips]):
                    grids[chips] = grid
    return dict(sorted(grids.items()))


def parse_topology(name: str) -> Topology:
    """The machine of a name such as `h100-64`. Raises UserError for a generation or size that does not exist."""
    generations = [*TPUS, *GPUS, "cpu"]
    match = re.fullmatch(rf"({'|'.join(generations)})-([1-9]\d*)(?:x([1-9]\d*))?", name.strip().lower())
    if match is None:
        near = difflib.get_close_matches(name.lower(), EXAMPLES, 1, 0.5)
        hint = f", did you mean {near[0]}?" if near else "."
        raise UserError(f"topology {name} is unknown{hint} Use {PATTERN}, such as {', '.join(EXAMPLES)}")
    generation, number, slices = match[1], int(match[2]), int(match[3] or 1)
    if generation in TPUS:
        return Topology(match[0], DEVICES[generation], tpu_devices(generation, number) * slices, slices)
    if match[3]:
        raise UserError(f"topology {name}: only TPUs have slices; use {generation}-{number * slices}")
    if generation in GPUS and number not in (1, 2, 4) and number % 8:
        more, fewer = -(-number // 8) * 8, number // 8 * 8 or 4
        raise UserError(
            f"topology {name}: GPUs come as 1, 2, 4 or nodes of 8; use {generation}-{fewer} or {generation}-{more}"
        )
    return Topology(match[0], this_cpu(number) if generation == "cpu" else DEVICES[generation], number)


def tpu_devices(generation: str, number: int) -> int:
    """Number of JAX devices of one slice with this number in its name. Raises UserError if there is no such slice."""
    slices = TPUS[generation]
    chips, rest = divmod(number, slices.cores_per_chip)
    grids = chip_grids(slices)
    if rest or chips not in grids:
        sizes = [size * slices.cores_per_chip for size in grids]
        common = [size for size in sizes if size & (size - 1) == 0]  # only powers of two, as the full list is long
        near = min(sizes, key=lambda size: (abs(size - number), size))
        counted = "TensorCores" if slices.cores_per_chip == 2 else "chips"
        raise UserError(
            f"topology {generation}-{number}: no slice has {number} {counted}; the nearest is {generation}-{near}, "
            f"common ones are {', '.join(f'{generation}-{size}' for size in common)}"
        )
    return chips * slices.devices_per_chip


def compile_devices(topology: Topology) -> list[Any]:
    """Devices to build a mesh of and compile for, in JAX's order: host by host, with slices outermost.

    Nothing can run on them except for `cpu-N`, which are devices of this process. JAX_PLATFORMS=cpu is sufficient.
    """
    platform = topology.device.platform
    devices = {"tpu": tpu_compile_devices, "cuda": gpu_compile_devices, "cpu": own_devices}[platform](topology)
    assert len(devices) == topology.count, (topology, len(devices))
    return devices


def tpu_compile_devices(topology: Topology) -> list[Any]:
    require("libtpu", topology)
    # Otherwise libtpu would query the metadata server of a cloud machine, and refuse to load while a run uses it too.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # It prints warnings if these are empty. Any values will do.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    from jax.experimental import topologies

    slices, grid = TPUS[topology.device.name], topology.grid
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if slices.cores_per_chip > slices.devices_per_chip:
        options["chip_config_name"] = "megacore"
    if topology.nodes == 1:
        options["chips_per_host_bounds"] = (*grid, 1)[:3]
    name = f"{slices.libtpu_name}:{'x'.join(map(str, grid))}"
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)


def gpu_compile_devices(topology: Topology) -> list[Any]:
    require("jax_cuda13_plugin", topology)
    require("nvidia.cudnn", topology)
    from jax.experimental import topologies

    description = topologies.get_topology_desc(
        platform="cuda",
        topology_name=topology.device.name,
        # NVLink domains x hosts per domain x devices per host.
        topology=f"{topology.nodes}x1x{topology.devices_per_node}",
        target_config=target_config(topology.device),
    )
    return list(description.devices)


def own_devices(topology: Topology) -> list[Any]:
    import jax

    devices = jax.devices("cpu")
    if len(devices) < topology.count:
        raise UserError(
            f"topology {topology.name}: this process has {len(devices)} CPU devices; "
            f"start it with JAX_NUM_CPU_DEVICES={topology.count}"
        )
    return devices[: topology.count]


def require(module: str, topology: Topology) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        found = False
    if not found and sys.platform != "linux":
        raise UserError(
            f"topology {topology.name}: its compiler is available for Linux only; cpu-8 works here for a trial run"
        )
    if not found:
        raise UserError(f"topology {topology.name}: compiling for it needs {module}: pip install 'asclepius-jax[plan]'")


def target_config(device: Device) -> str:
    """The GPU as XLA's GpuTargetConfigProto in text format."""
    silicon, capability = GPUS[device.name], device.compute_capability
    assert capability is not None
    # From Hopper on, matrix instructions exist only in architecture-specific variants: sm_90a, sm_100a.
    features = "ACCELERATED_FEATURES" if capability >= (9, 0) else "NONE"
    cudnn = re.findall(r"\d+", importlib.metadata.version("nvidia-cudnn-cu13"))[:3]
    return f"""
platform_name: "CUDA"
device_description_str: "{silicon.full_name}"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
gpu_device_info {{
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} feature_extension: {features} }}
  core_count: {silicon.multiprocessors}
  fpus_per_core: {silicon.float32_units}
  clock_rate_ghz: {silicon.clock_gigahertz}
  l2_cache_size: {silicon.l2_bytes}
  device_memory_size: {device.memory_bytes}
  memory_bandwidth: {device.memory_bandwidth:.0f}
  shared_memory_per_core: {silicon.shared_memory_bytes}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {silicon.shared_memory_bytes - 1024}
  threads_per_core_limit: {silicon.threads}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
"""
