"""`asclepius plan`: compile for a machine that is not here, or search for its best layout; then print the plan."""

import json
from pathlib import Path

from asclepius_jax.config import TrainConfig
from asclepius_jax.cost_model.topologies import compile_devices, parse_topology
from asclepius_jax.plan.compile import PlanOptions, plan
from asclepius_jax.train.compiled_step import save_program
from data_prep.contract.errors import UserError


def run(options: PlanOptions, config: TrainConfig) -> None:
    topology = parse_topology(options.topology)
    devices = compile_devices(topology)
    if options.search:
        from asclepius_jax.plan.search import search

        made = search(config, topology, devices, options)
    else:
        made = plan(config, topology, devices, options)
    if options.save:
        if made.compiled is None:
            raise UserError(f"--save {options.save}: there is no program, since it does not fit")
        save_program(made.compiled, made.program_facts, Path(options.save))
    if options.json:
        print(json.dumps(made.report))
        return
    from asclepius_jax.plan.tables import show

    show(made.report)
