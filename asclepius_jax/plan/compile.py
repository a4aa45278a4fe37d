"""Compile the training step for a machine without access to it, and report its memory, communication and speed.

`asclepius plan pretrain_7b --topology v5e-64` compiles the same step that `asclepius train` would run there, with the
compiler of that machine. Memory and communication are read from the compiled program, and speed is predicted.
"""

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from asclepius_jax.config import InitConfig, TrainConfig, check
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.config.sources import training_sources
from asclepius_jax.cost_model.choose import layout_of, settle
from asclepius_jax.cost_model.flops import flops_per_token
from asclepius_jax.cost_model.memory import Memory, estimate
from asclepius_jax.cost_model.speed import INTERVAL, Prediction, predict, token_flops
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.distributed.sharding import batch_parts, check_layout, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import Model
from asclepius_jax.plan.host_needs import checkpoint_bytes, host_facts, start_facts
from asclepius_jax.plan.traffic import rates_of, traffic
from asclepius_jax.train.choose_kernel import TYPICAL_SEGMENTS, choose_kernel, fallbacks
from asclepius_jax.train.compiled_step import program_facts
from asclepius_jax.train.optimizer import make_optimizer
from asclepius_jax.train.setup import build_model, check_steps, total_steps
from asclepius_jax.train.step import (
    abstract_batch,
    abstract_state,
    make_train_step,
    state_shardings,
)
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest


@dataclass(frozen=True)
class PlanOptions:
    topology: str
    """Machine by its maker's name, such as v5e-64, v5e-256x2 (two slices), h100-8, a100-80g-8, cpu-8. The number counts
    chips; for v4, v5p and tpu7x it counts cores, two per chip."""
    json: bool = False
    """Print one JSON object instead of tables."""
    decode: int = 0
    """Plan answering instead of training, with this many tokens of prompt and answer together; the mesh is chosen. 0
    plans training."""
    search: bool = False
    """Try meshes, microbatches and remat policies, and compile the best of them."""
    out: str = ""
    """Config file for the winner of --search; by default named after the config and the topology."""
    price: float = 0.0
    """Price per device-hour, in any currency."""
    read_rate: float = 0.0
    """MB/s at which a host reads from the storage of checkpoints, as `asclepius preflight` measures it. With it, the
    start-up includes reading a checkpoint; otherwise only compiling."""
    rows: int = 0
    """Number of training rows; needed when --data.path is not available on this machine."""
    save: str = ""
    """File for the compiled step; `asclepius train --compute.program FILE` loads it."""


@dataclass(frozen=True)
class Plan:
    """The plan of a configuration on a machine. `report` is the object that --json prints."""

    config: TrainConfig
    fits: bool
    prediction: Prediction
    report: dict[str, Any]
    program_facts: dict[str, Any]
    compiled: Any  # None if the program does not fit


def plan(config: TrainConfig, topology: Topology, devices: list[Any], options: PlanOptions) -> Plan:
    """Compile one configuration. Raises UserError if no run is possible with it."""
    check(later(config))
    config = with_learning_rate(config)
    model = build_model(config.model, config.lora)
    mesh = make_mesh(config.mesh, devices)
    check_layout(mesh, model.config, config.data.row_length, config.batch.global_batch)
    rows, segments = data_facts(config, options)
    if rows:
        check_steps(config, rows, batch_parts(mesh))
    kernel = choose_kernel(config, mesh, model.config, segments)
    config = settle(config, model.config, mesh, kernel, quiet=options.json)
    started = time.monotonic()
    steps = total_steps(config, rows)
    if options.save and not rows:
        raise UserError(
            f"--save {options.save}: the program's learning-rate schedule depends on the number of rows: set "
            "--data.path or --rows"
        )
    compiled, refusal = compile_step(config, model, mesh, kernel, steps)
    seconds = time.monotonic() - started
    parts = estimate(config, model.config, dict(mesh.shape), kernel)
    memory = memory_facts(compiled, refusal, parts, topology)
    layout = layout_of(config, mesh, model.config)
    rates = rates_of(model.config, layout, mesh, topology)
    collectives = [] if compiled is None else traffic(compiled.as_text(), mesh, topology, rates)
    # Between slices of a TPU, gradients are sent and received, which is no collective in the program.
    known = rates and compiled and topology.slices == 1
    waits = sum(each["exposed_seconds"] for each in collectives) if known else None
    prediction = predict(model.config, topology, layout, exposed=waits)
    fits = memory["peak_bytes"] <= memory["limit_bytes"]
    optimizer = make_optimizer(config.optimizer, steps, config.lora)
    state = abstract_state(model, optimizer, state_shardings(mesh, model, optimizer))
    host = host_facts(state, compiled, topology)
    start = start_facts(host, seconds, options.read_rate)
    report: dict[str, Any] = {
        "topology": topology.name,
        "devices": topology.count,
        "device": topology.device.kind,
        "fits": fits,
        "memory": memory,
        "chosen": {
            "mesh": dict(mesh.shape),
            "microbatches": config.batch.microbatches,
            "remat": config.compute.remat,
            "attention": kernel.name,
            "notes": fallbacks(config, mesh, model.config, kernel),
            "rows_per_device": layout.rows_per_device,
        },
        "checkpoint_bytes": checkpoint_bytes(state),
        "host": host,
        "start_up": start,
        "collectives": collectives,
        "flops": flop_facts(config, model, mesh),
        "predicted": prediction_facts(prediction),
        "training": training_facts(config, topology, prediction, rows, start["seconds"], options.price),
    }
    facts = program_facts(config, model.config, mesh, kernel, steps)
    return Plan(config, fits, prediction, report, facts, compiled)


