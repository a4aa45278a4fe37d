"""Split a folder into training and held-out records, by patient and article, without leaks between them.

    asclepius split --source data/instructions --out data/split --held-out 0.05 --against benchmark.csv

    split/
      train/  held_out/     finished folders of the source's kind; train also has all rejected records
      report.json           counts of rejected records by reason, identifiers found, sizes of both sides

All records of one patient, and all patients of one article, are on one side. A near duplicate of another patient's note
is rejected, and so is a record that shares a run of words with an evaluation set (`--against`).
"""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from data_prep.clinical_text.identifiers import KINDS, NEVER_PUBLISHED, Found, described, find_identifiers
from data_prep.clinical_text.near_duplicates import RUN_WORDS, Contamination, NearDuplicates, shingles_of
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably
from data_prep.contract.manifests import MANIFEST, read_manifest, verified_files, writing_folder, writing_together
from data_prep.contract.reading.source_files import SourceFile
from data_prep.contract.records import (
    Example,
    Note,
    Record,
    Reject,
    file_hash,
    read_parquet,
    seeded_fraction,
    text_hash,
)
from data_prep.contract.tables import files_of, rows_of
from data_prep.execution.parts import KIND, Part, add_results, as_json, read_part, read_parts, writing_part
from data_prep.execution.shards import in_shards
from data_prep.ingest.article_ids import article_id

SHARD_RECORDS = 10_000
LOOKED_AT_ONCE = 1_000  # records of a shard of the first pass
SIDES = ("train", "held_out")
REPORT = "report.json"
READABLE = ("notes", "instructions", "questions", "dataset")  # kinds of finished folders with texts to compare


@dataclass(frozen=True)
class SplitConfig:
    source: Path
    """Finished folder of notes or instructions."""

    out: Path
    """Output folder for `train`, `held_out` and `report.json`."""

    held_out: float = 0.05
    """Fraction of patients to hold out. All patients of one article go to the same side."""

    against: tuple[Path, ...] = ()
    """Evaluation sets: finished folders, or .csv, .json, .jsonl, .parquet or .txt files, of which all texts are used,
    those of chats too. A record that shares 13 consecutive words with one of them is rejected from both sides."""

    similarity: float = 0.7
    """Threshold of Jaccard similarity, over runs of five words, from which a note (also the note of an instruction) is
    rejected as a near duplicate of an earlier note of another patient."""

    identifiers: bool = False
    """Also reject records with any date, or with an age over 89. Records with personal names, phone or record numbers,
    or addresses are rejected in any case."""

    presidio: str = ""
    """spaCy model, such as en_core_web_lg, with which Presidio finds further records with identifiers to reject; empty
    for the rules alone."""

    seed: int = 0
    """Random seed for the choice of held-out patients."""

    part: str = ""
    """I/N: look for identifiers and shared words in every N-th thousand of records, and write OUT.part-I-of-N for
    `asclepius join`, which splits."""

    joined: tyro.conf.Suppress[tuple[Path, ...]] = ()  # the parts to read instead of looking


class Groups:
    """Groups of records that belong together: union-find over the names of patients and articles."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        root = name
        while self.parents.setdefault(root, root) != root:
            root = self.parents[root]
        while self.parents[name] != root:
            self.parents[name], name = root, self.parents[name]
        return root

    def join(self, name: str, other: str) -> None:
        # The lesser name represents both, so that the order of the records does not matter.
        low, high = sorted((self.find(name), self.find(other)))
        self.parents[high] = low


@dataclass
class Findings:
    """Results of the first pass over the records."""

    groups: Groups
    rejects: dict[str, tuple[str, str]]  # note or record id -> reason, detail
    identifiers: Counter[str]  # kind -> number of records that contain it
    against: dict[str, dict[str, Any]]  # evaluation set -> its hash, its number of texts, of compared ones


def patient_of(record: Any) -> str:
    return f"patient {record.source} {record.report_id}"


def note_of(record: Any) -> tuple[str, str]:
    return (record.note_id, record.note) if isinstance(record, Example) else (record.id, record.text)


def texts_of(record: Any) -> list[str]:
    """All texts of a record, including the note of an instruction."""
    if isinstance(record, Note):
        return [record.text]
    turns = [text for turn in record.follow_ups for text in (turn.question, turn.answer)]
    return [record.note, record.question, record.answer, *turns]


def evaluation_texts(path: Path) -> Iterator[tuple[str, str]]:
    """The (where, text) pairs of all texts in an evaluation set. Raises UserError for a row that cannot be read."""
    if not path.exists():
        raise UserError(f"--against {path}: no such file or folder")
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path, *READABLE)
        files = verified_files(path, manifest)
        if manifest["kind"] in ("notes", "instructions"):
            record_type: type[Note] | type[Example] = Note if manifest["kind"] == "notes" else Example
            for file in files:
                for record in read_parquet(file, record_type):
                    yield from ((f"{path} {record.id}", text) for text in texts_of(record))
            return
        sources = [SourceFile(file, file.name) for file in files]
    else:
        sources = files_of(path)
    for row in rows_of(sources):
        if row.values is None:
            raise UserError(
                f"--against {row.place}: {row.error}: mend the line, or pass the file as .txt to compare all its words"
            )
        yield from ((f"{path} {row.place}", text) for value in row.values.values() for text in texts_in(value))


def texts_in(value: Any) -> Iterator[str]:
    """The texts in a cell, however deep: messages of a chat, options of a question. A list of words is one text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for each in value.values() for text in texts_in(each))
    elif isinstance(value, list | tuple):
        if value and all(isinstance(each, str) for each in value):
            yield " ".join(value)
        else:
            yield from (text for each in value for text in texts_in(each))


