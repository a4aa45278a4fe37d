"""Output folders: Parquet shards, rejected records and a manifest.

Every text stage writes a folder of Parquet shards and `rejected.parquet`, and `manifest.json` last:

    notes/
      notes-00000-of-00002.parquet   notes-00001-of-00002.parquet
      rejected.parquet               rejected records, with the reason
      manifest.json                  counts, reasons, hashes; its presence means "finished"
"""

import errno
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.folders.buckets.addresses import as_url
from data_prep.contract.folders.output_folders import (
    NEW,
    OLD,
    free_name,
    names_in,
    place_of,
    refuse_after_takeover,
    refuse_to_replace,
    replace_parts,
    sync,
    working_folder,
    write_durably,
)
from data_prep.contract.records import ParquetAppender, Reject, T, file_hash, write_parquet

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
REJECTED = "rejected.parquet"
HASHED_BYTES = 2**24  # the files of an imported checkpoint are larger, and carry checksums of their own
DATASET_CARD = """\
---
configs:
- config_name: default
  data_files: {kind}-*.parquet
---
{origin} Counts, hashes and reasons for rejects: `manifest.json`; rejected records: `rejected.parquet`; origin and
licence of each record: the columns `source`, `licence` and `article`.
"""
SOURCES_SHOWN = 5
RESTRICTED = """\
**Restricted: real patient notes, or text made from them**{sources}. Their data use agreement governs these {kind}. They
must not be published, and may be sent only to endpoints of the institution itself."""


class FolderWriter:
    """Writer of the shards and rejects of one output folder; see `writing_folder`."""

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.rejects: ParquetAppender | None = None  # opened at the first reject
        self.last_reject: Reject | None = None
        self.files: list[dict[str, Any]] = []
        self.shards: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.restricted = False  # contains real notes, or text made from them
        self.sources: set[str] = set()
        self.cites = False  # contains answers that cite the sentences of their notes

    def reject(self, rejects: Iterable[Reject]) -> None:
        for reject in rejects:
            self.rejects = self.rejects or ParquetAppender(self.path / REJECTED, Reject)
            self.rejects.add(reject)
            self.reasons[reject.reason] += 1
            self.last_reject = reject

    def add_file(self, name: str, count: int, hashed: bool = True) -> None:
        """Add a finished file to the manifest: its record count and its hash, or its size if `hashed` is False.

        Files that carry checksums of their own need no hash.
        """
        path = self.path / name
        sync(path)
        proof = {"sha256": file_hash(path)} if hashed else {"bytes": path.stat().st_size}
        self.files.append({"name": name, "records": count, **proof})
        self.counts["out"] += count

    def add_shard(self, records: Sequence[T], record_type: type[T]) -> None:
        """Write the next Parquet shard, under a provisional name until the number of shards is known."""
        name = f"{self.kind}-{len(self.shards):05d}.parquet"
        write_parquet(self.path / name, records, record_type)
        self.restricted = self.restricted or any(getattr(record, "restricted", False) for record in records)
        self.cites = self.cites or any(getattr(record, "cites", False) for record in records)
        self.sources.update(source for record in records if (source := getattr(record, "source", "")))
        self.add_file(name, len(records))
        self.shards.append(self.files[-1])

    def name_shards(self) -> None:
        """Give the shards their final names, and write the card that shows `datasets` which files are the data."""
        if not self.shards:
            return
        for index, file in enumerate(self.shards):
            name = f"{self.kind}-{index:05d}-of-{len(self.shards):05d}.parquet"
            (self.path / file["name"]).rename(self.path / name)
            file["name"] = name
        # Without the card, load_dataset would read rejected.parquet as data too.
        names = sorted(self.sources)
        more = f" and {len(names) - SOURCES_SHOWN} other sources" if len(names) > SOURCES_SHOWN else ""
        sources = f", from {', '.join(names[:SOURCES_SHOWN])}{more}" if names else ""
        made = f"Synthetic {self.kind}" if self.kind in ("notes", "instructions") else self.kind.capitalize()
        origin = f"{made} written by asclepius-jax{sources}."
        if self.restricted:
            origin = RESTRICTED.format(kind=self.kind, sources=sources)
        write_durably(self.path / "README.md", DATASET_CARD.format(kind=self.kind, origin=origin))


