"""A stage in parts: `--part I/N` works on every N-th shard, and `asclepius join` makes of all parts what one run makes.

    data/notes.part-1-of-4/   manifest.json: command, settings, hashes of the inputs, and the results of each shard
                              shard-00000.parquet, shard-00000-rejects.parquet, shard-00004.parquet, ...

The input is counted in shards, of which a part takes those with its number. What depends on the order of all results
(duplicates, sums) is left to the join, which runs the stage again with the stored results in place of its work. Nothing
else is needed for an array of jobs on a cluster: parts share only the place where their folders lie.
"""

import dataclasses
import importlib.metadata
import re
import types
import typing
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import as_url
from data_prep.contract.folders.buckets.local_copies import fetch
from data_prep.contract.folders.buckets.objects import is_bucket_url
from data_prep.contract.manifests import FolderWriter, Manifest, read_manifest, verified_files, writing_folder
from data_prep.contract.records import Reject, read_parquet, write_parquet

KIND = "part"
PART = re.compile(r"(\d+)/([1-9]\d*)")
# Settings that may differ from part to part, because the result does not depend on them.
OWN = frozenset(
    ("out", "part", "joined", "workers", "ledger", "concurrency", "base_url", "second_reader_url", "proxy",
     "timeout_seconds", "max_retries", "max_cost", "allow_remote")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    number: int  # from 1; 0 makes what all parts share
    count: int

    def has(self, shard: int) -> bool:
        """Return True if the shard with this number, from 0, is one of this part."""
        return shard % self.count == self.number - 1

    def folder(self, out: Path) -> Path:
        return out.with_name(f"{out.name}.part-{self.number}-of-{self.count}")


def is_part(folder: Path) -> bool:
    """Return True if a folder has the name of a part."""
    return bool(re.search(r"\.part-\d+-of-\d+$", folder.name))


def read_part(text: str) -> Part | None:
    """The part that `--part I/N` names; None for no text. Raises UserError for anything else."""
    if not text:
        return None
    match = PART.fullmatch(text)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(f"--part {text}: must be I/N with I from 1 to N, or 0/N to make what all parts share")
    return Part(int(match[1]), int(match[2]))


# ---------------------------------------------------------------- settings on disk


def as_json(value: Any) -> Any:
    """A dataclass of settings as JSON values."""
    if dataclasses.is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): as_json(each) for name, each in value.items()}
    return as_url(str(value)) if isinstance(value, str | Path) else value


def from_json(value: Any, annotation: Any) -> Any:
    """The inverse of `as_json` for a type of settings. Raises TypeError or KeyError for settings of another version."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        known = [each for each in arguments if each is not type(None)]
        return None if value is None else from_json(value, known[0])
    if origin is Counter:
        return Counter(value)
    if origin is list:
        return [from_json(each, arguments[0]) for each in value]
    if isinstance(value, str) and is_bucket_url(value):
        value = str(fetch(value))
    if annotation is Path:
        return Path(value)
    if origin is tuple:
        return tuple(from_json(each, arguments[0]) for each in value)
    if dataclasses.is_dataclass(annotation):
        made = typing.cast(type, annotation)
        hints = typing.get_type_hints(made)
        return made(**{name: from_json(each, hints[name]) for name, each in value.items()})
    return value


def shared_settings(settings: Any) -> Any:
    """The settings that all parts have in common."""
    if isinstance(settings, dict):
        return {name: shared_settings(value) for name, value in settings.items() if name not in OWN}
    return settings


# ---------------------------------------------------------------- folders of parts


@contextmanager
def writing_part(part: Part, out: Path, command: str, settings: Any, inputs: dict[str, str]) -> Iterator[FolderWriter]:
    """Write the folder of a part of the output `out`. settings: the dataclass of the command's settings."""
    with writing_folder(part.folder(out), KIND, inputs, of_records=False) as writer:
        writer.facts |= {
            "command": command,
            "part": [part.number, part.count],
            "settings": as_json(settings),
            "version": importlib.metadata.version("asclepius-jax"),
            "shards": {},
        }
        yield writer


