"""Convert a data set in the published columns, `patient_id, note, question, answer, task`, to a folder of instructions.

asclepius adopt --source synthetic.csv --out data/instructions --licence "CC BY-NC-SA 4.0"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import TASKS, Example, Generation, Reject, Turn, file_hash, text_hash
from data_prep.contract.tables import Row, files_of, looks_like_hub_id, open_hub, rows_of

COLUMNS = ("patient_id", "note", "question", "answer", "task")
TASK_NAMES = {task.lower(): task for task in TASKS}
SHARD_RECORDS = 10_000
GENERATION = Generation("adopted", "unknown", "", 0, "stop")


@dataclass(frozen=True)
class AdoptConfig:
    source: str
    """A .csv, .json, .jsonl or .parquet file, a folder of them, or the id of a data set on the Hugging Face hub."""

    out: Path
    """Output folder of instructions; a finished folder of the same kind is replaced."""

    licence: str = "unknown"
    """Licence to record for the records."""

    source_name: str = ""
    """Source to record for the records; empty for the file's name."""

    limit: int = 0
    """Number of records after which to stop; 0 reads all."""


def open_source(source: str) -> tuple[str, Iterator[Row], str]:
    """The name, the rows and the content hash of a source. Raises UserError if it does not exist."""
    path = Path(source)
    if path.exists():
        files = files_of(path)
        return path.stem, rows_of(files), text_hash(*(file_hash(file) for file in files))
    if looks_like_hub_id(source):
        rows, version = open_hub(source)
        return source, rows, version
    raise UserError(f"{source}: no such file or folder")


def check_columns(values: Mapping[str, Any], place: str) -> None:
    missing = [column for column in COLUMNS if column not in values]
    if missing:
        raise UserError(f"{place}: no column {', '.join(missing)} among {', '.join(map(str, values))}")


def to_example(values: Mapping[str, Any], config: AdoptConfig, name: str) -> Example:
    """Convert a row to an example. Raises ValueError, with the reason for the reject, if the row is unusable."""
    texts = {column: str(values[column] if values[column] is not None else "").strip() for column in COLUMNS}
    if texts["task"].lower() not in TASK_NAMES:
        raise ValueError("unknown_task")
    if not all(texts.values()):
        raise ValueError("empty")
    note_id = text_hash(texts["patient_id"], texts["note"])
    turns = tuple(
        Turn(turn["task"], turn["question"].strip(), turn["answer"].strip(), GENERATION, GENERATION)
        for turn in values.get("follow_ups") or ()
    )
    return Example(
        id=f"{texts['patient_id']}-{text_hash(texts['note'], texts['question'])}",
        note_id=note_id,
        report_id=texts["patient_id"],
        task=TASK_NAMES[texts["task"].lower()],
        note=texts["note"],
        question=texts["question"],
        answer=texts["answer"],
        source=config.source_name or name,
        licence=config.licence,
        article=str(values.get("article") or "").strip(),
        question_generation=GENERATION,
        answer_generation=GENERATION,
        follow_ups=turns,
        note_type=str(values.get("note_type") or "").strip(),
    )


def run(config: AdoptConfig) -> None:
    """Write the folder of instructions. Raises UserError for errors that the user can fix."""
    name, rows, content = open_source(config.source)
    with writing_folder(config.out, "instructions", {config.source: content}) as writer:
        shard: list[Example] = []
        seen: set[str] = set()
        for row in rows:
            writer.counts["in"] += 1
            if row.values is None:
                writer.reject([Reject(row.place, "malformed", row.error, row.raw.encode(errors="replace").decode())])
                continue
            check_columns(row.values, row.place)
            try:
                example = to_example(row.values, config, name)
            except ValueError as error:
                writer.reject([Reject(row.place, str(error), f"task {row.values['task']!r}", repr(dict(row.values)))])
                continue
            if example.id in seen:
                writer.reject([Reject.of(example, "duplicate", row.place)])
                continue
            seen.add(example.id)
            shard.append(example)
            if len(shard) == SHARD_RECORDS:
                writer.add_shard(shard, Example)
                shard = []
            if config.limit and len(seen) >= config.limit:
                break
        if shard:
            writer.add_shard(shard, Example)
        if not writer.shards:
            raise UserError(f"{config.source} contains no valid record in the published columns: {', '.join(COLUMNS)}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.reasons.items())) or "none"
    print(f"adopt: {writer.counts['in']} rows, {writer.counts['out']} examples, rejected: {rejected} -> {config.out}")
