"""Layout and reading of a run folder. `write.py` writes it.

run/
  checkpoints/500/                      one finished step; folders with other names are ignored
    params/  optimizer/                 each array in chunks of one layer, without compression; see `arrays.py`
    meta.json                           metadata of the step, including the content checksums of its arrays
    digests.json                        size of every file and hash of every small one; written last
  checkpoints/400.damaged/              a step that could not be read or whose checksums did not match
  tokenizer/                            the tokenizer of the model
"""

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from asclepius_jax.checkpoint import places
from asclepius_jax.checkpoint.checksums import checksums, written
from asclepius_jax.checkpoint.places import DAMAGED, DIGESTS, STEPS, Place, is_finished, kvstore, steps_place
from asclepius_jax.distributed import same_program
from asclepius_jax.model.decoder import Params
from asclepius_jax.model.sizes import DecoderConfig, config_from_json
from data_prep.contract.errors import UserError, first_line
from data_prep.contract.folders.buckets.objects import BucketPath
from data_prep.contract.records import file_hash

META = "meta.json"
# Larger files contain array data, which the content checksums cover.
HASHED_BYTES = 2**20

# Chunks of a bucket that lie side by side are read in one request: bytes between them, and bytes in all.
TOGETHER = {
    "experimental_read_coalescing_threshold_bytes": 2**20,
    "experimental_read_coalescing_merged_bytes": 2**26,
    "experimental_read_coalescing_interval": "1ms",
}

State = dict[str, Any]  # step, params, optimizer; with LoRA also adapters, and params are then frozen
T = TypeVar("T")


class DamagedStep(Exception):
    """A step that cannot be read, or whose content differs from what was saved."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """The metadata of a step."""

    model: DecoderConfig
    tokenizer_hash: str
    prompt_template: str
    row_length: int
    phase: str  # "pretrain", "instruct", "preference", or "import" for imported weights
    config: dict[str, Any]  # the resolved TrainConfig; empty for an import
    data: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # facts from the manifest of the packed folder, for the model card
    # "item/array" -> content checksum; "base/array" for the base weights of adapters
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)
    # Loss on the held-out rows, if they were evaluated at exactly this step and it is finite.
    eval_loss: float | None = None

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Meta":
        return cls(**{**raw, "model": config_from_json(raw["model"])})


# ---------------------------------------------------------------- steps of a run


def steps_of(run_dir: Place) -> list[Place]:
    """The folders of a run's finished steps, oldest first."""
    steps = steps_place(run_dir)
    found = [path for path in steps.iterdir() if path.name.isdecimal() and is_finished(path)] if steps.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def is_complete(run_dir: Path, step: int) -> bool:
    """Return True if all of a step is there, as far as this process sees."""
    return (steps_place(run_dir) / str(step) / DIGESTS).is_file()


def find_step(path: Path) -> tuple[Path, Place]:
    """(run folder, step folder) for a step folder, or for the newest step of a run folder.

    Raises UserError if there is no checkpoint.
    """
    if path.parent.name == STEPS and path.name.isdecimal():
        run_dir = path.parent.parent
        step = steps_place(run_dir) / path.name
        if step.is_dir():
            return run_dir, step if isinstance(step, BucketPath) else path
    steps = steps_of(path)
    if isinstance(steps_place(path), BucketPath):
        for left in places.unfinished(steps_place(path)):
            print(f"{left} is being written, or was left by a killed run: it is not used", file=sys.stderr, flush=True)
    if not steps:
        being_written = sorted(path.glob(f"{STEPS}/.*.saving"))
        note = f"; {being_written[0]} is still being written, or was left by a killed run" if being_written else ""
        runs = [str(steps.parent) for steps in sorted(path.glob(f"*/{STEPS}"))]
        found = f"; there are runs in {', '.join(runs)}" if runs else ""
        raise UserError(f"{path} contains no checkpoint{note}{found}: name a run folder, or RUN/{STEPS}/STEP")
    return path, steps[-1]


