"""`asclepius plan`: compile the training step for another machine, or search its best layout, and print the plan."""

import json
from pathlib import Path
from typing import Any

from asclepius_jax.config import TrainConfig
from asclepius_jax.cost_model.topologies import Topology, compile_devices, parse_topology
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.plan.start_command import start_command, train_arguments
from asclepius_jax.train.compiled_step import save_program
from data_prep.contract.errors import UserError


def run(options: PlanOptions, config: TrainConfig, arguments: list[str]) -> None:
    """Plan, save and print. arguments: the command line that gave `options` and `config`."""
    topology = parse_topology(options.topology)
    devices = compile_devices(topology)
    if options.decode:
        decode(config, topology, devices, options)
        return
    if options.search:
        from asclepius_jax.plan.search import search

        result = search(config, topology, devices, options)
    else:
        result = plan(config, topology, devices, options)
    if options.save:
        if result.compiled is None:
            raise UserError(
                f"--save {options.save}: the program does not fit in memory, so there is nothing to save; run the plan "
                "without --save to see what it needs"
            )
        save_program(result.compiled, result.program_facts, Path(options.save))
    if result.fits:
        given = [result.report["config_file"]] if options.search else train_arguments(arguments, options)
        given += [] if config.data.path else ["--data.path", "FOLDER"]
        given += ["--compute.program", options.save] if options.save else []
        result.report["start"] = start_command(topology, given)
    if options.json:
        print(json.dumps(result.report))
        return
    from asclepius_jax.plan.tables import show

    show(result.report)


def decode(config: TrainConfig, topology: Topology, devices: list[Any], options: PlanOptions) -> None:
    """Plan answering, and print the plan."""
    from asclepius_jax.plan.decode import plan_decode
    from asclepius_jax.plan.tables import show_decoding

    for name in ("search", "save", "out"):
        if getattr(options, name):
            raise UserError(f"--decode plans answering, which has no training step: omit --{name}")
    report = plan_decode(config, topology, devices, options.decode)
    print(json.dumps(report)) if options.json else show_decoding(report)
