"""Stage 4: pack notes, examples, pairs or plain text into sharded ArrayRecord files of full rows.

Notes and plain text become pretraining rows, with loss on every token. Examples become tuning rows, with loss only on
the answers and their end-of-text tokens, in every turn of a conversation. Pairs become preference rows, in which the
two answers to a question lie next to each other with their weights. Each output shard packs its own records
independently, so that the result does not depend on the number of workers.
"""

import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.hub import SMALL_FILES, local_folder
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder
from data_prep.contract.prompt.training_prompt import load_template, shows_numbers
from data_prep.contract.records import text_hash, token_dtype
from data_prep.contract.tokenizer import Tokenizer, load_tokenizer
from data_prep.execution.parts import Part, as_json, from_json, read_part, read_parts, writing_part
from data_prep.pack.plain_text import Corpus, TextConfig, is_plain_text, open_corpus, spool, spool_file
from data_prep.pack.shard import RECORD_TYPES, TEXT, FileRanges, Job, ShardResult, run_jobs

LONGEST_ROW = 2**22
PHASES = {"notes": "pretrain", TEXT: "pretrain", "instructions": "instruct", "pairs": "preference"}


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """Pack notes, instruction-answer pairs, pairs of answers or plain text into rows of tokens."""

    source: Path
    """Folder of notes, instructions or pairs, such as the output of `asclepius notes` or one side of `asclepius split`.
    Or plain text: a .txt, .jsonl, .json, .csv or .parquet file, a folder of one of these kinds, or the id of a data set
    on the Hugging Face hub."""
    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""
    tokenizer: Path
    """SentencePiece .model file, or Hugging Face folder or hub id with tokenizer.json or tokenizer.model."""
    row_length: int = 2048
    """Tokens per row, the sequence length of training. A longer note or text is cut into pieces; a longer example loses
    the end of its note, and a longer pair that of the note in both of its prompts."""
    shards: int = 1
    """Number of files to write. Files are packed independently, so each should get a few hundred rows or more."""
    prompt_template: str | None = None
    """File with the prompt for training and inference, in place of the default; contains {instruction} once, and {note}
    once, or {numbered_note} if the answers cite the numbers of the note's sentences."""
    shared_tokens: Literal["no-loss", "loss"] = "no-loss"
    """Tokens that both answers of a pair share. no-loss: the common beginning and the common end of the answers carry
    no loss. loss: all tokens of both answers do."""
    text: tyro.conf.OmitArgPrefixes[TextConfig] = dataclasses.field(default_factory=TextConfig)
    workers: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: one per core)")] = 0
    """Number of worker processes; 0 for one per core."""
    part: str = ""
    """I/N: pack every N-th of the --shards, from the I-th, and write OUT.part-I-of-N for `asclepius join`."""
    joined: tyro.conf.Suppress[tuple[Path, ...]] = ()  # the parts to read instead of packing


@dataclasses.dataclass(frozen=True)
class Source:
    """The records of a finished folder, or the documents of a corpus."""

    kind: str  # of the folder, or TEXT
    inputs: dict[str, str]  # name -> hash
    manifest: dict[str, Any]  # of the folder
    corpus: Corpus | None = None


def run(config: PackConfig) -> None:
    if not 16 <= config.row_length <= LONGEST_ROW:
        raise UserError(f"--row-length {config.row_length}: must be from 16 to {LONGEST_ROW:,}")
    source = open_source(config)
    template = template_of(config, source)
    config = dataclasses.replace(config, tokenizer=local_folder(config.tokenizer, SMALL_FILES))
    tokenizer = load_tokenizer(config.tokenizer)
    if part := read_part(config.part):
        pack_part(config, part, source, template, tokenizer)
        return
    with writing_folder(config.out, "packed", source.inputs) as folder:
        tokenizer.save(folder.path / "tokenizer", trained=True)
        if config.joined:
            results = results_of_parts(config.joined, folder.path)
        else:
            with jobs_of(config, source, template, folder.path) as jobs:
                results = run_jobs(jobs, config.workers)
        for result in results:
            folder.reject(result.tally.rejects)
            folder.add_file(result.name, result.rows)
        folder.counts["in"] = sum(result.records for result in results)
        folder.facts = facts_of(results, config, source, tokenizer, template)
    facts = folder.facts
    print(
        f"packed {folder.counts['in']} records into {facts['rows']} rows of {config.row_length}: {facts['tokens']} "
        f"tokens, {facts['packing_efficiency']:.1%} full, {facts['truncated']} notes shortened, "
        f"{facts['turns_left_out']} follow-up turns left out, "
        f"{folder.reasons.total()} rejected"
    )


