"""Insert canaries into training notes: sentences with a random secret, with which memorisation is measured later.

    asclepius evaluate canaries --source data/notes --out data/notes_with_canaries --repeats 1 4 16
    ... pack and train on them, export ...
    asclepius evaluate privacy --model models/mine --canaries data/notes_with_canaries ...

A canary with n repeats occurs in n notes. It has the form of sensitive data (a record number) but belongs to nobody.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder
from data_prep.contract.records import Note, read_parquet, text_hash

FORMAT = "The record number of this patient is {}."
DIGITS = 8
SHARD_RECORDS = 10_000


@dataclass(frozen=True)
class Canary:
    secret: str
    repeats: int
    notes: tuple[str, ...]  # ids of the notes that contain it


@dataclass(frozen=True)
class CanariesConfig:
    """Insert canaries into training notes. A model trained on these is for an audit, not for publication."""

    source: Path
    """Finished folder of notes."""

    out: Path
    """Output folder for the notes. Its manifest lists the canaries."""

    repeats: tuple[int, ...] = (1, 4, 16)
    """Numbers of notes into which a canary is inserted."""

    each: int = 10
    """Number of canaries for each entry of --repeats."""

    seed: int = 0
    """Random seed for choosing notes and secrets."""


def run(config: CanariesConfig) -> list[Canary]:
    """Write the folder and return its canaries. Raises UserError for invalid options or too few notes."""
    if not config.repeats or min(config.repeats) < 1 or config.each < 1:
        raise UserError("--repeats and --each must be 1 or above")
    manifest = read_manifest(config.source, "notes")
    paths = verified_files(config.source, manifest)
    canaries = choose([note.id for path in paths for note in read_parquet(path, Note)], config)
    secrets = {name: canary.secret for canary in canaries for name in canary.notes}
    inputs = {str(config.source): text_hash(*(file["sha256"] for file in manifest["files"]))}
    with writing_folder(config.out, "notes", inputs) as writer:
        writer.facts = {
            "canaries": [{"secret": c.secret, "repeats": c.repeats, "notes": list(c.notes)} for c in canaries]
        }
        for path in paths:
            notes = [with_canary(note, secrets.get(note.id)) for note in read_parquet(path, Note)]
            writer.counts["in"] += len(notes)
            for start in range(0, len(notes), SHARD_RECORDS):
                writer.add_shard(notes[start : start + SHARD_RECORDS], Note)
    print(f"canaries: {len(canaries)} in {len(secrets)} of {manifest['out']} notes -> {config.out}", flush=True)
    return canaries


def choose(names: list[str], config: CanariesConfig) -> list[Canary]:
    """Canaries with randomly chosen secrets and notes. Each note contains at most one."""
    wanted = config.each * sum(config.repeats)
    if wanted > len(names):
        raise UserError(f"these canaries need {wanted} notes, but there are only {len(names)}: lower --each")
    random = Random(config.seed)
    places = iter(random.sample(names, wanted))
    secrets = iter(random.sample(range(10 ** (DIGITS - 1), 10**DIGITS), config.each * len(config.repeats)))
    return [
        Canary(str(next(secrets)), repeats, tuple(next(places) for _ in range(repeats)))
        for repeats in config.repeats
        for _ in range(config.each)
    ]


def with_canary(note: Note, secret: str | None) -> Note:
    return note if secret is None else replace(note, text=f"{note.text}\n{FORMAT.format(secret)}")


def read_canaries(folder: Path) -> list[Canary]:
    manifest: dict[str, Any] = read_manifest(folder, "notes")
    if not manifest.get("canaries"):
        raise UserError(f"{folder} contains no canaries: write them with asclepius evaluate canaries")
    return [Canary(entry["secret"], entry["repeats"], tuple(entry["notes"])) for entry in manifest["canaries"]]
