"""Convert a data set in the published columns, `patient_id, note, question, answer, task`, to a folder of instructions.

asclepius adopt --source synthetic.csv --out data/instructions --licence "CC BY-NC-SA 4.0"
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest, writing_folder
from data_prep.contract.reading.rows import shown
from data_prep.contract.reading.source_files import content_of, stem_of
from data_prep.contract.records import TASKS, Example, Generation, Reject, Turn, text_hash
from data_prep.contract.tables import Row, cell_text, files_of, is_true, looks_like_hub_id, open_hub, rows_of, storable
from data_prep.ingest.article_ids import article_id
from data_prep.ingest.case_reports import Tally

COLUMNS = ("patient_id", "note", "question", "answer", "task")
TASK_NAMES = {task.lower(): task for task in TASKS}
SHARD_RECORDS = 10_000
GENERATION = Generation("adopted", "unknown", "", 0, "stop")


@dataclass(frozen=True)
class AdoptConfig:
    source: str
    """A .csv, .tsv, .json, .jsonl or .parquet file, a folder of them, or the id of a data set on the Hugging Face hub.
    Text may be compressed (.gz, .bz2, .xz, .zst)."""

    out: Path
    """Output folder of instructions; a finished folder of this kind is replaced, unless it has files of yours."""

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
        if (path / MANIFEST).is_file():
            read_manifest(path, "dataset")  # other finished folders are no published data sets
        files = files_of(path)
        return stem_of(path), rows_of(files), content_of(path, files)
    if looks_like_hub_id(source):
        rows, version = open_hub(source)
        return source, rows, version
    raise UserError(f"{source}: no such file or folder")


def check_columns(values: dict[str, Any], place: str) -> None:
    missing = [column for column in COLUMNS if column not in values]
    if missing:
        raise UserError(f"{place}: no column {', '.join(missing)} among {shown(values)}")


class Unusable(ValueError):
    """A reason to reject a row, other than that it is malformed, and a detail."""


def turns_of(value: Any) -> tuple[Turn, ...]:
    """The follow-up turns in a cell: a list of objects, as text in formats without lists. Raises ValueError."""
    try:
        turns = json.loads(value) if isinstance(value, str) and value.strip() else value or ()
    except ValueError:
        turns = None
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("column 'follow_ups' contains no list of turns")
    texts = [[cell_text(turn.get(name), name) for name in ("task", "question", "answer")] for turn in turns]
    return tuple(Turn(task, question, answer, GENERATION, GENERATION) for task, question, answer in texts)


def to_example(values: dict[str, Any], config: AdoptConfig, name: str) -> Example:
    """Convert a row to an example. Raises Unusable or, if the row is malformed, ValueError, with the reason."""
    texts = {column: cell_text(values[column], column) for column in COLUMNS}
    if texts["task"].lower() not in TASK_NAMES:
        raise Unusable("unknown_task", texts["task"])
    turns = turns_of(values.get("follow_ups"))
    if not all(texts.values()) or not all(turn.task and turn.question and turn.answer for turn in turns):
        raise Unusable("empty", "a text is empty")
    note_id = text_hash(texts["patient_id"], texts["note"])
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
        article=article_id(str(values.get("article") or "")),
        question_generation=GENERATION,
        answer_generation=GENERATION,
        follow_ups=turns,
        note_type=str(values.get("note_type") or "").strip(),
        restricted=is_true(values.get("restricted")),
        cites=is_true(values.get("cites")),
    )


def run(config: AdoptConfig) -> None:
    """Write the folder of instructions. Raises UserError for errors that the user can fix."""
    name, rows, content = open_source(config.source)
    with writing_folder(config.out, "instructions", {config.source: content}) as writer:
        shard: list[Example] = []
        seen: set[str] = set()
        tally = Tally(config.source)
        for row in rows:
            writer.counts["in"] += 1
            try:
                if row.values is None:
                    raise ValueError(row.error)
                check_columns(row.values, row.place)
                example = to_example(row.values, config, name)
                tally.count()
            except UserError:
                raise
            except ValueError as error:
                tally.count("" if isinstance(error, Unusable) else f"{row.place}: {error}")
                raw = row.raw or json.dumps(row.values, ensure_ascii=False, default=str)
                reason, detail = error.args if isinstance(error, Unusable) else ("malformed", str(error))
                writer.reject([Reject(row.place, reason, storable(detail), storable(raw))])
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
        else:
            tally.finish()
        if shard:
            writer.add_shard(shard, Example)
        if not writer.shards:
            raise UserError(f"{config.source} contains no valid record in the published columns: {', '.join(COLUMNS)}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.reasons.items())) or "none"
    print(f"adopt: {writer.counts['in']} rows, {writer.counts['out']} examples, rejected: {rejected} -> {config.out}")