def later(config: TrainConfig) -> TrainConfig:
    """The configuration with placeholders for what a plan does not need: data, and base weights of adapters."""
    data = dataclasses.replace(config.data, path=config.data.path or ("later",))
    named = config.init.hf or config.init.checkpoint or not config.lora.rank
    return dataclasses.replace(config, data=data, init=config.init if named else InitConfig(hf="later"))


def data_facts(config: TrainConfig, options: PlanOptions) -> tuple[int, int]:
    """(rows, maximum documents per row) of the data. 0 rows means that the number is unknown."""
    if options.read_rate < 0:
        raise UserError(f"--read-rate {options.read_rate}: it must be above 0, or 0 if the speed is unknown")
    if options.rows < 0:
        raise UserError(f"--rows {options.rows}: it must be 1 or more, or 0 if the number is unknown")
    sources = training_sources(config.data)
    folders = [Path(source.path) for source in sources]
    if not folders or not all((folder / "manifest.json").exists() for folder in folders):
        return options.rows, TYPICAL_SEGMENTS
    manifests = [read_manifest(folder, "packed") for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest["row_length"] != config.data.row_length:
            raise UserError(
                f"{folder} has rows of {manifest['row_length']} tokens, data.row_length is {config.data.row_length}: "
                f"set --data.row-length {manifest['row_length']}"
            )
    rows = int(manifests[0]["rows"] / sources[0].weight)
    return options.rows or rows, 1 << max(manifest["most_documents"] for manifest in manifests).bit_length()


def compile_step(config: TrainConfig, model: Model, mesh: Mesh, kernel: Kernel, steps: int) -> tuple[Any, str]:
    """(compiled step, "") on success, or (None, error message of the compiler) if it does not fit in memory."""
    optimizer = make_optimizer(config.optimizer, steps, config.lora)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, steps, shardings, mesh, kernel)
    state = abstract_state(model, optimizer, shardings)
    return compile_for(mesh, step, state, abstract_batch(config, mesh))


def compile_for(mesh: Mesh, function: Any, *arguments: Any) -> tuple[Any, str]:
    """(compiled function, "") on success, or (None, error message of the compiler) if it does not fit in memory."""
    # JAX can write a program for another machine to its cache, but not read it back.
    jax.config.update("jax_enable_compilation_cache", mesh.devices.flat[0].platform == "cpu")
    try:
        return function.lower(*arguments).compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error)


def memory_facts(compiled: Any, refusal: str, parts: Memory, topology: Topology) -> dict[str, int]:
    """Bytes per device: the compiler's allocations, and their uses according to the memory model."""
    if compiled is not None:
        arguments, temporaries, peak = allocations(compiled)
    else:
        arguments = int(parts.params + parts.optimizer)
        # "... total memory required for HLO temporaries (20.42G) exceeds available HBM (15.75G)"
        needed = [float(number) for number in re.findall(r"([\d.]+)G\b", refusal)]
        temporaries = int(max(needed, default=parts.total / 2**30) * 2**30)
        peak = max(arguments + temporaries, topology.device.limit_bytes + 1)
    gradients = int(parts.gradients)
    return {
        "arguments_bytes": arguments,
        "temporaries_bytes": temporaries,
        "peak_bytes": peak,
        "limit_bytes": topology.device.limit_bytes,
        "parameters_bytes": int(parts.params),
        "optimizer_bytes": int(parts.optimizer),
        "gradients_bytes": gradients,
        "activations_bytes": int(parts.saved),
        "working_bytes": max(0, temporaries - gradients - int(parts.saved)),
    }


def allocations(compiled: Any) -> tuple[int, int, int]:
    """Bytes per device that a compiled program needs: arguments, temporaries, and all together."""
    stats = compiled.memory_analysis()
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    return arguments, temporaries, arguments + temporaries + stats.output_size_in_bytes - stats.alias_size_in_bytes


def flop_facts(config: TrainConfig, model: Model, mesh: Mesh) -> dict[str, float]:
    """FLOPs per step on all devices: of the model with all or only causal scores, and of recomputation."""
    tokens, length = config.batch.global_batch * config.data.row_length, config.data.row_length
    layout = dataclasses.replace(layout_of(config, mesh, model.config), native=False)  # FLOPs, however fast they are
    return {
        "model": tokens * flops_per_token(model.config, length, False, layout.adapters),
        "model_causal": tokens * flops_per_token(model.config, length, True, layout.adapters),
        # With pairs, also their first forward pass.
        "recomputation": tokens * token_flops(model.config, layout)["recomputation"],
    }


def prediction_facts(prediction: Prediction) -> dict[str, Any]:
    least, most = (multiple * prediction.tokens_per_second_per_device for multiple in INTERVAL)
    return {**dataclasses.asdict(prediction), "least_tokens_per_second": least, "most_tokens_per_second": most}


def training_facts(
    config: TrainConfig, topology: Topology, prediction: Prediction, rows: int, start_seconds: float, price: float
) -> dict[str, Any]:
    """Steps, hours and cost of the whole run with one start. Empty if the number of rows is unknown."""
    if not rows:
        return {}
    steps = total_steps(config, rows)
    hours = (start_seconds + steps * prediction.step_seconds) / 3600
    chips = topology.count // 2 if topology.device.name == "tpu7x" else topology.count
    facts = {"rows": rows, "steps": steps, "hours": hours, "device_hours": hours * topology.count}
    return {**facts, "cost": hours * chips * price} if price else facts
