"""Saving and loading of a compiled training step.

`asclepius plan --save` compiles it on any machine, and training loads it on the target machine. The file starts with
one line of JSON that describes the run it was compiled for, followed by JAX's serialized executable. Loading a file
executes code from it, so load only files that you made yourself.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import TrainConfig
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.sizes import LlamaConfig
from data_prep.contract.errors import UserError

Facts = dict[str, Any]


def program_facts(config: TrainConfig, model: LlamaConfig, mesh: Mesh, kernel: Kernel, total_steps: int) -> Facts:
    """Everything that determines the program, in JSON types."""
    compute = dataclasses.asdict(config.compute)
    facts = {
        "jax": jax.__version__,
        "device": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "model": dataclasses.asdict(model),
        "row_length": config.data.row_length,
        "batch": dataclasses.asdict(config.batch),
        "compute": {name: compute[name] for name in ("dtype", "remat", "reduce_dtype")},
        "attention": dataclasses.asdict(kernel),
        "optimizer": dataclasses.asdict(config.optimizer),
        "lora": dataclasses.asdict(config.lora),
        "total_steps": total_steps,  # the learning-rate schedule is part of the program
    }
    return json.loads(json.dumps(facts))


def save_program(compiled: Any, facts: Facts, path: Path) -> None:
    payload, _, _ = serialize_executable.serialize(compiled)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(json.dumps(facts).encode() + b"\n" + payload)
    partial.replace(path)


def load_program(path: Path, facts: Facts, step: Any, state: State, batch: Any, mesh: Mesh) -> Any:
    """Load the compiled form of `step`: (state, batch) -> (state, metrics).

    `state` and `batch` are trees of shapes. Raises UserError if the file was compiled for another run.
    """
    header, _, payload = path.read_bytes().partition(b"\n")
    try:
        made_for = json.loads(header)
    except ValueError as error:
        raise UserError(f"{path} is not a program saved by `asclepius plan --save`") from error
    differing = [
        f"{name} {made_for.get(name)} there, {value} here"
        for name, value in facts.items()
        if made_for.get(name) != value
    ]
    if differing:
        raise UserError(f"{path} was compiled for another run: {'; '.join(differing)}; save it again for this run")
    in_tree = jax.tree.structure(((state, batch), {}))
    out_tree = jax.tree.structure(jax.eval_shape(step, state, batch))
    return serialize_executable.deserialize_and_load(
        payload, in_tree, out_tree, execution_devices=list(mesh.devices.flat)
    )