def of_newest(path: Path, load: Callable[[Place], T]) -> T:
    """`load` of the step that `find_step` finds; of the next one if a training removes it meanwhile as no longer kept.

    Raises UserError as `find_step` and `load` do, also if a step that was named itself is removed.
    """
    while True:
        _, step_folder = find_step(path)
        try:
            return load(step_folder)
        except UserError:
            if step_folder.exists() or step_folder == path:
                raise
        print(f"{step_folder} was removed by its training while it was read: taking the newest step", file=sys.stderr)


def read_meta(step_folder: Place) -> Meta:
    """The metadata of a step, after checking its files. Raises UserError if it is damaged."""
    try:
        check_files(step_folder)
    except DamagedStep as error:
        raise UserError(refusal(step_folder, error)) from error
    return Meta.from_json(json.loads((step_folder / META).read_text(encoding="utf-8")))


def refusal(step_folder: Place, error: DamagedStep) -> str:
    """The message for a damaged step that the user named. No other step is used in its place."""
    if not step_folder.exists():
        return (
            f"{step_folder} was removed while it was read: its training keeps only some steps (checkpoint.keep): run "
            "this again for a newer one, or copy the step first"
        )
    others = [str(path) for path in steps_of(step_folder.parent.parent) if path != step_folder]
    remedy = f"name another step ({', '.join(others)})" if others else "there is no other step of this run"
    return f"{step_folder} is damaged ({error}): {remedy}"


def restore_newest(run_dir: Path, restore: Callable[[Place, Meta], T]) -> T | None:
    """The result of `restore` for the newest good step, or None if the run has no step yet.

    All processes restore the same step. If one of them raises DamagedStep, the step is renamed with a line of output
    and the previous one is tried. Raises UserError if no good step is left.
    """
    for attempt in itertools.count():
        # Process 0 names the step, because a network disk may still show others a step that was just renamed.
        name = same_program.from_first(f"restore/{attempt}", next(reversed([s.name for s in steps_of(run_dir)]), ""))
        if not name:
            break
        folder, result, problem = steps_place(run_dir) / name, None, ""
        try:
            check_files(folder)
            result = restore(folder, read_meta(folder))
        except DamagedStep as error:
            problem = str(error)
        problems = same_program.problems_of_all(f"restore/{folder.name}", problem)
        if not problems:
            return result
        if jax.process_index() == 0:
            set_aside(folder, problems[0])
        same_program.problems_of_all(f"restore/{folder.name}/aside", "")
    steps = steps_place(run_dir)
    damaged = sorted(str(path) for path in (steps.glob(f"*{DAMAGED}*") if steps.is_dir() else ()))
    if damaged:
        raise UserError(
            f"{run_dir} has no readable step, only {', '.join(damaged)}: remove the folder to start over, or "
            "choose another --run-dir"
        )
    return None


def set_aside(folder: Place, problem: str) -> None:
    done = places.set_aside(folder, problem)
    print(f"{folder} is damaged ({problem}): {done}, trying the previous step", flush=True)


# ---------------------------------------------------------------- files


def sizes_of(step_folder: Place) -> dict[str, int]:
    """Size of every file of a step but its digests, by path relative to the step."""
    if isinstance(step_folder, Path):
        found = {path: path.stat().st_size for path in step_folder.rglob("*") if path.is_file()}
        return {str(path.relative_to(step_folder)): size for path, size in found.items() if path.name != DIGESTS}
    objects = {path.relative_to(step_folder): facts for path, facts in step_folder.objects().items()}
    return {str(path): facts.st_size for path, facts in objects.items() if path.name != DIGESTS}


