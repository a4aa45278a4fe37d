"""Stage 4: pack notes or examples into sharded ArrayRecord files of full rows.

Notes become pretraining rows, with loss on every token. Examples become tuning rows, with loss only on the answers and
their end-of-text tokens, in every turn of a conversation. Each output shard packs a contiguous range of the records
independently, so that the result does not depend on the number of workers.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, local_folder
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder
from data_prep.contract.records import Example, Note, PackedRow, Reject, read_parquet, text_hash, token_dtype
from data_prep.contract.tokenizer import (
    Tokenizer,
    beginning,
    encode_after_end,
    encode_continuations,
    encode_prompt,
    load_tokenizer,
)
from data_prep.contract.training_prompt import load_template, render_follow_up, render_prompt
from data_prep.execution.processes import process_pool
from data_prep.pack.best_fit import cut, pack

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


@dataclasses.dataclass(frozen=True)
class Document:
    """Tokens that stay together in one row, and the mask of those with loss."""

    tokens: list[int]
    loss_mask: list[bool]


@dataclasses.dataclass(frozen=True)
class Job:
    """The work for one output shard: its range of records and the settings."""

    config: PackConfig
    index: int
    kind: str  # "notes" or "instructions"
    files: tuple[tuple[Path, int, int], ...]  # (file, first record, end)
    template: str
    folder: Path  # output folder of the shard


@dataclasses.dataclass(frozen=True)
class ShardResult:
    name: str
    rows: int
    tokens: int
    loss_tokens: int
    documents: int
    most_documents: int  # largest number of documents in a row
    truncated: int
    rejects: list[Reject]
    licences: dict[str, int]
    sources: dict[str, int]


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
    with writing_folder(config.out, "packed", inputs) as folder:
        tokenizer.save(folder.path / "tokenizer", trained=True)
        ranges = split_files(config.source, manifest, config.shards)
        jobs = [
            Job(config, index, manifest["kind"], files, template, folder.path) for index, files in enumerate(ranges)
        ]
        results = run_jobs(jobs, config.workers or os.cpu_count() or 1)
        rows = sum(result.rows for result in results)
        if not rows:
            raise UserError(f"no record of {config.source} fits a row of {config.row_length}: raise --row-length")
        for result in results:
            folder.reject(result.rejects)
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
            "truncated": sum(result.truncated for result in results),
            "packing_efficiency": round(tokens / (rows * config.row_length), 4),
            "vocab_size": tokenizer.vocab_size,
            "token_dtype": token_dtype(tokenizer.vocab_size),
            "tokenizer_hash": tokenizer.hash,
            "prompt_template": template,
            "licences": add_counts(result.licences for result in results),
            "sources": add_counts(result.sources for result in results),
        }
    facts = folder.facts
    print(
        f"packed {manifest['out']} records into {rows} rows of {config.row_length}: {tokens} tokens, "
        f"{facts['packing_efficiency']:.1%} full, {facts['truncated']} notes shortened, "
        f"{folder.reasons.total()} rejected"
    )


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
    documents: list[Document] = []
    rejects: list[Reject] = []
    licences: list[str] = []
    sources: list[str] = []
    truncated = 0
    for records in batches(read_records(job)):
        licences += [record.licence for record in records]
        sources += [record.source for record in records]
        if job.kind == "notes":
            documents += note_documents(records, tokenizer, job.config.row_length)
        else:
            packable, shortened, too_long = example_documents(records, tokenizer, job.config.row_length, job.template)
            documents += packable
            truncated += shortened
            rejects += too_long
    rows = pack([len(document.tokens) for document in documents], job.config.row_length)
    name = f"packed-{job.index:05d}-of-{job.config.shards:05d}.array_record"
    writer = ArrayRecordWriter(str(job.folder / name), "group_size:1")
    dtype = token_dtype(tokenizer.vocab_size)
    for row in rows:
        writer.write(fill_row([documents[i] for i in row]).to_bytes(dtype))
    writer.close()
    return ShardResult(
        name=name,
        rows=len(rows),
        tokens=sum(len(document.tokens) for document in documents),
        loss_tokens=sum(sum(document.loss_mask) for document in documents),
        documents=len(documents),
        most_documents=max(map(len, rows), default=0),
        truncated=truncated,
        rejects=rejects,
        licences=count(licences),
        sources=count(sources),
    )


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


def note_documents(notes: Sequence[Note], tokenizer: Tokenizer, row_length: int) -> Iterator[Document]:
    """The documents of notes, from BOS (if the tokenizer has one) to EOS; notes longer than a row are cut."""
    for ids in tokenizer.encode_batch([note.text for note in notes]):
        tokens = beginning(tokenizer) + ids + [tokenizer.eos_id]
        for start, end in cut(len(tokens), row_length):
            # The first token of a piece has no loss, because no token precedes it in its document.
            yield Document(tokens[start:end], [False] + [True] * (end - start - 1))


def example_documents(
    examples: Sequence[Example], tokenizer: Tokenizer, row_length: int, template: str
) -> tuple[list[Document], int, list[Reject]]:
    """The documents, the number of shortened notes, and rejects for examples that exceed a row even without a note."""
    prompts = tokenizer.encode_batch([render_prompt(template, e.note, e.question) for e in examples])
    answered = answer_documents(examples, tokenizer, template)
    documents, truncated, rejects = [], 0, []
    for example, prompt_ids, answer in zip(examples, prompts, answered, strict=True):
        prompt = beginning(tokenizer) + prompt_ids
        room = row_length - len(answer.tokens)
        if len(prompt) > room:
            shortened = shorten_note(example, tokenizer, room, template)
            if shortened is None:
                detail = f"{len(answer.tokens)} tokens of answers and the instruction do not fit a row of {row_length}"
                rejects.append(Reject.of(example, "longer_than_row", detail))
                continue
            prompt = shortened
            truncated += 1
        documents.append(Document(prompt + answer.tokens, [False] * len(prompt) + answer.loss_mask))
    return documents, truncated, rejects


def answer_documents(examples: Sequence[Example], tokenizer: Tokenizer, template: str) -> list[Document]:
    """The tokens after each example's first prompt: its answer, then the follow-up turns.

    Answers and their end-of-text tokens have loss.
    """
    turns = [turn for example in examples for turn in example.follow_ups]
    questions = encode_after_end(tokenizer, [render_follow_up(template, turn.question) for turn in turns])
    texts = [example.answer for example in examples] + [turn.answer for turn in turns]
    answers = encode_continuations(tokenizer, [text.strip() for text in texts])
    first, later = answers[: len(examples)], iter(zip(questions, answers[len(examples) :], strict=True))
    documents = []
    for example, answer in zip(examples, first, strict=True):
        tokens, loss_mask = [*answer, tokenizer.eos_id], [True] * (len(answer) + 1)
        for question_ids, answer_ids in itertools.islice(later, len(example.follow_ups)):
            tokens += [*question_ids, *answer_ids, tokenizer.eos_id]
            loss_mask += [False] * len(question_ids) + [True] * (len(answer_ids) + 1)
        documents.append(Document(tokens, loss_mask))
    return documents


def shorten_note(example: Example, tokenizer: Tokenizer, room: int, template: str) -> list[int] | None:
    """The prompt with as many words from the start of the note as fit into `room` tokens; None if no word fits."""
    ends = [i for i, character in enumerate(example.note) if character.isspace()]
    best, low, high = None, 0, len(ends) - 1
    while low <= high:
        middle = (low + high) // 2
        text = render_prompt(template, example.note[: ends[middle]], example.question)
        prompt = encode_prompt(tokenizer, text)
        if len(prompt) <= room:
            best, low = prompt, middle + 1
        else:
            high = middle - 1
    return best


def fill_row(documents: Sequence[Document]) -> PackedRow:
    return PackedRow(
        tokens=np.concatenate([document.tokens for document in documents]),
        segment_lengths=np.array([len(document.tokens) for document in documents]),
        loss_mask=np.concatenate([document.loss_mask for document in documents]),
    )


def count(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def add_counts(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for shard_counts in counts:
        for key, number in shard_counts.items():
            total[key] = total.get(key, 0) + number
    return dict(sorted(total.items()))
