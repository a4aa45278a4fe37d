"""Search for the fastest layout on a machine.

Every mesh, number of microbatches and remat policy is ranked by predicted speed if it fits the memory model. The best
few are compiled.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from asclepius_jax.config import MeshConfig, TrainConfig, divisors
from asclepius_jax.cost_model.choose import SHARE_TO_FILL, candidates, layout_of
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.cost_model.speed import predict
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.distributed.sharding import check_layout, make_mesh
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.decoder import build
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.plan.compile import Plan, PlanOptions, plan
from asclepius_jax.train.choose_kernel import choose_kernel
from asclepius_jax.train.start import resolve_model
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably

COMPILED = 3  # number of compiled candidates that must fit before the search stops


def search(config: TrainConfig, topology: Topology, devices: list[Any], options: PlanOptions) -> Plan:
    """The fastest plan that fits. Its configuration is written to `options.out`.

    Raises UserError if nothing fits, or if there is a config file of that name, which may have been edited.
    """
    path = Path(options.out or f"{Path(config.run_dir).name}_{topology.name.replace('-', '_')}.py")
    if path.exists():
        raise UserError(f"{path} exists: choose another --out, or remove it")
    open_config = dataclasses.replace(
        config,
        batch=dataclasses.replace(config.batch, microbatches=0),
        compute=dataclasses.replace(config.compute, remat="auto"),
    )
    ranked = rank(open_config, build(resolve_model(config.model)).config, topology, devices)
    plans = []
    for candidate in ranked[: 4 * COMPILED]:
        plans.append(plan(candidate, topology, devices, options))
        if sum(each.fits for each in plans) == COMPILED:
            break
    fitting = [each for each in plans if each.fits]
    if not fitting:
        raise UserError(f"{config.model} with these rows does not fit {topology.name} in any layout: use more devices")
    winner = min(fitting, key=lambda each: each.prediction.step_seconds)
    if not options.json:
        Console().print(ranking(plans, winner))
    winner.report["config_file"] = write_winner(winner.config, topology, path)
    return winner


def rank(config: TrainConfig, model: DecoderConfig, topology: Topology, devices: list[Any]) -> list[TrainConfig]:
    """The best candidate of each mesh that should fit, fastest first."""
    found: list[tuple[float, TrainConfig]] = []
    for sizes in meshes(topology.count):
        with_mesh = dataclasses.replace(config, mesh=MeshConfig(*sizes))
        try:
            mesh = make_mesh(with_mesh.mesh, devices)
            check_layout(mesh, model, config.data.row_length, config.batch.global_batch)
        except UserError:
            continue  # this mesh does not divide the model, another one may
        kernel = choose_kernel(with_mesh, mesh, model)
        scored = [
            (predict(model, topology, layout_of(each, mesh, model)).step_seconds, each)
            for each in candidates(with_mesh, mesh)
            if fits(each, model, dict(mesh.shape), kernel, topology)
        ]
        if scored:
            found.append(min(scored, key=lambda pair: pair[0]))
    return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0])]


def fits(config: TrainConfig, model: DecoderConfig, mesh: dict[str, int], kernel: Kernel, topology: Topology) -> bool:
    return estimate(config, model, mesh, kernel).total <= SHARE_TO_FILL * topology.device.limit_bytes


def meshes(count: int) -> Iterator[tuple[int, int, int, int]]:
    """Every way to split the devices into data x fsdp x tensor x context, with at most 8 devices sharing heads."""
    for tensor, context in itertools.product((1, 2, 4, 8), (1, 2, 4, 8)):
        if count % (tensor * context) == 0 and tensor * context <= 8:
            rest = count // (tensor * context)
            for fsdp in divisors(rest):
                yield rest // fsdp, fsdp, tensor, context


def ranking(plans: list[Plan], winner: Plan) -> Table:
    table = Table(
        "data x fsdp x tensor x context", "microbatches", "remat", "GiB per device", "step s", "tokens/s per device", ""
    )
    for each in sorted(plans, key=lambda each: each.prediction.step_seconds):
        chosen, memory = each.report["chosen"], each.report["memory"]
        table.add_row(
            " x ".join(map(str, chosen["mesh"].values())),
            str(chosen["microbatches"]),
            chosen["remat"],
            f"{memory['peak_bytes'] / 2**30:.1f}",
            f"{each.prediction.step_seconds:.2f}",
            f"{each.prediction.tokens_per_second_per_device:,.0f}",
            "best" if each is winner else "fits" if each.fits else "does not fit",
        )
    return table


def write_winner(config: TrainConfig, topology: Topology, path: Path) -> str:
    """Write a config file with the values that differ from the defaults. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = literal(config)
    write_durably(
        path,
        f'"""The fastest layout for {topology.name} found by `asclepius plan --search`.\n\n'
        f'launch/train.sh {path} --data.path FOLDER"""\n\n'
        f"from asclepius_jax.config import {', '.join(sorted(branches(config)))}\n\n"
        f"config = {body}\n",
    )
    return str(path)


def changed(branch: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass that differ from their defaults."""
    default = type(branch)()
    names = [field.name for field in dataclasses.fields(branch)]
    return [(name, getattr(branch, name)) for name in names if getattr(branch, name) != getattr(default, name)]


def branches(config: Any) -> set[str]:
    """The names of the dataclasses that appear in `literal`."""
    inner = [branches(value) for _, value in changed(config) if dataclasses.is_dataclass(value)]
    return {type(config).__name__}.union(*inner)


def literal(value: Any, depth: int = 1) -> str:
    """Python source of a tree of dataclasses, without default values."""
    if not dataclasses.is_dataclass(value):
        return json.dumps(value) if isinstance(value, str) else repr(value)
    inside = [f"{name}={literal(each, depth + 1)}" for name, each in changed(value)]
    if depth > 1:
        return f"{type(value).__name__}({', '.join(inside)})"
    lines = "".join(f"    {each},\n" for each in inside)
    return f"{type(value).__name__}(\n{lines})"
