"""Save a step as training saves it, restore it, and compare its checksums: of the real size if that is quick enough."""

import time
from pathlib import Path
from typing import NamedTuple

import jax

from asclepius_jax.checkpoint.adapters import in_types_of
from asclepius_jax.checkpoint.places import steps_place
from asclepius_jax.checkpoint.read import Meta, State, read_meta, restore_state
from asclepius_jax.checkpoint.write import Saver, saved_items
from asclepius_jax.model.decoder import Params, init_params
from asclepius_jax.plan.host_needs import checkpoint_bytes
from asclepius_jax.plan.preflight.records import Measure, Row, Run
from asclepius_jax.plan.preflight.storage import forget
from asclepius_jax.train.adapters import random_adapters, readable
from asclepius_jax.train.setup import TrainStep
from asclepius_jax.train.step import abstract_state, init_state, trained_of

MOST_SECONDS = 60.0  # for saving and restoring; a step that would take longer is tried with fewer layers


class Size(NamedTuple):
    """How much of a step is saved: `layers` of the trained weights alone, or everything where it is None."""

    layers: int | None
    seconds: float  # that all of it would take, at the speed of the slowest host


def random_state(setup: TrainStep) -> State:
    """A state of the run's shapes with random weights, so that no weights have to be loaded."""
    model = setup.model

    def draw(seed: int) -> Params:
        return in_types_of(init_params(model.config, seed), model.shapes)

    params = jax.jit(draw, out_shardings=setup.shardings["params"])(setup.config.init.seed)
    adapters = None
    if model.lora.rank:
        adapters = random_adapters(model, setup.config.lora.seed, setup.shardings["adapters"], params)
    return init_state(params, setup.optimizer, setup.shardings, adapters)


def step_bytes(setup: TrainStep) -> int:
    return checkpoint_bytes(abstract_state(setup.model, setup.optimizer, setup.shardings))


def size_to_save(run: Run, storage: list[Measure]) -> Size:
    """The same in every process, from the storage's speed on all of them."""
    each = step_bytes(run.setup) / jax.process_count()
    seconds = max(each / host["write"] + each / (host["read"] or host["write"]) for host in storage)
    if seconds <= MOST_SECONDS:
        return Size(None, seconds)
    layers = run.model.config.num_layers
    blocks = run.model.config.num_params * 4 * seconds / step_bytes(run.setup)  # seconds of the weights alone
    return Size(max(1, min(layers, int(layers * MOST_SECONDS / blocks))), seconds)


def save_and_restore(run: Run, state: State, folder: Path, size: Size) -> tuple[State, Measure]:
    """The restored state, or the given one if only a part was saved, and the seconds that it took.

    All of a state is freed before it is restored, because two may not fit.
    """
    config, rows, whole = run.config, run.rows, size.layers is None
    saved = saved_items(state) if whole else part_of(state, trained_of(run.model), size.layers or 1)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), saved)
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(saved))
    template = "" if rows is None else rows.manifest["prompt_template"]
    meta = Meta(run.model.config, "", template, config.data.row_length, "preflight", {})
    saver, began = Saver(folder, config.checkpoint), time.monotonic()
    saver.save(0, saved, meta)
    saver.finish(last=True)
    save_seconds = time.monotonic() - began
    for leaf in jax.tree.leaves(saved):
        leaf.delete()
    step = steps_place(folder) / "0"
    for path in step.rglob("*") if isinstance(step, Path) else ():
        if path.is_file():
            forget(path)
    began = time.monotonic()
    restored = restore_state(step, shapes, read_meta(step), config.checkpoint.checksums)
    measure = {"bytes": stored, "save": save_seconds, "restore": time.monotonic() - began}
    return ({**state, **restored} if whole else state), measure


def part_of(state: State, trained: str, layers: int) -> State:
    """The first layers of the trained weights, sharded as they are."""
    blocks = state[trained]["blocks"] if "blocks" in state[trained] else state[trained]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, blocks)
    first = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[:layers], tree), out_shardings=shardings)(blocks)
    return {"step": state["step"] + 0, "params": {"blocks": first}}


def judge_saved(run: Run, size: Size, measures: list[Measure]) -> list[Row]:
    stored, total = measures[0]["bytes"], step_bytes(run.setup)
    seconds = {name: max(each[name] for each in measures) for name in ("save", "restore")}
    verified = "content checksums equal" if run.config.checkpoint.checksums else "not verified (checkpoint.checksums)"
    told = ", ".join(f"{name} {spent:.1f} s ({stored / spent / 1e6:,.0f} MB/s)" for name, spent in seconds.items())
    rows = [Row("checkpoint", "ok", f"{readable(stored)}: {told}", verified)]
    if size.layers is not None:
        whole = ", ".join(f"{name} {spent * total / stored:.0f} s" for name, spent in seconds.items())
        why = f"extrapolated, as storage seems to need {size.seconds:.0f} s"
        rows.append(Row("a whole checkpoint", "ok", f"{readable(total)}: {whole}", why))
    return rows
