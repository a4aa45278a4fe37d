"""What a configuration leaves open, chosen for the machine: the number of microbatches, and what is saved for the
backward pass. Training and planning ask the same function, so that a plan is what will run.

A candidate must fit by the memory model; the fastest by prediction wins. `offload` is taken where nothing else fits.
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

# What the model may be wrong by, and the runtime takes for itself.
SHARE_TO_FILL = 0.92


def settle(config: TrainConfig, model: LlamaConfig, mesh: Mesh, kernel: Kernel, quiet: bool = False) -> TrainConfig:
    """The configuration with nothing left open; a line tells what was chosen."""
    if config.batch.microbatches and config.compute.remat != "auto":
        check_batch_divides(mesh, config.batch)
        return config
    topology = topology_of(mesh)
    found = list(candidates(config, mesh))
    if topology is None:  # a device that nothing is known of: what needs least
        chosen, why = found[-1], "for a device without a row in hardware.py"
    else:
        chosen, why = best(found, model, topology, mesh, kernel)
    if jax.process_index() == 0 and not quiet:
        print(f"microbatches {chosen.batch.microbatches}, remat {chosen.compute.remat}: {why}", flush=True)
    return chosen


def candidates(config: TrainConfig, mesh: Mesh) -> Iterator[TrainConfig]:
    """From what needs most memory to what needs least, offload apart."""
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
    told = "the fastest that fits" if need <= limit else "what needs least, and it may not fit"
    gib = 2**30
    return chosen, f"{told} {topology.device.name}, about {need / gib:.1f} of {limit / gib:.1f} GiB a device"


def seconds(config: TrainConfig, model: LlamaConfig, topology: Topology, mesh: Mesh) -> float:
    return predict(model, topology, layout_of(config, mesh, model)).step_seconds


def check_memory(config: TrainConfig, model: LlamaConfig, mesh: Mesh, kernel: Kernel) -> None:
    """Refuse a run that certainly needs more memory than its devices have; the estimate is right to a tenth."""
    topology = topology_of(mesh)
    if topology is None:
        return
    limit, need = topology.device.limit_bytes, estimate(config, model, dict(mesh.shape), kernel).total
    if need <= 1.1 * limit:
        return
    count = jax.local_device_count() if topology.device.platform == "cpu" else 1
    where = "this machine has free" if topology.device.platform == "cpu" else f"a {topology.device.name} has"
    raise UserError(
        f"the run needs about {count * need / 2**30:.1f} GiB of memory and {where} {count * limit / 2**30:.1f}: use "
        "more devices, a smaller model, batch.global_batch or data.row_length, or adapters (--lora.rank 16); "
        "`asclepius plan` tells what fits where"
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
    """The machine that a mesh is made of; None where its devices have no row."""
    devices = list(mesh.devices.flat)
    device = find_device(devices[0].device_kind)
    if device is None:
        return None
    if device.platform == "cpu":  # they share the memory of this machine
        device = this_cpu(sum(each.process_index == jax.process_index() for each in devices))
    slices = len({getattr(each, "slice_index", 0) for each in devices}) if device.platform == "tpu" else 1
    return Topology(device.name, device, len(devices), slices)
