"""Choice of settings that a configuration leaves open: the number of microbatches and the remat policy.

Among the candidates that fit according to the memory model, the one with the fastest predicted speed is chosen, or
`offload` if none fits. Training and planning use the same function, so that a plan describes the real run.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import num_adapter_params
from asclepius_jax.config import TrainConfig, divisors
from asclepius_jax.cost_model.hardware import find_device, this_cpu
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.speed import Layout, predict
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.distributed import same_program
from asclepius_jax.distributed.sharding import batch_parts, check_batch_divides
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.kernels.eight_bits import multiplies
from asclepius_jax.model.quantized import bytes_per_value
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError

# Fraction of the memory to fill. The rest covers errors of the memory model, and the runtime's own memory.
SHARE_TO_FILL = 0.92
GIB = 2**30
ASKED = itertools.count()  # makes the names of questions to the other processes of a job unique


class Machine(NamedTuple):
    """Name, memory and speed of the devices of a mesh, as far as they are known."""

    name: str  # of a device: that of its row in the table, or JAX's
    platform: str
    limit_bytes: int | None  # of memory that programs can use on each device; None if unknown
    topology: Topology | None  # None if the table has no row, and the devices' speed is unknown


def settle(config: TrainConfig, model: DecoderConfig, mesh: Mesh, kernel: Kernel, quiet: bool = False) -> TrainConfig:
    """The configuration with microbatches and remat chosen. Prints the choice unless quiet."""
    if config.batch.microbatches and config.compute.remat != "auto":
        check_batch_divides(mesh, config.batch)
        return config
    chosen, why = best(list(candidates(config, mesh)), model, machine_of(mesh), mesh, kernel)
    if jax.process_index() == 0 and not quiet:
        print(f"microbatches {chosen.batch.microbatches}, remat {chosen.compute.remat}: {why}", flush=True)
    return chosen


def candidates(config: TrainConfig, mesh: Mesh) -> Iterator[TrainConfig]:
    """All combinations of microbatches and remat, except offload, from the most to the least memory needed."""
    given = config.batch.microbatches
    parts = [given] if given else divisors(config.batch.global_batch // batch_parts(mesh))
    remats = ("none", "projections", "attention", "full") if config.compute.remat == "auto" else (config.compute.remat,)
    for microbatches in parts:
        batch = dataclasses.replace(config.batch, microbatches=microbatches)
        check_batch_divides(mesh, batch)
        for remat in remats:
            compute = dataclasses.replace(config.compute, remat=cast(Any, remat))
            yield dataclasses.replace(config, batch=batch, compute=compute)


def best(
    found: list[TrainConfig], model: DecoderConfig, machine: Machine, mesh: Mesh, kernel: Kernel
) -> tuple[TrainConfig, str]:
    """The candidate to run with, and the reason. `found` is sorted from the most to the least memory."""
    limit, topology = machine.limit_bytes, machine.topology
    if limit is None:
        return found[-1], f"least memory, as that of {machine.name} is unknown"
    needs = [estimate(config, model, dict(mesh.shape), kernel).total for config in found]
    fitting = [config for config, need in zip(found, needs, strict=True) if need <= SHARE_TO_FILL * limit]
    if not fitting and machine.platform != "cpu" and found[-1].compute.remat == "full":
        compute = dataclasses.replace(found[-1].compute, remat="offload")
        fitting = [dataclasses.replace(found[-1], compute=compute)]
    left = fitting or found[-1:]
    if topology is None:  # the one that recomputes least
        chosen, reason = left[0], "first that fits"
    else:
        chosen, reason = min(left, key=lambda config: seconds(config, model, topology, mesh)), "fastest that fits"
    need = estimate(chosen, model, dict(mesh.shape), kernel).total
    if need > limit:
        reason = "needs least memory, and may exceed"
    return chosen, f"{reason} {machine.name}, about {need / GIB:.1f} of {limit / GIB:.1f} GiB per device"


def seconds(config: TrainConfig, model: DecoderConfig, topology: Topology, mesh: Mesh) -> float:
    return predict(model, topology, layout_of(config, mesh, model)).step_seconds


def check_memory(config: TrainConfig, model: DecoderConfig, mesh: Mesh, kernel: Kernel) -> None:
    """Raise UserError if a run needs more memory than its devices have, by more than the estimate's error of 10 %."""
    machine = machine_of(mesh)
    limit, need = machine.limit_bytes, estimate(config, model, dict(mesh.shape), kernel).total
    if limit is None:
        if jax.process_index() == 0:
            told = f"the memory of {machine.name} is unknown: whether the run fits is not checked"
            print(f"{told}; it needs about {need / GIB:.1f} GiB per device", flush=True)
        return
    if need <= 1.1 * limit:
        return
    count = jax.local_device_count() if machine.platform == "cpu" else 1
    gib = f"{count * limit / GIB:.1f} GiB"
    room = f"this machine has {gib} free" if machine.platform == "cpu" else f"one {machine.name} has {gib}"
    raise UserError(
        f"the run needs about {count * need / GIB:.1f} GiB of memory, and {room}: use more devices, a smaller model, "
        "a smaller --batch.global-batch, shorter rows (--data.row-length), or adapters (--lora.rank 16); "
        "`asclepius plan` shows what fits on which machine"
    )


