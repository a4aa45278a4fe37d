"""Choice of settings that a configuration leaves open: the number of microbatches and the remat policy.

Among the candidates that fit according to the memory model, the one with the fastest predicted speed is chosen, or
`offload` if none fits. Training and planning use the same function, so that a plan describes the real run.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import jax
from jax.sharding import Mesh

from asclepius_jax.checkpoint.adapters import num_adapter_params
from asclepius_jax.config import TrainConfig, divisors
from asclepius_jax.cost_model.hardware import find_device, this_cpu
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.speed import Layout, predict
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.distributed.sharding import batch_parts, check_batch_divides
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.sizes import LlamaConfig
from data_prep.contract.errors import UserError

# Fraction of the memory to fill. The rest covers errors of the memory model, and the runtime's own memory.
SHARE_TO_FILL = 0.92


def settle(config: TrainConfig, model: LlamaConfig, mesh: Mesh, kernel: Kernel, quiet: bool = False) -> TrainConfig:
    """The configuration with microbatches and remat chosen. Prints the choice unless quiet."""
    if config.batch.microbatches and config.compute.remat != "auto":
        check_batch_divides(mesh, config.batch)
        return config
    topology = topology_of(mesh)
    found = list(candidates(config, mesh))
    if topology is None:  # an unknown device: take the candidate that needs the least memory
        chosen, why = found[-1], "least memory, as hardware.py has no row for this device"
    else:
        chosen, why = best(found, model, topology, mesh, kernel)
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
    found: list[TrainConfig], model: LlamaConfig, topology: Topology, mesh: Mesh, kernel: Kernel
) -> tuple[TrainConfig, str]:
    limit = topology.device.limit_bytes
    needs = [estimate(config, model, dict(mesh.shape), kernel).total for config in found]
    fitting = [config for config, need in zip(found, needs, strict=True) if need <= SHARE_TO_FILL * limit]
    if not fitting and topology.device.platform != "cpu" and found[-1].compute.remat == "full":
        compute = dataclasses.replace(found[-1].compute, remat="offload")
        fitting = [dataclasses.replace(found[-1], compute=compute)]
    chosen = min(fitting or found[-1:], key=lambda config: seconds(config, model, topology, mesh))
    need = estimate(chosen, model, dict(mesh.shape), kernel).total
    reason = "fastest that fits" if need <= limit else "needs least memory, and may exceed"
    gib = 2**30
    return chosen, f"{reason} {topology.device.name}, about {need / gib:.1f} of {limit / gib:.1f} GiB per device"


def seconds(config: TrainConfig, model: LlamaConfig, topology: Topology, mesh: Mesh) -> float:
    return predict(model, topology, layout_of(config, mesh, model)).step_seconds


def check_memory(config: TrainConfig, model: LlamaConfig, mesh: Mesh, kernel: Kernel) -> None:
    """Raise UserError if a run needs more memory than its devices have, by more than the estimate's error of 10 %."""
    topology = topology_of(mesh)
    if topology is None:
        return
    limit, need = topology.device.limit_bytes, estimate(config, model, dict(mesh.shape), kernel).total
    if need <= 1.1 * limit:
        return
    count = jax.local_device_count() if topology.device.platform == "cpu" else 1
    gib = f"{count * limit / 2**30:.1f} GiB"
    room = (
        f"this machine has {gib} free" if topology.device.platform == "cpu" else f"one {topology.device.name} has {gib}"
    )
    raise UserError(
        f"the run needs about {count * need / 2**30:.1f} GiB of memory, and {room}: use more devices, a smaller model, "
        "a smaller --batch.global-batch, shorter rows (--data.row-length), or adapters (--lora.rank 16); "
        "`asclepius plan` shows what fits on which machine"
    )


def layout_of(config: TrainConfig, mesh: Mesh, model: LlamaConfig) -> Layout:
    shape = dict(mesh.shape)
    return Layout(
        **shape,
        rows_per_device=config.batch.global_batch // config.batch.microbatches // batch_parts(mesh),
        row_length=config.data.row_length,
        microbatches=config.batch.microbatches,
        remat=config.compute.remat,
        fsdp_gradient_bytes=2 if config.compute.reduce_dtype == "bfloat16" else 4,
        adapters=num_adapter_params(model, config.lora),
    )


def topology_of(mesh: Mesh) -> Topology | None:
    """The machine of a mesh, or None if the device table has no row for its devices."""
    devices = list(mesh.devices.flat)
    device = find_device(devices[0].device_kind)
    if device is None:
        return None
    if device.platform == "cpu":  # they share the memory of this machine
        device = this_cpu(sum(each.process_index == jax.process_index() for each in devices))
    slices = len({getattr(each, "slice_index", 0) for each in devices}) if device.platform == "tpu" else 1
    return Topology(device.name, device, len(devices), slices)
