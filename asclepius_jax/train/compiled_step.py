"""Saving and loading of a compiled training step.

`asclepius plan --save` compiles it on any machine, and training loads it on the target machine. The file starts with
one line of JSON that describes the run and the code it was compiled for, followed by JAX's serialized executable.
Loading a file executes code from it, so load only files that you made yourself.
"""

import dataclasses
import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from asclepius_jax.checkpoint.read import State
from asclepius_jax.config import TrainConfig
from asclepius_jax.config.sources import training_sources
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError
from data_prep.contract.records import file_hash, text_hash

Facts = dict[str, Any]
PACKAGE = Path(__file__).resolve().parents[1]
# The code from which the step is traced.
CODE = (
    "model/*.py", "model/kernels/*.py", "distributed/sharding.py", "checkpoint/adapters.py", "train/step.py",
    "train/optimizer.py", "train/preference/token_weights.py",
)  # fmt: skip
COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin",)}  # packages; the compiler for CPUs is in jaxlib
PAYLOAD = "sha256"  # of the executable, in the header beside the facts


def program_facts(config: TrainConfig, model: DecoderConfig, mesh: Mesh, kernel: Kernel, total_steps: int) -> Facts:
    """Everything that determines the program, in JSON types."""
    compute, device = dataclasses.asdict(config.compute), mesh.devices.flat[0]
    libraries = ["jax", "jaxlib", "flax", "optax", *COMPILERS.get(device.platform, ())]
    facts = {
        # Not imported, because the package imports the trainer.
        "asclepius_jax": sys.modules["asclepius_jax"].__version__,
        "code": code_hash(),
        **{name: version_of(name) for name in libraries},
        "device": device.device_kind,
        "mesh": dict(mesh.shape),
        "model": dataclasses.asdict(model),
        "row_length": config.data.row_length,
        "batch": dataclasses.asdict(config.batch),
        "compute": {name: compute[name] for name in ("dtype", "matmul", "remat", "reduce_dtype")},
        "attention": dataclasses.asdict(kernel),
        "optimizer": dataclasses.asdict(config.optimizer),
        "lora": dataclasses.asdict(config.lora),
        "preference": dataclasses.asdict(config.preference),
        "sources": [source.name for source in training_sources(config.data)] if len(config.data.path) > 1 else [],
        "total_steps": total_steps,  # the learning-rate schedule is part of the program
    }
    return json.loads(json.dumps(facts))


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # another build of the compiler, or jax from another place
        return "absent"


def code_files() -> list[Path]:
    return sorted(path for pattern in CODE for path in PACKAGE.glob(pattern))


def code_hash() -> str:
    """Hash of the code that the step is traced from: versions in development have the same number."""
    return text_hash(*(f"{path.relative_to(PACKAGE)} {file_hash(path)}" for path in code_files()))[:12]


def save_program(compiled: Any, facts: Facts, path: Path) -> None:
    payload, _, _ = serialize_executable.serialize(compiled)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    header = {**facts, PAYLOAD: hashlib.sha256(payload).hexdigest()}
    partial.write_bytes(json.dumps(header).encode() + b"\n" + payload)
    partial.replace(path)


def load_program(path: Path, facts: Facts, step: Any, state: State, batch: Any, mesh: Mesh) -> Any:
    """Load the compiled form of `step`: (state, batch) -> (state, metrics).

    `state` and `batch` are trees of shapes. Raises UserError if the file is damaged, or was compiled for another run or
    by another version.
    """
    if not path.is_file():
        raise UserError(f"--compute.program {path}: no such file; save it with `asclepius plan --save`")
    header, _, payload = path.read_bytes().partition(b"\n")
    try:
        made_for = dict(json.loads(header).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a program saved by `asclepius plan --save`") from error
    digest = made_for.pop(PAYLOAD, "")
    differing = [
        f"{name} {made_for.get(name)} there, {facts.get(name)} here"
        for name in [*facts, *sorted(made_for.keys() - facts.keys())]
        if made_for.get(name) != facts.get(name)
    ]
    if differing:
        raise UserError(f"{path} was compiled for another run: {'; '.join(differing)}; save it again for this run")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise UserError(f"{path} is damaged: save it again with `asclepius plan --save`")
    in_tree = jax.tree.structure(((state, batch), {}))
    out_tree = jax.tree.structure(jax.eval_shape(step, state, batch))
    return serialize_executable.deserialize_and_load(
        payload, in_tree, out_tree, execution_devices=list(mesh.devices.flat)
    )
