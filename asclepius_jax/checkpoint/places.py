"""Where the steps of a run are: in folders of a file system, or in a bucket.

A file system has an atomic rename: a step is written to a hidden folder, which then gets its name. A bucket has none: a
step is written under its name, and is there when `digests.json` is, which is written last. Readers ignore all others.

A run in a bucket has a local copy of its small files, see `data_prep/contract/folders/buckets/local_copies.py`; its
steps are read and written in the bucket itself, by every host its own share.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.contract.folders.buckets.addresses import bucket_path
from data_prep.contract.folders.buckets.objects import BucketPath
from data_prep.contract.folders.output_folders import free_name, sync, write_durably

STEPS = "checkpoints"
DIGESTS, DAMAGED = "digests.json", ".damaged"

Place = Path | BucketPath


def steps_place(run_dir: Place) -> Place:
    """The place of all steps of a run."""
    return (bucket_path(run_dir) or run_dir if isinstance(run_dir, Path) else run_dir) / STEPS


def kvstore(folder: Place) -> dict[str, Any]:
    """The folder as TensorStore addresses it."""
    if isinstance(folder, Path):
        return {"driver": "file", "path": f"{folder.absolute()}/"}
    spec: dict[str, Any] = {"bucket": folder.bucket, "path": f"{folder.key}/"}
    if folder.scheme == "gs":
        return {"driver": "gcs", **spec}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        spec |= {"endpoint": endpoint, "aws_region": os.environ.get("AWS_REGION", "us-east-1")}
    if "AWS_ACCESS_KEY_ID" in os.environ:
        spec["aws_credentials"] = {"type": "environment"}
    return {"driver": "s3", **spec}


def is_finished(step: Place) -> bool:
    """Return True for a step that was written completely and not set aside, judging by names alone."""
    if isinstance(step, Path):
        return step.name.isdecimal()
    return (step / DIGESTS).is_file() and not step.with_name(step.name + DAMAGED).is_file()


def partial_step(steps: Place, step: int) -> Place:
    """The place where a step is written before it is there."""
    return steps / (f".{step}.saving" if isinstance(steps, Path) else str(step))


def prepare(partial: Place, items: list[str]) -> None:
    """Make an empty place for a step."""
    if isinstance(partial, BucketPath):
        partial.remove_all(first=[DIGESTS])
        return
    for item in items:
        (partial / item).mkdir(parents=True)


def write_small(path: Place, text: str) -> None:
    if isinstance(path, Path):
        write_durably(path, text)
    else:
        path.write_text(text)


def finish(partial: Place, step: Place) -> None:
    """Give a step its name; its digests, written before, were the last file of it."""
    if isinstance(partial, Path) and isinstance(step, Path):
        sync(partial)
        partial.rename(step)
        sync(step.parent)


def discard(step: Place) -> None:
    """Remove a step or what was written of it."""
    if isinstance(step, BucketPath):
        step.remove_all(first=[DIGESTS])
        step.with_name(step.name + DAMAGED).unlink()
        return
    if step.name.isdecimal():  # readers see all of it or nothing
        hidden = step.with_name(f".{step.name}.removed")
        step.rename(hidden)
        step = hidden
    shutil.rmtree(step, ignore_errors=True)


def set_aside(step: Place, problem: str) -> str:
    """Take a damaged step out of the run. Returns what was done, for the terminal."""
    if isinstance(step, BucketPath):
        mark = step.with_name(step.name + DAMAGED)
        mark.write_text(f"{problem}\n")
        return f"marked by {mark.name}"
    aside = free_name(step.with_name(step.name + DAMAGED))
    step.rename(aside)
    return f"renamed to {aside.name}"


def unfinished(steps: Place) -> list[Place]:
    """Leftovers of killed runs and failed saves."""
    if isinstance(steps, Path):
        return [*steps.glob(".*.saving"), *steps.glob(".*.removed")]
    marked = {path.name for path in steps.iterdir()}
    return [
        path
        for path in steps.iterdir()
        if path.name.isdecimal() and path.name + DAMAGED not in marked and not (path / DIGESTS).is_file()
    ]