def add_results(writer: FolderWriter, number: int, results: Sequence[Any], record_type: type) -> None:
    """Store the records and rejects of a shard of a part, in order."""
    name = f"shard-{number:05d}"
    kinds: dict[str, tuple[type, list[Any]]] = {
        f"{name}.parquet": (record_type, []),
        f"{name}-rejects.parquet": (Reject, []),
    }
    for result in results:
        kinds[f"{name}-rejects.parquet" if isinstance(result, Reject) else f"{name}.parquet"][1].append(result)
        writer.restricted = writer.restricted or getattr(result, "restricted", False)
    for file, (kind, records) in kinds.items():
        if records:
            write_parquet(writer.path / file, records, kind)
            writer.add_file(file, len(records))
    writer.facts["shards"][str(number)] = "".join("-" if isinstance(result, Reject) else "+" for result in results)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The finished folders of all parts of one run."""

    folders: tuple[Path, ...]  # parts 1 to N
    manifests: tuple[Manifest, ...]
    shared: Manifest | None  # part 0

    def results(self, record_type: type) -> Generator[list[Any]]:
        """The records and rejects of each shard, in the order of the input."""
        count = sum(len(manifest["shards"]) for manifest in self.manifests)
        for number in range(count):
            place = number % len(self.folders)
            yield self.shard(place, number, self.manifests[place]["shards"], record_type)

    def shard(self, place: int, number: int, orders: Mapping[str, str], record_type: type) -> list[Any]:
        folder, name = self.folders[place], f"shard-{number:05d}"
        if str(number) not in orders:
            raise UserError(f"{folder} lacks shard {number}: run this part again")
        order = orders[str(number)]
        records = read_parquet(folder / f"{name}.parquet", record_type) if "+" in order else iter(())
        rejects = read_parquet(folder / f"{name}-rejects.parquet", Reject) if "-" in order else iter(())
        return [next(records) if kind == "+" else next(rejects) for kind in order]

    def total(self, name: str) -> int:
        return sum(manifest.get(name, 0) for manifest in self.manifests)


def read_parts(folders: Sequence[Path]) -> Parts:
    """The parts in order, with their files verified.

    Raises UserError if parts are missing, unfinished, changed, or of different runs.
    """
    found: dict[int, tuple[Path, Manifest]] = {}
    for folder in folders:
        manifest = read_manifest(folder, KIND)
        number, _ = manifest["part"]
        if number in found:
            raise UserError(f"{folder} and {found[number][0]} are both part {number}: name one of them")
        verified_files(folder, manifest)
        found[number] = folder, manifest
    if not found:
        raise UserError("name the folders of the parts, such as data/notes.part-*-of-4")
    check_alike([*found.values()])
    _, shared = found.pop(0, (None, None))
    count = next(iter(found.values()))[1]["part"][1] if found else 0
    missing = [str(number) for number in range(1, count + 1) if number not in found]
    if missing or not found:
        numbers = ", ".join(missing[:10]) or "1"
        raise UserError(f"part {numbers} of {count or 'N'} is missing: run it, and name the folders of all parts")
    ordered = [found[number] for number in sorted(found)]
    return Parts(tuple(folder for folder, _ in ordered), tuple(manifest for _, manifest in ordered), shared)


def check_alike(found: Sequence[tuple[Path, Manifest]]) -> None:
    """Raise UserError if two folders are of different runs: another command, count, version, input or setting."""
    first_folder, first = found[0]
    for folder, manifest in found[1:]:
        for name in ("command", "version", "inputs", "rules"):
            if first.get(name) != manifest.get(name):
                raise UserError(f"{folder} and {first_folder} differ in {name}: they are parts of different runs")
        if first["part"][1] != manifest["part"][1]:
            raise UserError(f"{folder} and {first_folder} are of {manifest['part'][1]} and {first['part'][1]} parts")
        one, other = shared_settings(first["settings"]), shared_settings(manifest["settings"])
        if one != other:
            names = sorted(name for name in {**one, **other} if one.get(name) != other.get(name))
            raise UserError(
                f"{folder} and {first_folder} differ in the settings {', '.join(names)}: run one of them again"
            )


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Make of all parts of a stage the folder that one run would have made."""

    parts: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the parts, such as data/notes.part-*-of-4."""

    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""


def settings_of_stage(config: JoinConfig, command: str, settings_type: type) -> Any:
    """The settings of a run of the command that reads the parts instead of working.

    Raises UserError for parts that another version of asclepius-jax made.
    """
    stored = read_manifest(config.parts[0], KIND)["settings"]
    try:
        settings = from_json(stored, settings_type)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(
            f"{config.parts[0]} has settings of another version of asclepius-jax ({error}): join with that version"
        ) from error
    # Of a stage on a teacher, the part is one of the settings of its shards.
    inner = vars(settings).get("shards")
    if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
        return dataclasses.replace(
            settings, out=config.out, shards=dataclasses.replace(inner, part="", joined=config.parts)
        )
    return dataclasses.replace(settings, out=config.out, part="", joined=config.parts)


def command_of(config: JoinConfig) -> str:
    """The command whose parts these are. Raises UserError if there are none."""
    if not config.parts:
        raise UserError("name the folders of the parts, such as data/notes.part-*-of-4")
    return str(read_manifest(config.parts[0], KIND)["command"])