def gathered_bytes(config: TrainConfig) -> float:
    """Bytes per value of the blocks' matrices while they are gathered over fsdp devices."""
    if config.compute.matmul != "bfloat16":
        return 1.0
    return bytes_per_value(config.lora.base_dtype) if config.lora.rank else 2.0


def layout_of(config: TrainConfig, mesh: Mesh, model: DecoderConfig) -> Layout:
    shape, matmul = dict(mesh.shape), config.compute.matmul
    return Layout(
        **shape,
        rows_per_device=config.batch.global_batch // config.batch.microbatches // batch_parts(mesh),
        row_length=config.data.row_length,
        microbatches=config.batch.microbatches,
        remat=config.compute.remat,
        fsdp_gradient_bytes=2 if config.compute.reduce_dtype == "bfloat16" else 4,
        adapters=num_adapter_params(model, config.lora),
        first_pass=config.preference.beta > 0,
        gathered_bytes=gathered_bytes(config),
        matmul=matmul,
        native=multiplies(matmul, mesh.devices.flat[0]),
    )


def machine_of(mesh: Mesh) -> Machine:
    """Name, memory and speed of the devices of a mesh. All processes of a job get the same answer."""
    devices = list(mesh.devices.flat)
    own = [device for device in devices if device.process_index == jax.process_index()]
    kind = " and ".join(sorted({device.device_kind for device in devices}))  # of several kinds, none is in the table
    row, platform = find_device(kind), devices[0].platform
    if platform == "cpu":  # they share the memory of this machine
        row = this_cpu(len(own))
    reported = [reported_bytes(device) for device in own]
    limit = min(reported) if all(reported) else row.limit_bytes if row else 0
    slices = len({getattr(each, "slice_index", 0) for each in devices}) if platform == "tpu" else 1
    topology = Topology(row.name, row, len(devices), slices) if row else None
    return Machine(row.name if row else kind, platform, least_of_all(limit) or None, topology)


def reported_bytes(device: jax.Device) -> int:
    """Bytes of memory that programs can use on a device, as it reports them; 0 if it reports nothing.

    On a GPU, this is the share of its memory that XLA's allocator takes. CPUs report nothing, and neither do devices of
    other processes and those that are only compiled for.
    """
    try:
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    except jax.errors.JaxRuntimeError:
        return 0


def least_of_all(limit: int) -> int:
    """The smallest limit among the processes of a job, as all of them must make the same choice."""
    answers = same_program.problems_of_all(f"memory/{next(ASKED)}", str(limit))
    return min(map(int, answers))