def read_against(paths: Iterable[Path]) -> tuple[Contamination, dict[str, dict[str, Any]]]:
    """The index of all evaluation sets, and the facts about each for the report, which are also printed.

    Raises UserError if a set has no text to compare.
    """
    contamination, facts = Contamination(), {}
    for path in paths:
        texts, short = contamination.texts, contamination.short
        contamination.add(evaluation_texts(path))
        texts, short = contamination.texts - texts, contamination.short - short
        without = f", of which {short:,} have fewer than {RUN_WORDS} words and are not compared" if short else ""
        print(f"split: {texts:,} texts of {path}{without}", flush=True)
        if texts == short:
            raise UserError(
                f"--against {path}: no text of {RUN_WORDS} or more words among {texts:,}: nothing to compare"
            )
        digest = file_hash(path) if path.is_file() else ""
        facts[str(path)] = {"sha256": digest, "texts": texts, "compared": texts - short}
    return contamination, facts


@dataclass(frozen=True)
class Looked:
    """Result of the first pass for one record, by itself."""

    id: str
    note_id: str
    shingles: bytes  # of its note, as uint32; empty if an earlier record of the shard has the same note
    reason: str  # why it is rejected; empty if it is not
    detail: str
    identifiers: tuple[str, ...]  # their kinds


def looked(records: Iterable[Any], contamination: Contamination, config: SplitConfig) -> Iterator[Looked]:
    """The first pass over some records, each by itself."""
    notes: set[str] = set()
    for record in records:
        note_id, note = note_of(record)
        shingles = b"" if note_id in notes else shingles_of(note).tobytes()
        notes.add(note_id)
        kinds, refused = identifiers_of(record, config)
        if not refused:
            texts = texts_of(record)
            shared = next((found for text in texts if (found := contamination.find(text))), None)
            refused = ("contaminated", f"{shared[0]} contains {shared[1]!r}") if shared else None
        yield Looked(record.id, note_id, shingles, *(refused or ("", "")), tuple(sorted(kinds)))


def identifiers_of(record: Any, config: SplitConfig) -> tuple[set[str], tuple[str, str] | None]:
    """The kinds of identifiers in a record, and the reason to reject it for one."""
    by_rules = [item for text in texts_of(record) for item in find_identifiers(text)]
    by_presidio = persons(record, config.presidio) if config.presidio else []
    kinds = KINDS if config.identifiers else NEVER_PUBLISHED
    refused = [item for item in by_rules if item.kind in kinds] + by_presidio
    return {item.kind for item in by_rules + by_presidio}, ("identifier", described(refused)) if refused else None


def together_with(records: Iterable[Any], found: Iterable[Looked], config: SplitConfig, scratch: Path) -> Findings:
    """Combine the results of all records: which belong together, and which are near duplicates.

    scratch: folder for a temporary file with the words of all notes, as numbers.
    """
    findings = Findings(Groups(), {}, Counter(), {})
    notes: dict[str, int] = {}  # note id -> its number, in the order in which notes first appear
    patients: dict[str, int] = {}
    with tempfile.TemporaryFile(dir=scratch) as file:
        near = NearDuplicates(config.similarity, file)
        for record, one in zip(records, found, strict=True):
            patient = patient_of(record)
            findings.groups.find(patient)
            if article := article_id(record.article):
                findings.groups.join(patient, f"article {article}")
            if one.note_id not in notes:
                notes[one.note_id] = len(notes)
                near.add(np.frombuffer(one.shingles, np.uint32), patients.setdefault(patient, len(patients)))
            findings.identifiers.update(one.identifiers)
            if one.reason:
                findings.rejects[record.id] = one.reason, one.detail
        names = list(notes)
        for text, earlier in near.pairs().items():
            detail = f"near duplicate of note {names[earlier]} of another patient"
            findings.rejects.setdefault(names[text], ("near_duplicate", detail))
    return findings


