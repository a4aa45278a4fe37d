"""Output folders: Parquet shards, rejected records and a manifest.

Every text stage writes a folder of Parquet shards and `rejected.parquet`, and `manifest.json` last:

    notes/
      notes-00000-of-00002.parquet   notes-00001-of-00002.parquet
      rejected.parquet               rejected records, with the reason
      manifest.json                  counts, reasons, seconds, hashes; its presence means "finished"
"""

import errno
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.records import ParquetAppender, Reject, T, file_hash, write_parquet

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
REJECTED = "rejected.parquet"
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

    All files go to a hidden folder next to `out`. On success the manifest is written last and the folder renamed.
    A finished folder of the same kind is replaced; UserError if anything else exists at `out`.
    `inputs` maps the names of the inputs to their hashes; `of_records` is False for a folder of weights.
    """
    check_replaceable(out, kind)
    started = time.monotonic()
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {out.parent} ({error.strerror}): choose another --out") from error
    writer = FolderWriter(partial, kind)
    # The one rule: a folder is restricted if one of its records is, or one of the folders that it was made from.
    writer.restricted = any(is_restricted(Path(name)) for name in inputs)
    try:
        yield writer
        writer.name_shards()
        if of_records:
            (writer.rejects or ParquetAppender(partial / REJECTED, Reject)).close()
            sync(partial / REJECTED)
        manifest = {
            "schema": SCHEMA_VERSION,
            "kind": kind,
            "in": writer.counts["in"],
            "out": writer.counts["out"],
            "rejected": dict(sorted(writer.reasons.items())),
            "restricted": writer.restricted,
            "sources": sorted(writer.sources),
            "seconds": round(time.monotonic() - started, 3),
            "inputs": inputs,
            "files": sorted(writer.files, key=lambda file: file["name"]),
            **writer.facts,
        }
        write_durably(partial / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        replace_folder(partial, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{out}: the disk is full; the partial output was removed, free some space and run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file written by another library, or a folder's entries, to disk, before a manifest refers to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_folder(new: Path, out: Path) -> None:
    """Replace `out` by `new`. A kill between the two renames leaves the old folder intact as `.NAME.old`."""
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def contents(*kinds: str) -> str:
    """The kinds of folders in plain words."""
    names = {"packed": "packed rows", "export": "exported weights"}
    return " or ".join(names.get(kind, kind) for kind in kinds)


def check_replaceable(out: Path, kind: str) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise UserError(f"{out} exists and does not contain finished {contents(kind)}: choose another --out")


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


def read_manifest(folder: Path, *kinds: str) -> dict[str, Any]:
    """The manifest of a finished folder of one of these kinds. Raises UserError if it is missing or of another kind."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that contains {contents(*kinds)}")
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}: it is not finished, run its stage again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): run its stage again") from error
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UserError(f"{path} was not written by asclepius: pass the output folder of a {' or '.join(kinds)} run")
    if manifest["schema"] != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema {manifest['schema']}, this version reads {SCHEMA_VERSION}: run its stage again"
        )
    if manifest["kind"] not in kinds:
        raise UserError(f"{folder} contains {contents(manifest['kind'])}, not {contents(*kinds)}: name another folder")
    return manifest


def verified_files(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """The data files of a folder in order. Raises UserError if a file is missing or does not match its hash."""
    paths = []
    for file in manifest["files"]:
        path = folder / file["name"]
        if not path.is_file():
            raise UserError(f"{path} is missing: run the stage that writes {folder} again")
        if file_hash(path) != file["sha256"]:
            raise UserError(f"{path} does not match the hash in {MANIFEST}: run the stage that writes {folder} again")
        paths.append(path)
    return paths
