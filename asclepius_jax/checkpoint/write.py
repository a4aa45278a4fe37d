"""The writing of a run's steps: in the background, whole or not at all, and so that a failure costs one interval.

A step is written into a hidden folder beside the others and renamed when every process has written its part. Orbax
writes the arrays; what decides whether a step stands is here, because a process that fails must be heard by the others.
"""

import asyncio
import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from asclepius_jax.checkpoint.checksums import checksums, written
from asclepius_jax.checkpoint.read import DIGESTS, META, STEPS, Meta, State, digests_of, leaf_names, steps_of
from asclepius_jax.config import CheckpointConfig
from asclepius_jax.distributed import same_program
from data_prep.contract.errors import UserError, first_line
from data_prep.contract.manifests import sync, write_durably

CHUNK_BYTES = 2**23  # of a stored chunk at most, and of one layer at most, so that a layer can be read alone
FILE_BYTES = 2**28  # of a file that holds chunks, about; it is in memory until it is written
MOST_FAILURES = 3  # in a row, before the run stops


class Saver:
    """Saves the steps of one run and removes those that its retention does not keep."""

    def __init__(self, run_dir: Path, config: CheckpointConfig):
        self.run_dir, self.config = run_dir, config
        self.folder = (run_dir / STEPS).absolute()
        # Never closed: what is left of a save that failed still calls back into it.
        self.loop = asyncio.new_event_loop()
        self.thread: threading.Thread | None = None
        self.cost_told = False
        self.problem = ""  # of the last save
        self.failures = 0  # in a row
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.sweep()

    def save(self, step: int, state: State, meta: Meta) -> None:
        """Start writing a step; training goes on while the bytes travel. An earlier save is waited for."""
        self.finish()
        # Frozen weights lie where they were read from.
        left_out = {"step", "params"} if "adapters" in state else {"step"}
        items = {name: leaf_names(tree) for name, tree in state.items() if name not in left_out}
        if self.config.checksums:
            meta = dataclasses.replace(meta, checksums={**meta.checksums, **self.checksums_of(items)})
        partial = self.folder / f".{step}.saving"
        futures: list[Any] = []
        # New for each step: one that failed may have left it half-way.
        self.handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)
        problem = self.make(partial, items)
        if not same_program.problems_of_all(f"save/{step}/made", problem):
            try:
                for item, leaves in items.items():
                    futures += self.start(partial / item, leaves)
            except Exception as error:  # noqa: BLE001, a save that fails must not end the run
                problem = first_line(error)
        else:
            problem = problem or "another process could not begin"
        self.thread = threading.Thread(target=self.complete, args=(step, partial, futures, meta, problem))
        self.thread.start()

    def checksums_of(self, items: dict[str, dict[str, jax.Array]]) -> dict[str, str]:
        began = time.monotonic()
        named = {f"{item}/{name}": array for item, leaves in items.items() for name, array in leaves.items()}
        sums = {name: written(value) for name, value in jax.device_get(checksums(named)).items()}
        if not self.cost_told and jax.process_index() == 0:
            size = sum(array.nbytes for array in named.values()) / 1e9
            took = time.monotonic() - began
            print(f"content checksums of {size:.2f} GB took {took:.2f} s, compiling included", flush=True)
        self.cost_told = True
        return sums

    def make(self, partial: Path, items: dict[str, Any]) -> str:
        """The folders that the processes write into; returns what is wrong, if anything."""
        if jax.process_index() != 0:
            return ""
        needed = sum(array.nbytes for leaves in items.values() for array in leaves.values())
        try:
            free = shutil.disk_usage(self.folder).free
            if needed > free:  # known beforehand: nothing else on this disk need suffer
                return f"it takes {needed / 1e9:.3f} GB, the disk has {free / 1e9:.3f} GB left"
            for item in items:
                (partial / item).mkdir(parents=True)
        except OSError as error:
            return first_line(error)
        return ""

    def start(self, folder: Path, leaves: dict[str, jax.Array]) -> list[Any]:
        """Copy an item's arrays to the host and begin to write them; returns what to wait for."""
        save_args = {
            name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if "blocks." in name else ())
            for name in leaves
        }
        args = ocp.args.PyTreeSave(leaves, save_args=save_args, ocdbt_target_data_file_size=FILE_BYTES)
        return list(self.loop.run_until_complete(self.handler.async_save(epath.Path(folder), args=args)) or [])

    def complete(self, step: int, partial: Path, futures: list[Any], meta: Meta, problem: str) -> None:
        """In the background: wait for the bytes, then let the step stand or take it away."""
        for future in futures:  # all of them: one that failed leaves others that still write
            try:
                future.result()
            except Exception as error:  # noqa: BLE001, told to all and counted
                problem = problem or first_line(error)
        problems = same_program.problems_of_all(f"save/{step}/written", problem)
        problem = ""
        if jax.process_index() == 0:
            try:
                if not problems:
                    for item in sorted(path for path in partial.iterdir() if path.is_dir()):
                        self.handler.finalize(item)
                    close_step(partial, self.folder / str(step), meta)
                    self.retire()
                    self.sweep()
            except Exception as error:  # noqa: BLE001
                problem = first_line(error)
            if problems or problem:
                shutil.rmtree(partial, ignore_errors=True)
        problems += same_program.problems_of_all(f"save/{step}/closed", problem)
        self.problem = f"step {step} could not be saved: {problems[0]}" if problems else ""

    def finish(self, last: bool = False) -> None:
        """Wait for the save under way. One that failed costs a warning, unless it is the third in a row or the
        `last` of the run: then UserError."""
        if self.thread is None:
            return
        self.thread.join()
        self.thread = None
        self.failures = self.failures + 1 if self.problem else 0
        if not self.problem:
            return
        told = f"{self.problem}; the steps before it are whole"
        if last or self.failures >= MOST_FAILURES:
            many = f" ({self.failures} saves failed in a row)" if self.failures > 1 else ""
            raise UserError(f"{told}{many}: make room in {self.folder} and start again, it continues from there")
        if jax.process_index() == 0:
            print(f"WARNING: {told}. Training goes on and saves again after the next interval", flush=True)

    def sweep(self) -> None:
        """Remove what a killed run, or the threads of a save that failed, have left."""
        for left in [*self.folder.glob(".*.saving"), *self.folder.glob(".*.removed")]:
            shutil.rmtree(left, ignore_errors=True)

    def retire(self) -> None:
        """Remove the steps that retention does not keep."""
        steps = {int(path.name): path for path in steps_of(self.run_dir)}
        losses = {step: loss for step, path in steps.items() if (loss := eval_loss(path)) is not None}
        for step in sorted(steps.keys() - kept(list(steps), losses, self.config)):
            removed = self.folder / f".{step}.removed"
            steps[step].rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def eval_loss(step_folder: Path) -> float | None:
    """What a step says of the held-out rows; a damaged one says nothing."""
    try:
        return json.loads((step_folder / META).read_text(encoding="utf-8"))["eval_loss"]
    except (OSError, ValueError, KeyError):
        return None


def kept(steps: list[int], losses: dict[int, float], config: CheckpointConfig) -> set[int]:
    """The newest ones, every k-th, and those with the lowest loss on held-out rows."""
    newest = sorted(steps)[-config.keep :]
    every = [step for step in steps if config.keep_every and step % config.keep_every == 0]
    best = sorted(losses, key=lambda step: (losses[step], step))[: config.keep_best]
    return {*newest, *every, *best}


def close_step(partial: Path, folder: Path, meta: Meta) -> None:
    """Make a finished step of a folder whose arrays are written: what it says of itself, its digests, its name."""
    write_durably(partial / META, json.dumps(dataclasses.asdict(meta)))
    write_durably(partial / DIGESTS, json.dumps(digests_of(partial), separators=(",", ":")))
    sync(partial)
    partial.rename(folder)
    sync(folder.parent)