def open_source(config: PackConfig) -> Source:
    """Open a finished folder of records, or plain text. Raises UserError for settings that do not go with it."""
    if is_plain_text(config.source):
        if config.shards < 1:
            raise UserError(f"--shards {config.shards}: must be at least 1")
        corpus = open_corpus(config.source, config.text)
        return Source(TEXT, {str(config.source): corpus.content}, {}, corpus)
    manifest = read_manifest(config.source, *RECORD_TYPES)
    for field in dataclasses.fields(TextConfig):
        if (value := getattr(config.text, field.name)) != field.default:
            name = field.name.replace("_", "-")
            raise UserError(f"--{name} {value} is for plain text, and {config.source} contains {manifest['kind']}")
    if not 1 <= config.shards <= max(1, manifest["out"]):
        raise UserError(f"--shards {config.shards}: must be from 1 to the number of records, {manifest['out']}")
    if not manifest["out"]:
        raise UserError(f"{config.source} contains no records: see its rejected.parquet")
    verified_files(config.source, manifest)
    # Hash of the data files only: the manifest also contains run times, which vary.
    content = text_hash(*(file["sha256"] for file in manifest["files"]))
    return Source(manifest["kind"], {str(config.source): content}, manifest)


def template_of(config: PackConfig, source: Source) -> str:
    """The template for the source, with numbers if its answers cite. Raises UserError if one does not go with it."""
    cites = source.manifest.get("cites", False)
    template = load_template(config.prompt_template, cites)
    has_answers = source.kind in ("instructions", "pairs")
    if has_answers and shows_numbers(template) != cites:
        answers, field = ("cite", "{numbered_note}") if cites else ("do not cite", "{note}")
        raise UserError(
            f"--prompt-template {config.prompt_template}: the answers of {config.source} {answers} the numbers of the "
            f"note's sentences, so the template must contain {field}"
        )
    return template


@contextmanager
def jobs_of(
    config: PackConfig, source: Source, template: str, folder: Path, part: Part | None = None
) -> Iterator[list[Job]]:
    """The jobs of all shards, or of those of one part, which write to `folder`; their spool files exist meanwhile."""
    own = [shard for shard in range(config.shards) if part is None or part.has(shard)]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if source.corpus:
            spool(source.corpus, config.text, config.shards, Path(scratch), frozenset(own))
            ranges: list[FileRanges] = [((spool_file(Path(scratch), shard), 0, 0),) for shard in range(config.shards)]
        else:
            ranges = split_files(config.source, source.manifest, config.shards)
        yield [
            Job(
                index=shard,
                shards=config.shards,
                kind=source.kind,
                files=ranges[shard],
                tokenizer=config.tokenizer,
                row_length=config.row_length,
                template=template,
                shared_loss=config.shared_tokens == "loss",
                folder=folder,
            )
            for shard in own
        ]


def facts_of(
    results: list[ShardResult], config: PackConfig, source: Source, tokenizer: Tokenizer, template: str
) -> dict[str, Any]:
    """Entries of the manifest. Raises UserError if there are no rows."""
    rows = sum(result.rows for result in results)
    if not rows:
        raise UserError(f"no record of {config.source} fits a row of {config.row_length}: raise --row-length")
    tokens = sum(result.tokens for result in results)
    facts: dict[str, Any] = {
        "phase": PHASES[source.kind],
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
    if source.kind == "pairs":
        facts |= {"pairs": sum(result.tally.pairs for result in results), "shared_tokens": config.shared_tokens}
    return facts


def pack_part(config: PackConfig, part: Part, source: Source, template: str, tokenizer: Tokenizer) -> None:
    """Pack the shards of one part. What shards have in common, such as the number of rows, is left to the join."""
    if part.number == 0:
        raise UserError(f"--part {config.part}: packing has nothing that all parts share; begin with 1/{part.count}")
    with (
        writing_part(part, config.out, "pack", config, source.inputs) as writer,
        jobs_of(config, source, template, writer.path, part) as jobs,
    ):
        for job, result in zip(jobs, run_jobs(jobs, config.workers), strict=True):
            writer.add_file(result.name, result.rows)
            writer.facts["shards"][str(job.index)] = as_json(result)
        writer.facts["tokenizer_hash"] = tokenizer.hash
    print(f"packed part {part.number} of {part.count}: {len(jobs)} of {config.shards} shards")


def results_of_parts(folders: tuple[Path, ...], out: Path) -> list[ShardResult]:
    """The results of all shards in order, with their files copied to `out`."""
    parts = read_parts(folders)
    found: dict[int, ShardResult] = {}
    for folder, manifest in zip(parts.folders, parts.manifests, strict=True):
        for number, stored in manifest["shards"].items():
            found[int(number)] = from_json(stored, ShardResult)
            shutil.copyfile(folder / found[int(number)].name, out / found[int(number)].name)
    return [found[number] for number in sorted(found)]


def split_files(source: Path, manifest: dict[str, Any], shards: int) -> list[FileRanges]:
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