def hashes_of(step_folder: Place, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of these files of a step."""
    names = [*names]
    with ThreadPoolExecutor(16) as pool:  # of a bucket, each is a request
        hashes = pool.map(lambda name: file_hash(step_folder / name), names)
        return dict(zip(names, hashes, strict=True))


def digests_of(step_folder: Place) -> dict[str, dict[str, Any]]:
    """Size of every file of a step, and hash of every small one, by path relative to the step."""
    sizes = dict(sorted(sizes_of(step_folder).items()))
    hashes = hashes_of(step_folder, [name for name, size in sizes.items() if size <= HASHED_BYTES])
    return {
        name: {"size": size, **({"sha256": hashes[name]} if name in hashes else {})} for name, size in sizes.items()
    }


def check_files(step_folder: Place) -> None:
    """Raise DamagedStep if a file is missing, unexpected or of another size, or if a small file has changed."""
    path = step_folder / DIGESTS
    if not path.is_file():
        raise DamagedStep(f"{DIGESTS} is missing")
    try:
        expected = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedStep(f"{DIGESTS} is not JSON") from error
    if not isinstance(expected, dict) or not all(isinstance(entry, dict) for entry in expected.values()):
        raise DamagedStep(f"{DIGESTS} does not list files")
    found = sizes_of(step_folder)
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is unexpected" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    other = {
        name for name in both if expected[name].keys() - {"size", "sha256"} or found[name] != expected[name].get("size")
    }
    try:
        hashes = hashes_of(step_folder, [name for name in both - other if "sha256" in expected[name]])
    except OSError as error:
        raise DamagedStep(f"a file cannot be read: {error.strerror or error}") from error
    other |= {name for name, value in hashes.items() if value != expected[name]["sha256"]}
    problems += [f"{name} has changed" for name in other]
    if problems:
        raise DamagedStep(min(problems) + (f", and {len(problems) - 1} more" if problems[1:] else ""))


# ---------------------------------------------------------------- arrays


def leaf_names(tree: Any) -> dict[str, Any]:
    """Flatten any tree to names: {"blocks.attention.q_DNH": ..., "1.0.mu.norm.scale": ...}."""
    leaves = jax.tree.leaves_with_path(tree)
    return {".".join(str(jax.tree_util.keystr((key,), simple=True)) for key in path): leaf for path, leaf in leaves}


def open_array(step_folder: Place, item: str, name: str, context: tensorstore.Context | None = None) -> Any:
    """Open a saved array, of which only indexed parts are read: `open_array(...)[3:5].read().result()`.

    Arrays of one context read the index of their item only once. Raises DamagedStep if it cannot be opened.
    """
    store: dict[str, Any] = {"driver": "ocdbt", "base": kvstore(step_folder / item), "path": f"{name}/"}
    if not isinstance(step_folder, Path):
        store |= TOGETHER
    spec = {
        "driver": "zarr",
        "kvstore": store,
        "fill_missing_data_reads": False,  # a missing chunk is an error, not zeros
        "recheck_cached_data": "open",  # a step does not change: of a bucket, each look is a request
        "recheck_cached_metadata": "open",
    }
    try:
        return tensorstore.open(spec, open=True, read=True, context=context or index_cache()).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise DamagedStep(f"{item}/{name} cannot be opened: {first_line(error)}") from error


def index_cache() -> tensorstore.Context:
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": 10**8}})


def read(array: Any, index: Any, label: str) -> np.ndarray:
    """Read a part of an opened array into host memory. Raises DamagedStep, with the label, if it cannot be read."""
    try:
        return np.asarray(array[index].read().result())
    except (ValueError, OSError, RuntimeError) as error:
        raise DamagedStep(f"{label} cannot be read: {first_line(error)}") from error


def read_stored(step_folder: Place, name: str, item: str = "params") -> np.ndarray:
    """A whole array, such as "blocks.attention.q_DNH", read into host memory without using a device."""
    return read(open_array(step_folder, item, name), ..., f"{item}/{name}")


def restore_item(
    step_folder: Place, item: str, abstract: Any, meta: Meta, verify: bool = True, quiet: bool = False
) -> Any:
    """Restore the tree of an item, or some of its arrays, with the shardings and types of `abstract`.

    Every process reads only what its devices hold. Raises DamagedStep if an array cannot be read or its checksum
    differs from the saved one.
    """
    began = time.monotonic()
    leaves = leaf_names(abstract)
    arrays: dict[str, jax.Array] = {}
    problem, context = "", index_cache()
    try:
        for name, wanted in leaves.items():
            arrays[name] = restore_array(open_array(step_folder, item, name, context), f"{item}/{name}", wanted)
    except DamagedStep as error:
        problem = str(error)
    # All processes compute the checksums together, so if one has failed, none may start.
    if problems := same_program.problems_of_all(f"read/{step_folder}/{item}/{next(iter(leaves))}", problem):
        raise DamagedStep(problems[0])
    read_after = time.monotonic() - began
    if verify:
        compare(item, jax.device_get(checksums(arrays)), meta)
    if jax.process_index() == 0 and not quiet:
        took = f"checksums compared in {time.monotonic() - began - read_after:.1f} s" if verify else "not verified"
        print(
            f"{step_folder}/{item}: {len(leaves)} arrays read in {read_after:.1f} s, {took}",
            file=sys.stderr,
            flush=True,
        )
    # One after another, so that at most one array is in memory in both types.
    restored = [arrays.pop(name).astype(wanted.dtype) for name, wanted in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), restored)


def restore_array(stored: Any, label: str, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """An opened array in its saved type, with the sharding of `wanted`. The shards of all devices are read at once."""
    if tuple(stored.shape) != wanted.shape:
        raise DamagedStep(f"{label} has the shape {tuple(stored.shape)}, not {wanted.shape}")
    places = wanted.sharding.addressable_devices_indices_map(wanted.shape).values()
    reading = {str(place): stored[place].read() for place in {str(place): place for place in places}.values()}

    def shard(place: Any) -> np.ndarray:
        try:
            return np.asarray(reading[str(place)].result())
        except (ValueError, OSError, RuntimeError) as error:
            raise DamagedStep(f"{label} cannot be read: {first_line(error)}") from error

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, shard)


def compare(item: str, sums: dict[str, np.ndarray], meta: Meta) -> None:
    """Raise DamagedStep if the checksums of an item's arrays differ from those in the step's metadata."""
    found = {f"{item}/{name}": written(sums) for name, sums in sums.items()}
    differing = [name for name, value in found.items() if meta.checksums.get(name, value) != value]
    if differing:
        more = f" and {len(differing) - 1} more" if differing[1:] else ""
        raise DamagedStep(f"the content of {differing[0]}{more} is not what was saved")


def restore_state(step_folder: Place, abstract: State, meta: Meta, verify: bool = True) -> State:
    """The complete state of a step, with the shardings of `abstract`. Raises DamagedStep as `restore_item` does."""
    items = [name for name in abstract if name != "step"]
    state = {name: restore_item(step_folder, name, abstract[name], meta, verify) for name in items}
    return {"step": jax.device_put(jnp.int32(int(step_folder.name)), abstract["step"].sharding), **state}


def restore_params(step_folder: Place, shapes: Params, shardings: Params, verify: bool = True) -> Params:
    """The parameters of a step, on any mesh. Raises UserError if the step is damaged."""
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )
    try:
        return restore_item(step_folder, "params", abstract, read_meta(step_folder), verify)
    except DamagedStep as error:
        raise UserError(refusal(step_folder, error)) from error


def check_model(meta: Meta, model: DecoderConfig, where: Place) -> None:
    """Raise UserError with the differing fields if a checkpoint contains another model."""
    saved, expected = dataclasses.asdict(meta.model), dataclasses.asdict(model)
    differing = [
        f"{key} {saved[key]} there, {expected[key]} here"
        for key in expected
        if saved[key] != expected[key] and key != "family"  # a name: what it computes is in the other fields
    ]
    if differing:
        raise UserError(f"{where} contains another model: {'; '.join(differing)}")
