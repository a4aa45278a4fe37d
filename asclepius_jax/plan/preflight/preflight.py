"""`asclepius preflight CONFIG`: on every host, before a job: does this machine train this run, and how fast?

Started as training is, with the same configuration, flags and detection of the job. Uses the trainer's own functions;
an existing run in the folder is locked meanwhile, and not changed.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.checkpoint.read import read_meta, steps_of
from asclepius_jax.config import TrainConfig, check
from asclepius_jax.cost_model.choose import machine_of
from asclepius_jax.distributed.job import Disagreement
from asclepius_jax.distributed.same_program import problems_of_all
from asclepius_jax.model.decoder import Model
from asclepius_jax.plan.preflight.devices import MEMORY, judge_devices, measure_devices
from asclepius_jax.plan.preflight.hosts import DATA, PROGRAM, judge_hosts, measure_hosts
from asclepius_jax.plan.preflight.kernel_errors import judge_kernels, measure_kernels
from asclepius_jax.plan.preflight.real_steps import judge_steps, measure_steps
from asclepius_jax.plan.preflight.records import Measure, Row, Run
from asclepius_jax.plan.preflight.saved_step import (
    Size,
    judge_saved,
    random_state,
    save_and_restore,
    size_to_save,
    step_bytes,
)
from asclepius_jax.plan.preflight.speeds import judge_speeds, measure_speeds
from asclepius_jax.plan.preflight.stages import Stages
from asclepius_jax.plan.preflight.storage import NEEDED_TO_SAVE, RunFolder, judge_storage, measure_storage
from asclepius_jax.train.batches import PackedRows, Rows
from asclepius_jax.train.loop import keep_compiled
from asclepius_jax.train.setup import build_model, make_step, open_data
from asclepius_jax.train.start import announce_start, check_resumable, check_weights, with_local_copies
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import showing_addresses


def run(config: TrainConfig, json_file: str = "") -> None:
    """Check the machine and print one table.

    Raises UserError, in every process of the job, if something is wrong or a run uses the folder.
    """
    check(config)
    config = with_local_copies(config)
    stages = Stages(config, json_file)
    with stages.watching(), showing_addresses():
        keep_compiled(config.compute.compiled)
        stages.run("hosts", lambda: measure_hosts(config), judge_hosts)
        if not stages.wrong(("hosts", PROGRAM)):
            folder = RunFolder(Path(config.run_dir))
            with folder.opened():
                check_machine(stages, config, folder)
        else:
            skip(stages, "everything else", "the hosts do not run the same program")
        if jax.process_index() == 0:
            stages.report()
    wrong = [row.check for row in stages.rows if row.status == "wrong"]
    if wrong:
        raise Disagreement(
            f"{len(wrong)} of {len(stages.rows)} checks are wrong ({', '.join(dict.fromkeys(wrong))}): see the table"
        )


def check_machine(stages: Stages, config: TrainConfig, folder: RunFolder) -> None:
    run = set_up(stages, config)
    if run is None:
        return skip(stages, "everything else", "the run cannot be set up")
    stages.run("devices", lambda: measure_devices(run), lambda found: judge_devices(run, found))
    stages.run("kernels", lambda: measure_kernels(run), lambda found: judge_kernels(run, found))
    stages.run("speed", lambda: measure_speeds(run), lambda found: judge_speeds(run, found))
    size = step_bytes(run.setup)
    storage = stages.run(
        "storage", lambda: measure_storage(config, folder), lambda found: judge_storage(config, size, found)
    )
    if stages.wrong((MEMORY,)):
        return skip(stages, "checkpoint and ten steps", "the run does not fit in memory")
    state = Held(lambda: random_state(run.setup))
    if stages.wrong(("storage", *NEEDED_TO_SAVE)):
        skip(stages, "checkpoint", "the run folder cannot hold one")
    else:
        share = size_to_save(run, storage)
        stages.run(
            "checkpoint", lambda: measure_saved(run, state, folder, share), lambda found: judge_saved(run, share, found)
        )
    if run.rows is None:
        return skip(stages, "ten steps", "not every host has the rows")
    stages.run("ten steps", lambda: measure_steps(run, state.take()), lambda found: judge_steps(run, found))
    return None


def skip(stages: Stages, what: str, why: str) -> None:
    stages.rows.append(Row(what, "skipped", why))


class Held:
    """The state, made when it is first needed and held in one place, because two may not fit in memory."""

    def __init__(self, make: Callable[[], Any]):
        self.make = make
        self.value: Any = None

    def take(self) -> Any:
        value, self.value = self.value, None
        return self.make() if value is None else value


def measure_saved(run: Run, state: Held, folder: RunFolder, size: Size) -> Measure:
    state.value, measure = save_and_restore(run, state.take(), folder.trial, size)
    return measure


def set_up(stages: Stages, config: TrainConfig) -> Run | None:
    """The run as training sets it up, without its rows if a host lacks them; None if training would refuse it."""
    rows: Rows | None = None
    held_out: dict[str, PackedRows] = {}
    model = build_model(config.model, config.lora)

    def measure_data() -> Measure:
        nonlocal rows, held_out
        rows, held_out = open_data(config, model.config)
        announce_start(config, rows)
        return {"tokens": rows.manifest["tokens"]}

    def judge_data(measures: list[Measure]) -> list[Row]:
        return [Row("hashes of packed rows", "ok", f"{measures[0]['tokens']:,} tokens, as in the manifest")]

    read = stages.run("settings and data", measure_data, judge_data)
    if stages.wrong((DATA,)) or any("error" in each for each in read):
        rows, held_out = None, {}
    data = config.data if rows is not None else dataclasses.replace(config.data, path=())
    problem = ""
    try:
        setup = make_step(dataclasses.replace(config, data=data), model, rows, [*held_out.values()], quiet=False)
        if rows is not None:
            check_origin(config, model, rows)
    except UserError as error:
        problem = str(error)
    if problems := problems_of_all("preflight/set-up", problem):
        stages.rows += [Row("set-up", "wrong", line) for line in dict.fromkeys(problems)]
        return None
    return Run(setup.config, model, setup.mesh, setup.kernel, machine_of(setup.mesh), rows, setup)


def check_origin(config: TrainConfig, model: Model, rows: Rows) -> None:
    """Raise UserError if the run cannot start from its own newest step, or from the weights of its settings."""
    if steps := steps_of(Path(config.run_dir)):
        check_resumable(config, model, rows, steps[-1], read_meta(steps[-1]))
    elif not config.init.hf or Path(config.init.hf).is_dir():  # a hub id is downloaded when training starts
        check_weights(config, model, rows)
