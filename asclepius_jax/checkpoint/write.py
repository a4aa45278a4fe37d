"""Saving of steps in the background. A step is saved completely or not at all, and a failure costs one interval.

Every process writes its part of the arrays; process 0 finishes the step when all have told that theirs is written, and
removes it if one has failed.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax

from asclepius_jax.checkpoint import places
from asclepius_jax.checkpoint.arrays import host_copy, layout_of_array, merge, open_item, shares
from asclepius_jax.checkpoint.checksums import checksums, written
from asclepius_jax.checkpoint.places import DIGESTS, Place
from asclepius_jax.checkpoint.read import META, Meta, State, digests_of, leaf_names, steps_of
from asclepius_jax.config import CheckpointConfig
from asclepius_jax.distributed import same_program
from data_prep.contract.errors import UserError, first_line

MOST_FAILURES = 3  # consecutive failed saves after which the run stops


class Saver:
    """Saves the steps of one run and removes steps according to its retention settings."""

    def __init__(self, run_dir: Path, config: CheckpointConfig):
        self.run_dir, self.config = run_dir, config
        self.folder = places.steps_place(run_dir).absolute()
        self.thread: threading.Thread | None = None
        self.cost_reported = False
        self.problem = ""  # error message of the last save
        self.failures = 0  # consecutive failed saves
        if jax.process_index() == 0:
            if isinstance(self.folder, Path):
                self.folder.mkdir(parents=True, exist_ok=True)
            self.sweep()

    def save(self, step: int, state: State, meta: Meta) -> None:
        """Wait for the previous save, then start writing a step in the background."""
        self.finish()
        items = {name: leaf_names(tree) for name, tree in saved_items(state).items() if name != "step"}
        if self.config.checksums:
            meta = dataclasses.replace(meta, checksums={**meta.checksums, **self.checksums_of(items)})
        partial = places.partial_step(self.folder, step)
        futures: list[Any] = []
        problem = self.make(partial, items)
        if not same_program.problems_of_all(f"save/{step}/made", problem):
            try:
                for item, leaves in items.items():
                    futures += self.start(partial / item, leaves)
            except Exception as error:  # noqa: BLE001, a save that fails must not end the run
                problem = first_line(error)
        else:
            problem = problem or "another process could not start saving"
        names = {item: [*leaves] for item, leaves in items.items()}
        self.thread = threading.Thread(target=self.complete, args=(step, partial, names, futures, meta, problem))
        self.thread.start()

    def checksums_of(self, items: dict[str, dict[str, jax.Array]]) -> dict[str, str]:
        began = time.monotonic()
        named = {f"{item}/{name}": array for item, leaves in items.items() for name, array in leaves.items()}
        sums = {name: written(value) for name, value in jax.device_get(checksums(named)).items()}
        if not self.cost_reported and jax.process_index() == 0:
            size = sum(array.nbytes for array in named.values()) / 1e9
            took = time.monotonic() - began
            print(f"content checksums of {size:.2f} GB took {took:.2f} s, including compilation", flush=True)
        self.cost_reported = True
        return sums

    def make(self, partial: Place, items: dict[str, Any]) -> str:
        """Make the place that the processes write to. Returns an error message, or "" on success."""
        if jax.process_index() != 0:
            return ""
        needed = sum(array.nbytes for leaves in items.values() for array in leaves.values())
        try:
            if isinstance(self.folder, Path) and needed > (free := shutil.disk_usage(self.folder).free):
                # Fail before filling up the disk for everyone else.
                return f"it needs {needed / 1e9:.3f} GB, the disk has {free / 1e9:.3f} GB left"
            places.prepare(partial, [*items])
        except (OSError, UserError) as error:
            return first_line(error)
        return ""

    def start(self, folder: Place, leaves: dict[str, jax.Array]) -> list[Any]:
        """Copy the arrays of an item to the host and start writing them. Returns the futures to wait for."""
        parts = {name: [*shares(leaf)] for name, leaf in leaves.items()}
        for _, part in (each for parts_of_leaf in parts.values() for each in parts_of_leaf):
            part.copy_to_host_async()
        layouts = {name: layout_of_array(name, leaf) for name, leaf in leaves.items()}
        arrays = open_item(folder, layouts, jax.process_index())
        return [
            arrays[name][place].write(host_copy(part), can_reference_source_data_indefinitely=True)
            for name in parts
            for place, part in parts[name]
        ]

    def complete(
        self,
        step: int,
        partial: Place,
        items: dict[str, list[str]],
        futures: list[Any],
        meta: Meta,
        problem: str,
    ) -> None:
        """Wait in the background until everything is written, then finish the step or remove it."""
        for future in futures:  # wait for all of them, since after a failure the others keep writing
            try:
                future.result()
            except Exception as error:  # noqa: BLE001, reported to all processes and counted
                problem = problem or first_line(error)
        problems = same_program.problems_of_all(f"save/{step}/written", problem)
        problem = ""
        if jax.process_index() == 0:
            try:
                if not problems:
                    for item, names in items.items():
                        merge(partial / item, names)
                    close_step(partial, self.folder / str(step), meta)
                    self.retire()
                    self.sweep()
            except Exception as error:  # noqa: BLE001
                problem = first_line(error)
            if problems or problem:
                with contextlib.suppress(UserError):  # a bucket that cannot be reached: the next start removes it
                    places.discard(partial)
        problems += same_program.problems_of_all(f"save/{step}/closed", problem)
        self.problem = f"step {step} could not be saved: {problems[0]}" if problems else ""

    def finish(self, last: bool = False) -> None:
        """Wait for the current save. A failed save prints a warning.

        Raises UserError if it is the third failure in a row, or if it is the `last` save of the run.
        """
        if self.thread is None:
            return
        self.thread.join()
        self.thread = None
        self.failures = self.failures + 1 if self.problem else 0
        if not self.problem:
            return
        message = f"{self.problem}; earlier steps are intact"
        if last or self.failures >= MOST_FAILURES:
            many = f" ({self.failures} saves failed in a row)" if self.failures > 1 else ""
            raise UserError(f"{message}{many}: free space in {self.folder} and start again to resume from them")
        if jax.process_index() == 0:
            print(f"WARNING: {message}. Training continues and saves again after the next interval", flush=True)

    def sweep(self) -> None:
        """Remove leftovers of killed runs and failed saves."""
        for leftover in places.unfinished(self.folder):
            if isinstance(leftover, Path):
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                print(f"{leftover} was never finished, or has lost {DIGESTS}: removing it", flush=True)
                places.discard(leftover)

    def retire(self) -> None:
        """Remove the steps that the retention settings do not keep."""
        steps = {int(path.name): path for path in steps_of(self.run_dir)}
        losses = {step: loss for step, path in steps.items() if (loss := eval_loss(path)) is not None}
        for step in sorted(steps.keys() - kept(list(steps), losses, self.config)):
            places.discard(steps[step])


def saved_items(state: State) -> dict[str, Any]:
    """Items of a state, or of its shapes, that a checkpoint stores.

    With adapters, the frozen weights are left out: they stay where they were loaded from.
    """
    return {name: item for name, item in state.items() if name != "params" or "adapters" not in state}


def eval_loss(step_folder: Place) -> float | None:
    """Loss of a step on the held-out rows. None if it is unknown or the step is damaged."""
    try:
        return json.loads((step_folder / META).read_text(encoding="utf-8"))["eval_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kept(steps: list[int], losses: dict[int, float], config: CheckpointConfig) -> set[int]:
    """The steps to keep: the newest, every k-th, and those with the lowest loss on held-out rows.

    A loss that is not finite is never among the lowest; comparing NaN would leave the steps in any order.
    """
    newest = sorted(steps)[-config.keep :]
    every = [step for step in steps if config.keep_every and step % config.keep_every == 0]
    finite = [step for step in losses if math.isfinite(losses[step])]
    best = sorted(finite, key=lambda step: (losses[step], step))[: config.keep_best]
    return {*newest, *every, *best}


def close_step(partial: Place, folder: Place, meta: Meta) -> None:
    """Finish a step whose arrays are written: write its metadata and digests, then give it its name."""
    places.write_small(partial / META, json.dumps(dataclasses.asdict(meta)))
    places.write_small(partial / DIGESTS, json.dumps(digests_of(partial), separators=(",", ":")))
    places.finish(partial, folder)
