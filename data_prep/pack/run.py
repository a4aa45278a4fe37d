"""Stage 4: pack notes or examples into sharded ArrayRecord files of full rows.

Notes become pretraining rows, with loss on every token. Examples become tuning rows, with loss only on the answers and
their end-of-text tokens, in every turn of a conversation. Each output shard packs a contiguous range of the records
independently, so that the result does not depend on the number of workers.
"""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, local_folder
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder
from data_prep.contract.records import Example, Note, Reject, read_parquet, text_hash, token_dtype
from data_prep.contract.tokenizer import Tokenizer, load_tokenizer
from data_prep.contract.training_prompt import load_template
from data_prep.execution.parts import Part, as_json, from_json, read_part, read_parts, writing_part
from data_prep.execution.processes import process_pool
from data_prep.pack.best_fit import pack
from data_prep.pack.documents import Document, DocumentStore, example_documents, note_documents

BATCH = 256  # texts per call of the tokenizer
LONGEST_ROW = 2**22


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """Pack notes or instruction-answer pairs into rows of tokens."""

    source: Path
    """Folder of notes or instructions, such as the output of `asclepius notes` or one side of `asclepius split`."""
    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""
    tokenizer: Path
    """SentencePiece .model file, or Hugging Face folder or hub id with tokenizer.json or tokenizer.model."""
    row_length: int = 2048
    """Tokens per row, the sequence length of training. A longer note is cut into pieces; a longer example loses the
    end of its note."""
    shards: int = 1
    """Number of files to write. Files are packed independently, so each should get a few hundred rows or more."""
    prompt_template: str | None = None
    """File with the prompt for training and inference, in place of the default; contains {note} and {instruction} once
    each."""
    workers: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: one per core)")] = 0
    """Number of worker processes; 0 for one per core."""
    part: str = ""
    """I/N: pack every N-th of the --shards, from the I-th, and write OUT.part-I-of-N for `asclepius join`."""
    joined: tyro.conf.Suppress[tuple[Path, ...]] = ()  # the parts to read instead of packing


@dataclasses.dataclass(frozen=True)
class Job:
    """The work for one output shard: its range of records and the settings."""

    config: PackConfig
    index: int
    kind: str  # "notes" or "instructions"
    files: tuple[tuple[Path, int, int], ...]  # (file, first record, end)
    template: str
    folder: Path  # output folder of the shard


@dataclasses.dataclass
class Tally:
    """Counts of cuts in the records of a shard, and the records that fit no row."""

    truncated: int = 0  # notes that lost their end
    turns_left_out: int = 0
    rejects: list[Reject] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ShardResult:
    name: str
    rows: int
    tokens: int
    loss_tokens: int
    documents: int
    most_documents: int  # largest number of documents in a row
    tally: Tally
    licences: Counter[str]
    sources: Counter[str]


def run(config: PackConfig) -> None:
    if not 16 <= config.row_length <= LONGEST_ROW:
        raise UserError(f"--row-length {config.row_length}: must be from 16 to {LONGEST_ROW:,}")
    manifest = read_manifest(config.source, "notes", "instructions")
    if not 1 <= config.shards <= max(1, manifest["out"]):
        raise UserError(f"--shards {config.shards}: must be from 1 to the number of records, {manifest['out']}")
    if not manifest["out"]:
        raise UserError(f"{config.source} contains no records: see its rejected.parquet")
    template = load_template(config.prompt_template)
    config = dataclasses.replace(config, tokenizer=local_folder(config.tokenizer, SMALL_FILES))
    tokenizer = load_tokenizer(config.tokenizer)
    verified_files(config.source, manifest)
    # Hash of the data files only: the manifest also contains run times, which vary.
    inputs = {str(config.source): text_hash(*(file["sha256"] for file in manifest["files"]))}
    ranges = split_files(config.source, manifest, config.shards)
    jobs = [Job(config, index, manifest["kind"], files, template, config.out) for index, files in enumerate(ranges)]
    if part := read_part(config.part):
        pack_part(config, part, jobs, inputs, tokenizer)
        return
    with writing_folder(config.out, "packed", inputs) as folder:
        tokenizer.save(folder.path / "tokenizer", trained=True)
        if config.joined:
            results = results_of_parts(config.joined, folder.path)
        else:
            results = run_jobs([dataclasses.replace(job, folder=folder.path) for job in jobs], config.workers)
        rows = sum(result.rows for result in results)
        if not rows:
            raise UserError(f"no record of {config.source} fits a row of {config.row_length}: raise --row-length")
        for result in results:
            folder.reject(result.tally.rejects)
            folder.add_file(result.name, result.rows)
        folder.counts["in"] = manifest["out"]
        tokens = sum(result.tokens for result in results)
        folder.facts = {
            "phase": "pretrain" if manifest["kind"] == "notes" else "instruct",
            "row_length": config.row_length,
            "rows": rows,
            "tokens": tokens,
            "loss_tokens": sum(result.loss_tokens for result in results),
            "documents": sum(result.documents for result in results),
            "most_documents": max((result.most_documents for result in results), default=0),
            "truncated": sum(result.tally.truncated for result in results),
            "turns_left_out": sum(result.tally.turns_left_out for result in results),
            "packing_efficiency": round(tokens / (rows * config.row_length), 4),
            "vocab_size": tokenizer.vocab_size,
            "token_dtype": token_dtype(tokenizer.vocab_size),
            "tokenizer_hash": tokenizer.hash,
            "prompt_template": template,
            "licences": dict(sorted(sum((result.licences for result in results), Counter()).items())),
            "sources": dict(sorted(sum((result.sources for result in results), Counter()).items())),
        }
    facts = folder.facts
    print(
        f"packed {manifest['out']} records into {rows} rows of {config.row_length}: {tokens} tokens, "
        f"{facts['packing_efficiency']:.1%} full, {facts['truncated']} notes shortened, "
        f"{facts['turns_left_out']} follow-up turns left out, "
        f"{folder.reasons.total()} rejected"
    )