def look(config: SplitConfig, records: Callable[[], Iterator[Any]], scratch: Path) -> Findings:
    """The first pass: which records belong together, and which are rejected; from the parts if there are some."""
    if config.joined:
        parts = read_parts(config.joined)
        found: Iterator[Looked] = itertools.chain.from_iterable(parts.results(Looked))
        against = parts.manifests[0]["against"]
    else:
        contamination, against = read_against(config.against)
        found = looked(records(), contamination, config)
    findings = together_with(records(), found, config, scratch)
    return replace(findings, against=against)


def look_at_part(config: SplitConfig, part: Part, records: Iterator[Any], inputs: dict[str, str]) -> dict[str, Any]:
    """The first pass over the shards of one part, which takes most of the time."""
    if part.number == 0:
        raise UserError(f"--part {config.part}: a split has nothing that all parts share; begin with 1/{part.count}")
    contamination, against = read_against(config.against)
    with writing_part(part, config.out, "split", config, inputs) as writer:
        writer.facts["against"] = against
        for number, shard in enumerate(in_shards(records, LOOKED_AT_ONCE)):
            if part.has(number):
                writer.counts["in"] += len(shard)
                add_results(writer, number, list(looked(shard, contamination, config)), Looked)
    print(f"split: part {part.number} of {part.count}, {writer.counts['in']} records -> {part.folder(config.out)}")
    return read_manifest(part.folder(config.out), KIND)


def persons(record: Any, model: str) -> list[Found]:
    from data_prep.curate.presidio import find_by_presidio

    found = [item for text in texts_of(record) for item in find_by_presidio(text, model)]
    return [replace(item, kind=f"presidio: {item.kind}") for item in found]


def run(config: SplitConfig) -> dict[str, Any]:
    """Write both folders and the report, and return the report. Raises UserError for errors that the user can fix."""
    if not 0 < config.held_out < 1:
        raise UserError(f"--held-out {config.held_out}: must be between 0 and 1")
    if not 0 < config.similarity <= 1:
        raise UserError(f"--similarity {config.similarity}: must be above 0 and at most 1")
    manifest = read_manifest(config.source, "notes", "instructions")
    kind, record_type = manifest["kind"], Note if manifest["kind"] == "notes" else Example
    paths = verified_files(config.source, manifest)

    def records() -> Iterator[Any]:
        for path in paths:
            yield from read_parquet(path, record_type)

    # Hash of the data files only: the manifest also contains run times, which vary.
    inputs = {str(config.source): text_hash(*(file["sha256"] for file in manifest["files"]))}
    if part := read_part(config.part):
        return look_at_part(config, part, records(), inputs)
    report: dict[str, Any] = {
        "source": str(config.source),
        "share": config.held_out,
        "similarity": config.similarity,
    }
    with writing_together(config.out, dict.fromkeys(SIDES, kind), inputs, REPORT) as together:
        findings = look(config, records, together)
        report["against"] = findings.against
        report["records_with_identifiers"] = dict(sorted(findings.identifiers.items()))
        for side in SIDES:
            report[side] = write_side(together / side, config, findings, records(), (kind, record_type, inputs))
        report["rejected"] = read_manifest(together / "train", kind)["rejected"]
        write_durably(together / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    rejected = ", ".join(f"{count} {reason}" for reason, count in report["rejected"].items()) or "none"
    sides = ", ".join(f"{report[side]['records']} {side} of {report[side]['patients']} patients" for side in SIDES)
    print(f"split {config.source}: {sides}; rejected: {rejected} -> {config.out}", flush=True)
    return report


def settings_in_words(config: SplitConfig) -> dict[str, Any]:
    """The settings for the manifest, without those of the folders in which the run lies."""
    return {name: value for name, value in as_json(config).items() if name not in ("part", "joined")} | {"out": ""}


def write_side(
    out: Path, config: SplitConfig, findings: Findings, records: Iterator[Any], folder: tuple[str, type, dict[str, str]]
) -> dict[str, int]:
    """Write the records of one side in their order; `train` also gets the rejects of both sides.

    `folder` is the output folder's kind, record type and input hashes.
    """
    kind, record_type, inputs = folder
    side = out.name
    patients: set[str] = set()
    with writing_folder(out, kind, inputs) as writer:
        writer.facts = {"split": {**settings_in_words(config), "side": side}}
        shard: list[Record] = []
        for record in records:
            writer.counts["in"] += 1
            reason = findings.rejects.get(record.id) or findings.rejects.get(note_of(record)[0])
            group = findings.groups.find(patient_of(record))
            is_held_out = seeded_fraction(config.seed, "split", group) < config.held_out
            if reason:
                writer.reject([Reject.of(record, *reason)] if side == SIDES[0] else [])
            elif is_held_out == (side == "held_out"):
                patients.add(patient_of(record))
                shard.append(record)
            if len(shard) == SHARD_RECORDS:
                writer.add_shard(shard, record_type)
                shard = []
        if shard or not writer.shards:
            writer.add_shard(shard, record_type)
    return {"records": writer.counts["out"], "patients": len(patients)}