@contextmanager
def writing_folder(out: Path, kind: str, inputs: dict[str, str], of_records: bool = True) -> Iterator[FolderWriter]:
    """Write a stage's output folder so that `out` holds either the old result or the complete new one.

    All files go to a hidden folder next to `out`, which is locked meanwhile. On success the manifest is written last
    and the folder renamed. A finished folder of the same kind is replaced, unless it contains files of the user's.
    `inputs` maps the names of the inputs to their hashes; `of_records` is False for a folder of weights.

    Raises:
        UserError: anything else exists at `out`, another run writes to it, or the disk is full.
    """
    out = place_of(out, inputs)
    check_replaceable(out, kind)
    with working_folder(out) as work:
        writer = FolderWriter(work / NEW, kind)
        # The one rule: a folder is restricted if one of its records is, or one of the folders that it was made from.
        writer.restricted = any(is_restricted(Path(name)) for name in inputs)
        try:
            writer.path.mkdir()
            yield writer
            writer.name_shards()
            if of_records:
                (writer.rejects or ParquetAppender(writer.path / REJECTED, Reject)).close()
            manifest = {
                "schema": SCHEMA_VERSION,
                "kind": kind,
                "in": writer.counts["in"],
                "out": writer.counts["out"],
                "rejected": dict(sorted(writer.reasons.items())),
                "restricted": writer.restricted,
                "sources": sorted(writer.sources),
                "inputs": {as_url(name): value for name, value in inputs.items()},
                "files": sorted(writer.files, key=lambda file: file["name"]),
                "other_files": other_files(writer),
                **({"cites": True} if writer.cites else {}),
                **writer.facts,
            }
            write_durably(writer.path / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
            replace_folder(writer.path, out, kind)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{out}: the disk is full; the partial output was removed, free some space and run again"
            ) from error


@contextmanager
def writing_together(out: Path, parts: dict[str, str], inputs: Iterable[str], file: str = "") -> Iterator[Path]:
    """Write several finished folders that belong together: `out` never holds those of two runs.

    Yields a folder, in which the caller writes each part by `writing_folder`. Earlier parts in `out` are replaced,
    unless they contain files of the user's; anything else in `out` stays.

    Args:
        parts: name of each part and its kind.
        inputs: names of the inputs, which must not be in `out`.
        file: name of a file about the parts that the caller writes.

    Raises:
        UserError: something else has the name of a part, or another run writes to `out`.
    """
    out = place_of(out, inputs)

    def check() -> None:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} exists and is not a folder: choose another --out")
        for name, kind in parts.items():
            check_replaceable(out / name, kind)

    check()
    with working_folder(out, [*parts, *filter(None, [file])]) as work:
        (work / NEW).mkdir()
        yield work / NEW
        with kept_if_refused(work / NEW, out):
            check()
        replace_parts(work, out)


def other_files(writer: FolderWriter) -> dict[str, str]:
    """Hashes of the files beside the data, by name, by which a later run recognizes its own files."""
    data = {file["name"] for file in writer.files}
    paths = {str(path.relative_to(writer.path)): path for path in sorted(writer.path.rglob("*")) if path.is_file()}
    found = {}
    for name, path in paths.items():
        if name not in data:
            sync(path)
            found[name] = file_hash(path) if path.stat().st_size <= HASHED_BYTES else ""
    return found


def replace_folder(new: Path, out: Path, kind: str) -> None:
    """Replace `out` by `new`. A kill between the two renames leaves the old folder next to `new`, for the next run."""
    refuse_after_takeover(new.parent, out)
    with kept_if_refused(new, out):
        check_replaceable(out, kind)
    old = new.with_name(OLD)
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)


@contextmanager
def kept_if_refused(new: Path, out: Path) -> Iterator[None]:
    """For the check before the end, after a run of hours perhaps: if it refuses, `new` is kept next to `out`."""
    try:
        yield
    except UserError as error:
        kept = free_name(out.with_name(f"{out.name}-new"))
        new.rename(kept)
        raise UserError(f"{error}. The result of this run is in {kept}") from error


def contents(*kinds: str) -> str:
    """The kinds of folders in plain words."""
    names = {"packed": "packed rows", "export": "exported weights", "part": "part of a stage"}
    return " or ".join(names.get(kind, kind) for kind in kinds)


