"""The models that are merged, found by their names and compared with one another before anything is computed."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from asclepius_jax.checkpoint.adapters import lora_of
from asclepius_jax.checkpoint.places import DIGESTS, STEPS, Place, steps_place
from asclepius_jax.checkpoint.read import Meta, check_model, find_step, read_meta, steps_of
from asclepius_jax.convert.export_hf import check_tokenizer
from asclepius_jax.convert.import_hf import read_folder
from asclepius_jax.convert.merge.tensor_rows import FolderReader, Reader, StepReader, chunk_cache
from asclepius_jax.convert.merge_adapters import write_merged
from asclepius_jax.convert.model_card import hub_licence, public_name
from asclepius_jax.model.decoder import build
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import NEW, place_of, working_folder
from data_prep.contract.hub import WEIGHTS, is_hub_id, local_folder
from data_prep.contract.manifests import MANIFEST
from data_prep.contract.records import file_hash
from data_prep.contract.tokenizer import JsonTokenizer, Tokenizer


@dataclasses.dataclass(frozen=True)
class Parent:
    """A model to merge."""

    name: str  # public: without the folders of this machine
    place: Place  # a Hugging Face folder or the folder of a step
    meta: Meta
    tokenizer: Tokenizer
    digest: str  # of the small file that names the content, where there is one
    licence: str  # in the hub's spelling, "" if it is not recorded
    is_step: bool


def read_weights(models: tuple[str, ...]) -> tuple[list[str], list[float | None]]:
    """The paths and the weights of --models PATH=WEIGHT. The weight follows the last "="; a path may contain others.

    Raises UserError for a weight that is not a finite number.
    """
    paths: list[str] = []
    weights: list[float | None] = []
    for text in models:
        path, separator, weight = text.rpartition("=")
        if not separator or Path(text).exists():
            paths.append(text)
            weights.append(None)
            continue
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not path or not math.isfinite(number):
            raise UserError(f"--models {text}: the weight {weight!r} is not a number; write PATH=WEIGHT, such as a=0.5")
        paths.append(path)
        weights.append(number)
    return paths, weights


def find_parent(path: str) -> Parent:
    """The model in a Hugging Face folder, a hub id, a run folder (its newest step) or the folder of a step."""
    folder = Path(os.path.abspath(path)) if not is_hub_id(path) else local_folder(path, WEIGHTS)  # noqa: PTH100
    if (folder.parent.name == STEPS and folder.name.isdecimal()) or steps_place(folder).is_dir():
        return step_parent(*find_step(folder))
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} contains neither config.json nor checkpoints: name a Hugging Face folder or a run")
    meta, tokenizer = read_folder(folder)
    facts = folder / (MANIFEST if (folder / MANIFEST).is_file() else "config.json")
    return Parent(public_name(folder), folder, meta, tokenizer, file_hash(facts), licence_of(folder), is_step=False)


def last_parents(path: str, count: int) -> list[Parent]:
    """The last steps of a run, oldest first. Raises UserError if it has fewer."""
    run_dir = Path(os.path.abspath(path))  # noqa: PTH100, a link's own name is what the user knows
    steps = steps_of(run_dir)
    if len(steps) < count:
        raise UserError(f"--last {count}: {path} contains {len(steps)} checkpoints; name a run folder with as many")
    return [step_parent(run_dir, step) for step in steps[-count:]]


def step_parent(run_dir: Path, step_folder: Place) -> Parent:
    meta, tokenizer = read_meta(step_folder), JsonTokenizer(run_dir / "tokenizer")
    check_tokenizer(tokenizer, meta, step_folder)
    name = f"{public_name(run_dir)}/{STEPS}/{step_folder.name}"
    digest, licence = file_hash(step_folder / DIGESTS), hub_licence(meta)
    return Parent(name, step_folder, meta, tokenizer, digest, licence, is_step=True)


def licence_of(folder: Path) -> str:
    """The licence that the model card in a folder names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license: *([\w.-]+) *$", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def numbered(parents: list[Parent]) -> list[Parent]:
    """The parents, with a number behind names that two of them share."""
    names = [parent.name for parent in parents]
    return [
        dataclasses.replace(parent, name=f"{parent.name} ({number})") if names.count(parent.name) > 1 else parent
        for number, parent in enumerate(parents, 1)
    ]


def check_alike(parents: list[Parent]) -> None:
    """Raise UserError if a model has another shape or another tokenizer than the first."""
    first = parents[0]
    for other in parents[1:]:
        check_model(other.meta, first.meta.model, other.place)
        if other.tokenizer.hash != first.tokenizer.hash:
            raise UserError(f"{other.place} has another tokenizer than {first.place}: only models of one can be merged")


@contextlib.contextmanager
def opened(parents: list[Parent], out: Path) -> Iterator[list[Reader]]:
    """Context with the readers of all models. Adapters are merged into their bases in a hidden folder next to `out`."""
    context = chunk_cache()
    with contextlib.ExitStack() as stack:
        work = None
        readers: list[Reader] = []
        for number, parent in enumerate(parents):
            model, place, meta = build(parent.meta.model), parent.place, parent.meta
            if not parent.is_step:
                assert isinstance(place, Path)
                readers.append(FolderReader(place, model))
                continue
            if lora_of(meta).rank:
                work = work or stack.enter_context(working_folder(place_of(out), purpose="-merged"))
                place = write_merged(place, work / NEW / str(number))
                meta = read_meta(place)
            readers.append(StepReader(place, model, meta, context))
        yield readers
