"""Machines by name, such as `v5e-256`, `v5p-128`, `v5e-256x2` or `h100-64`, and the devices to compile for them.

No such machine needs to be there: libtpu and the CUDA plugin compile for devices that exist only by description.
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
    """What Google rents of a TPU generation, and what libtpu calls it."""

    libtpu_name: str
    cores_per_chip: int  # that the number in a name counts
    devices_per_chip: int
    dimensions: int  # of the torus
    largest: int  # chips in a slice


# A name counts TensorCores for v4, v5p and tpu7x, chips for v5e and v6e (docs.cloud.google.com/tpu/docs). JAX sees the
# two cores of a v4 or v5p chip as one device (megacore), those of a tpu7x chip as two.
TPUS = {
    "v4": Slices("v4", 2, 1, 3, 4096),
    "v5e": Slices("v5e", 1, 1, 2, 256),
    "v5p": Slices("v5", 2, 1, 3, 8960),
    "v6e": Slices("v6e", 1, 1, 2, 256),
    "tpu7x": Slices("tpu7x", 2, 2, 3, 9216),
}
GRIDS_2D = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
GRIDS_3D = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # below a cube of 4x4x4 chips; above, multiples of that cube


@dataclass(frozen=True)
class Silicon:
    """What the CUDA compiler asks of a GPU beyond its `Device` row; as the CUDA driver reports it."""

    full_name: str
    multiprocessors: int
    clock_gigahertz: float
    l2_bytes: int
    shared_memory_bytes: int  # of a multiprocessor; a block may opt in to 1 KiB less
    threads: int  # of a multiprocessor
    float32_units: int  # of a multiprocessor


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
    count: int  # JAX devices in all
    slices: int = 1  # of a TPU; 1 elsewhere

    @property
    def grid(self) -> tuple[int, ...]:
        """Chips of one TPU slice along each axis of its torus."""
        slices = TPUS[self.device.name]
        return chip_grids(slices)[self.count // self.slices // slices.devices_per_chip]

    @property
    def nodes(self) -> int:
        """Hosts."""
        return -(-self.count // self.devices_per_node)

    @property
    def devices_per_node(self) -> int:
        # v5e-8 and v6e-8 are the only slices that are one host of eight chips.
        one_host = self.device.platform == "tpu" and self.grid == (2, 4)
        return 8 if one_host else min(self.device.devices_per_node, self.count)

    @property
    def fast_domain(self) -> int:
        """Devices that fast links join: a TPU slice, or a GPU node."""
        return self.count // self.slices if self.device.platform == "tpu" else self.devices_per_node

    @property
    def wraps(self) -> bool:
        """The links of a TPU slice close to rings: v4, v5p and tpu7x from a cube on, v5e and v6e as a whole pod."""
        return self.device.platform != "tpu" or min(self.grid) >= (4 if len(self.grid) == 3 else 16)


def chip_grids(slices: Slices) -> dict[int, tuple[int, ...]]:
    """Number of chips -> the grid that Google makes of them: the most cubic one, shortest side first."""
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
    """`h100-64` -> 64 devices; raises UserError for a generation or a size that does not exist."""
    generations = [*TPUS, *GPUS, "cpu"]
    match = re.fullmatch(rf"({'|'.join(generations)})-([1-9]\d*)(?:x([1-9]\d*))?", name.strip().lower())
    if match is None:
        near = difflib.get_close_matches(name.lower(), EXAMPLES, 1, 0.5)
        hint = f"; is it {near[0]}?" if near else "."
        raise UserError(f"topology {name}: not known{hint} Names are {PATTERN}, such as {', '.join(EXAMPLES)}")
    generation, number, slices = match[1], int(match[2]), int(match[3] or 1)
    if generation in TPUS:
        return Topology(match[0], DEVICES[generation], tpu_devices(generation, number) * slices, slices)
    if match[3]:
        raise UserError(f"topology {name}: only TPUs have slices; write {generation}-{number * slices}")
    if generation in GPUS and number not in (1, 2, 4) and number % 8:
        whole = -(-number // 8) * 8
        raise UserError(f"topology {name}: GPUs come as 1, 2, 4 or whole nodes of 8; write {generation}-{whole}")
    return Topology(match[0], this_cpu(number) if generation == "cpu" else DEVICES[generation], number)


def tpu_devices(generation: str, number: int) -> int:
    """JAX devices of one slice whose name counts `number`."""
    slices = TPUS[generation]
    chips, rest = divmod(number, slices.cores_per_chip)
    grids = chip_grids(slices)
    if rest or chips not in grids:
        sizes = [size * slices.cores_per_chip for size in grids]
        common = [size for size in sizes if size & (size - 1) == 0]  # powers of two; the full list is long
        near = min(sizes, key=lambda size: (abs(size - number), size))
        counted = "TensorCores" if slices.cores_per_chip == 2 else "chips"
        raise UserError(
            f"topology {generation}-{number}: no slice has {number} {counted}; the nearest is {generation}-{near}, "
            f"common ones are {', '.join(f'{generation}-{size}' for size in common)}"
        )
    return chips * slices.devices_per_chip


def compile_devices(topology: Topology) -> list[Any]:
    """Devices to put into a mesh and compile for, in JAX's order: hosts one after another, slices outermost.

    Nothing can run on them, but for `cpu-N`, which are the process's own. JAX_PLATFORMS=cpu is enough.
    """
    platform = topology.device.platform
    devices = {"tpu": tpu_compile_devices, "cuda": gpu_compile_devices, "cpu": own_devices}[platform](topology)
    assert len(devices) == topology.count, (topology, len(devices))
    return devices


def tpu_compile_devices(topology: Topology) -> list[Any]:
    require("libtpu", topology)
    # libtpu would ask a cloud machine's metadata server what it is, and refuse to load beside a run on the same host.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # It complains on stderr where these are empty; any values will do.
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
        # NVLink domains x hosts in a domain x devices of a host.
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
    except ModuleNotFoundError:  # of a package above it
        found = False
    if not found and sys.platform != "linux":
        raise UserError(f"topology {topology.name}: its compiler exists for Linux only; a rehearsal, cpu-8, works here")
    if not found:
        raise UserError(f"topology {topology.name}: compiling for it needs {module}: pip install 'asclepius-jax[plan]'")


def target_config(device: Device) -> str:
    """The GPU as XLA's GpuTargetConfigProto, in text."""
    silicon, capability = GPUS[device.name], device.compute_capability
    assert capability is not None
    # From Hopper on, matrix instructions exist only in the architecture's own variant: sm_90a, sm_100a.
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