def pack_part(config: PackConfig, part: Part, jobs: list[Job], inputs: dict[str, str], tokenizer: Tokenizer) -> None:
    """Pack the shards of one part. What shards have in common, such as the number of rows, is left to the join."""
    if part.number == 0:
        raise UserError(f"--part {config.part}: packing has nothing that all parts share; begin with 1/{part.count}")
    with writing_part(part, config.out, "pack", config, inputs) as writer:
        own = [dataclasses.replace(job, folder=writer.path) for job in jobs if part.has(job.index)]
        for job, result in zip(own, run_jobs(own, config.workers), strict=True):
            writer.add_file(result.name, result.rows)
            writer.facts["shards"][str(job.index)] = as_json(result)
        writer.facts["tokenizer_hash"] = tokenizer.hash
    print(f"packed part {part.number} of {part.count}: {len(own)} of {len(jobs)} shards")


def results_of_parts(folders: tuple[Path, ...], out: Path) -> list[ShardResult]:
    """The results of all shards in order, with their files copied to `out`."""
    parts = read_parts(folders)
    found: dict[int, ShardResult] = {}
    for folder, manifest in zip(parts.folders, parts.manifests, strict=True):
        for number, stored in manifest["shards"].items():
            found[int(number)] = from_json(stored, ShardResult)
            shutil.copyfile(folder / found[int(number)].name, out / found[int(number)].name)
    return [found[number] for number in sorted(found)]


def split_files(source: Path, manifest: dict[str, Any], shards: int) -> list[tuple[tuple[Path, int, int], ...]]:
    """The ranges of the input files for each output shard: contiguous, and equal in size to within one record."""
    total = manifest["out"]
    ranges = []
    for shard in range(shards):
        first, end = total * shard // shards, total * (shard + 1) // shards
        file_ranges, start = [], 0
        for file in manifest["files"]:
            lower, upper = max(first - start, 0), min(end - start, file["records"])
            if lower < upper:
                file_ranges.append((source / file["name"], lower, upper))
            start += file["records"]
        ranges.append(tuple(file_ranges))
    return ranges


def run_jobs(jobs: list[Job], workers: int) -> list[ShardResult]:
    """The result of each job, from this number of processes, or one per core for 0."""
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(jobs) == 1:
        return [pack_shard(job) for job in jobs]
    try:
        with process_pool(min(workers, len(jobs))) as pool:
            return list(pool.map(pack_shard, jobs))
    except BrokenProcessPool as error:
        raise UserError(f"a packing process was killed (out of memory?): try fewer than --workers {workers}") from error


@lru_cache(maxsize=1)
def cached_tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)


def pack_shard(job: Job) -> ShardResult:
    """Tokenize the job's records, pack them and write one file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    tokenizer = cached_tokenizer(job.config.tokenizer)
    dtype = token_dtype(tokenizer.vocab_size)
    licences: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    tally = Tally()
    with DocumentStore(job.folder, dtype) as store:
        for records in batches(read_records(job)):
            licences.update(record.licence for record in records)
            sources.update(record.source for record in records)
            for document in documents_of(records, tokenizer, job, tally):
                store.add(document)
        rows = pack(store.lengths, job.config.row_length)
        name = f"packed-{job.index:05d}-of-{job.config.shards:05d}.array_record"
        writer = ArrayRecordWriter(str(job.folder / name), "group_size:1")
        for row in rows:
            writer.write(store.row(row).to_bytes(dtype))
        writer.close()
    return ShardResult(
        name=name,
        rows=len(rows),
        tokens=store.ends[-1],
        loss_tokens=store.loss_tokens,
        documents=len(store.lengths),
        most_documents=max(map(len, rows), default=0),
        tally=tally,
        licences=licences,
        sources=sources,
    )


def documents_of(records: list[Any], tokenizer: Tokenizer, job: Job, tally: Tally) -> Iterator[Document]:
    """The documents of some records; counts what was cut from them."""
    if job.kind == "notes":
        yield from note_documents(records, tokenizer, job.config.row_length)
        return
    fitted = example_documents(records, tokenizer, job.config.row_length, job.template)
    for record, result in zip(records, fitted, strict=True):
        tally.truncated += result.note_shortened
        tally.turns_left_out += result.turns_left_out
        if result.document:
            yield result.document
        else:
            tally.rejects.append(Reject.of(record, "longer_than_row", result.detail))


def read_records(job: Job) -> Iterator[Any]:
    record_type = Note if job.kind == "notes" else Example
    for path, first, end in job.files:
        for index, record in enumerate(read_parquet(path, record_type)):
            if index >= end:
                break
            if index >= first:
                yield record


def batches(records: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
