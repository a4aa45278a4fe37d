"""The work of packing: records of one shard to documents, documents to rows, rows to a file."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import shows_numbers
from data_prep.contract.records import Example, Note, Pair, Reject, read_parquet, token_dtype
from data_prep.contract.tokenizer import Tokenizer, load_tokenizer
from data_prep.execution.processes import process_pool
from data_prep.pack.best_fit import pack
from data_prep.pack.documents import Document, DocumentStore, example_documents, text_documents
from data_prep.pack.pair_documents import pair_documents
from data_prep.pack.plain_text import read_spool

BATCH = 256  # texts per call of the tokenizer
TEXT = "text"  # kind of the records of a spool file
RECORD_TYPES: dict[str, type] = {"notes": Note, "instructions": Example, "pairs": Pair}
FileRanges = tuple[tuple[Path, int, int], ...]  # (file, first record, end)


@dataclasses.dataclass(frozen=True)
class Job:
    """The work for one output shard: its range of records and the settings."""

    index: int
    shards: int
    kind: str  # a key of RECORD_TYPES, or TEXT
    files: FileRanges  # of TEXT one spool file, which is read whole
    tokenizer: Path
    row_length: int
    template: str
    shared_loss: bool  # of pairs: tokens that both answers share carry loss
    folder: Path  # output folder of the shard


@dataclasses.dataclass
class Tally:
    """Counts of cuts in the records of a shard, and the records that fit no row."""

    truncated: int = 0  # notes that lost their end
    turns_left_out: int = 0
    pairs: int = 0
    unreadable: int = 0  # records that were rejected as they were read
    rejects: list[Reject] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ShardResult:
    name: str
    records: int  # that were read, rejected ones included
    rows: int
    tokens: int
    loss_tokens: int
    documents: int
    most_documents: int  # largest number of documents in a row
    tally: Tally
    licences: Counter[str]
    sources: Counter[str]


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

    tokenizer = cached_tokenizer(job.tokenizer)
    dtype = token_dtype(tokenizer.vocab_size)
    licences: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    tally, read = Tally(), 0
    with DocumentStore(job.folder, dtype, weighted=job.kind == "pairs") as store:
        for records in batches(read_records(job, tally)):
            read += len(records)
            licences.update(record.licence for record in records)
            sources.update(record.source for record in records)
            for item in items_of(records, tokenizer, job, tally):
                store.add(*item)
        rows = pack(store.item_lengths, job.row_length)
        name = f"packed-{job.index:05d}-of-{job.shards:05d}.array_record"
        writer = ArrayRecordWriter(str(job.folder / name), "group_size:1")
        for row in rows:
            writer.write(store.row(row).to_bytes(dtype))
        writer.close()
    return ShardResult(
        name=name,
        records=read + tally.unreadable,
        rows=len(rows),
        tokens=store.ends[-1],
        loss_tokens=store.loss_tokens,
        documents=len(store.lengths),
        most_documents=max((sum(map(len, store.documents_of(row))) for row in rows), default=0),
        tally=tally,
        licences=licences,
        sources=sources,
    )


def items_of(records: list[Any], tokenizer: Tokenizer, job: Job, tally: Tally) -> Iterator[tuple[Document, ...]]:
    """The documents of some records, those of a pair together; counts what was cut from them."""
    if job.kind == "pairs":
        yield from items_of_pairs(records, tokenizer, job, tally)
        return
    if job.kind != "instructions":
        yield from ((document,) for document in text_documents(records, tokenizer, job.row_length))
        return
    if mixed := next((record for record in records if record.cites != shows_numbers(job.template)), None):
        cites, others = ("cites", "do not") if mixed.cites else ("does not cite", "do")
        raise UserError(
            f"example {mixed.id} {cites} the sentences of its note, and others {others}: pack them in two folders"
        )
    fitted = example_documents(records, tokenizer, job.row_length, job.template)
    for record, result in zip(records, fitted, strict=True):
        tally.truncated += result.note_shortened
        tally.turns_left_out += result.turns_left_out
        if result.document:
            yield (result.document,)
        else:
            tally.rejects.append(Reject.of(record, result.reason, result.detail))


def items_of_pairs(records: list[Any], tokenizer: Tokenizer, job: Job, tally: Tally) -> Iterator[tuple[Document, ...]]:
    fitted = pair_documents(records, tokenizer, job.row_length, job.template, job.shared_loss)
    for record, result in zip(records, fitted, strict=True):
        tally.truncated += result.note_shortened
        tally.pairs += len(result.documents) == 2
        if result.documents:
            yield result.documents
        else:
            tally.rejects.append(Reject.of(record, result.reason, result.detail))


def read_records(job: Job, tally: Tally) -> Iterator[Any]:
    for path, first, end in job.files:
        if job.kind == TEXT:
            yield from readable(read_spool(path), tally)
            continue
        record_type: Any = RECORD_TYPES[job.kind]
        for index, record in enumerate(read_parquet(path, record_type)):
            if index >= end:
                break
            if index >= first:
                yield record


def readable(records: Iterator[Any], tally: Tally) -> Iterator[Any]:
    """The records without rejects, which are put into the tally."""
    for record in records:
        if isinstance(record, Reject):
            tally.unreadable += 1
            tally.rejects.append(record)
        else:
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