def check_replaceable(out: Path, kind: str) -> None:
    """Raise UserError if something other than a finished folder of this kind exists at `out`.

    So that nothing of the user's is lost, the folder may contain only files that its manifest lists, and no text files
    that have been edited since.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_manifest(out, kind)
        data = {file["name"] for file in manifest["files"]}
        others = manifest.get("other_files", dict.fromkeys(("README.md", REJECTED), ""))
    except (UserError, OSError) as error:
        raise UserError(f"{out} exists and does not contain finished {contents(kind)}: choose another --out") from error
    names = names_in(out)
    foreign = sorted(names - {MANIFEST, *data, *others})
    edited = [name for name, digest in others.items() if digest and name in names and file_hash(out / name) != digest]
    refuse_to_replace(out, [*foreign, *(f"{name}, edited since" for name in edited)])


def is_restricted(source: Path) -> bool:
    """Return True if a path is a finished folder, or a file in one, that has real notes or text made from them."""
    for path in (source / MANIFEST, source.parent / MANIFEST):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and manifest.get("restricted"):
            return True
    return False


class Manifest(dict[str, Any]):
    """A manifest, whose missing entries are an error of the user's: they have been edited away."""

    path = Path()

    def __missing__(self, name: str) -> Any:
        raise UserError(f"{self.path} has no entry {name!r}, it has been edited: run its stage again")


# Types of the entries that other commands read, in all kinds of folders that have them.
TYPES: dict[str, type] = {
    "kind": str, "in": int, "out": int, "rejected": dict, "inputs": dict, "files": list, "other_files": dict,
    "rows": int, "row_length": int, "tokens": int, "loss_tokens": int, "documents": int, "most_documents": int,
    "truncated": int, "vocab_size": int, "packing_efficiency": float, "tokenizer_hash": str, "token_dtype": str,
    "phase": str, "prompt_template": str, "licences": dict, "restricted": bool, "cites": bool, "judge": str,
    "checker": str, "checksums": dict, "canaries": list, "finish_reasons": dict, "step": int, "dtype": str,
    "pairs": int, "errors": dict, "blind_spots": dict,
}  # fmt: skip


VALUES = {"phase": ("pretrain", "instruct", "preference"), "token_dtype": ("uint16", "uint32")}
COUNTS_OR_TEXTS = {
    **dict.fromkeys(("rejected", "licences", "finish_reasons", "errors", "blind_spots"), int),
    **dict.fromkeys(("inputs", "other_files", "checksums"), str),
}


def wrong_entry(manifest: dict[str, Any]) -> str:
    """The name of the first entry that no stage writes in this form, or "" if there is none."""
    for name, kind in TYPES.items():
        if name in manifest and not is_usable(name, kind, manifest[name]):
            return name
    files = manifest.get("files", [])
    if not all(isinstance(file, dict) and is_file_entry(file) for file in files):
        return "files"
    return "out" if files and manifest.get("out") != sum(file["records"] for file in files) else ""


def is_usable(name: str, kind: type, value: Any) -> bool:
    if type(value) is not kind or value not in VALUES.get(name, (value,)):
        return False
    if isinstance(value, int | float):
        return 0 <= value < math.inf
    of_values = COUNTS_OR_TEXTS.get(name)
    return of_values is None or (isinstance(value, dict) and all(type(each) is of_values for each in value.values()))


def is_file_entry(file: dict[str, Any]) -> bool:
    name = file.get("name")
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return False
    has_proof = isinstance(file.get("sha256"), str) or type(file.get("bytes")) is int
    return type(file.get("records")) is int and has_proof


def read_manifest(folder: Path, *kinds: str) -> Manifest:
    """The manifest of a finished folder of one of these kinds. Raises UserError if it is missing or of another kind."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that contains {contents(*kinds)}")
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}: it is not finished, run its stage again")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}): run its stage again") from error
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UserError(f"{path} was not written by asclepius: pass the output folder of a {' or '.join(kinds)} run")
    if manifest["schema"] != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema {manifest['schema']}, this version reads {SCHEMA_VERSION}: run its stage again"
        )
    if name := wrong_entry(manifest):
        raise UserError(f"{path} has an unusable entry {name!r}, it has been edited: run its stage again")
    found = Manifest(manifest)
    found.path = path
    if found["kind"] not in kinds:
        raise UserError(f"{folder} contains {contents(found['kind'])}, not {contents(*kinds)}: name another folder")
    return found


def verified_files(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """The data files of a folder in order. Raises UserError if a file is missing or does not match its hash."""
    paths = []
    for file in manifest["files"]:
        path = folder / file["name"]
        if not path.is_file():
            raise UserError(f"{path} is missing: run the stage that writes {folder} again")
        if "sha256" not in file or file_hash(path) != file["sha256"]:
            raise UserError(f"{path} does not match the hash in {MANIFEST}: run the stage that writes {folder} again")
        paths.append(path)
    return paths
