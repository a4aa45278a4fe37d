"""Draw a fixed set of questions about notes.

    asclepius evaluate questions --source data/split/held_out --out evaluation/questions --per-task 60

A source is a folder of instructions, a data set with the published columns (patient_id, note, question, answer, task),
or any table with the columns `note` and `question` (or `instruction`). Of a data set that `asclepius release` wrote,
the split `test` is used if there is one. The choice of questions depends only on the seed and their ids.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.questions.datasets.tables import SURROGATE
from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest, verified_files, writing_folder
from data_prep.contract.reading.rows import shown
from data_prep.contract.reading.source_files import SourceFile, content_of, stem_of
from data_prep.contract.records import TASKS, Example, read_parquet, seeded_fraction, text_hash
from data_prep.contract.tables import files_of, is_true, rows_of
from data_prep.ingest.article_ids import article_id

TASK_NAMES = {task.lower(): task for task in TASKS}
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


@dataclass(frozen=True)
class QuestionsConfig:
    source: Path
    """Finished folder of instructions, or a .csv, .json, .jsonl or .parquet file (or a folder of one of these types)
    with the columns note and question."""

    out: Path
    """Output folder. A finished folder of questions is replaced, unless it contains files of yours."""

    per_task: int = 0
    """Number of questions drawn per task; 0 takes all."""

    reports: Path | None = None
    """File of the case reports, whose column year, date or pub_date gives each question the year of its source."""

    restricted: bool = False
    """Mark all notes as real patient notes, which may be sent only to your own endpoints. Folders of instructions mark
    such notes themselves, and a table may have a column restricted."""

    seed: int = 0
    """Random seed for drawing questions."""


def run(config: QuestionsConfig) -> dict[str, Any]:
    """Write the folder of questions and return its manifest. Raises UserError for invalid options or input."""
    if config.per_task < 0:
        raise UserError(f"--per-task {config.per_task}: must be 0 or above")
    if not config.source.exists():
        raise UserError(f"{config.source}: no such file or folder")
    years = years_of(config.reports) if config.reports else {}
    found, content = read_source(config.source, years)
    if config.restricted:
        found = [replace(question, restricted=True) for question in found]
    if not found:
        raise UserError(f"{config.source} contains no questions")
    repeated = [name for name, count in Counter(question.id for question in found).items() if count > 1]
    if repeated:
        raise UserError(f"{config.source} contains {repeated[0]!r} twice: ids must be unique")
    chosen = draw(found, config.per_task, config.seed)
    with writing_folder(config.out, "questions", {str(config.source): content}) as writer:
        writer.counts["in"] = len(found)
        writer.facts = {"per_task": config.per_task, "seed": config.seed}
        writer.add_shard(chosen, Question)
    tasks = ", ".join(f"{count} {task}" for task, count in Counter(question.task for question in chosen).items())
    print(f"questions: {len(chosen)} of {len(found)} ({tasks}) -> {config.out}", flush=True)
    return read_manifest(config.out, "questions")


def read_source(source: Path, years: Mapping[str, str]) -> tuple[list[Question], str]:
    """All questions of a source, and a hash of its files."""
    manifest = (source / MANIFEST).is_file() and read_manifest(source, "instructions", "dataset")
    if not manifest:
        files = files_of(source)
        return list(of_table(files, stem_of(source), years)), content_of(source, files)
    paths, content = verified_files(source, manifest), text_hash(*(file["sha256"] for file in manifest["files"]))
    if manifest["kind"] == "instructions":
        return [of_example(example, years) for path in paths for example in read_parquet(path, Example)], content
    # Models are trained on the other split.
    held_out = [path for path in paths if path.name.startswith("test-")]
    files = [SourceFile(path, path.name) for path in held_out or paths]
    return list(of_table(files, stem_of(source), years)), content


def draw(questions: list[Question], per_task: int, seed: int) -> list[Question]:
    """Draw `per_task` questions of each task by a hash of their ids. They keep the order of the source."""
    if not per_task:
        return questions
    by_chance = sorted(questions, key=lambda question: seeded_fraction(seed, "question", question.id))
    taken: Counter[str] = Counter()
    kept: set[str] = set()
    for question in by_chance:
        if taken[question.task] < per_task:
            taken[question.task] += 1
            kept.add(question.id)
    return [question for question in questions if question.id in kept]


def of_example(example: Example, years: Mapping[str, str]) -> Question:
    return Question(
        id=example.id,
        note_id=example.note_id,
        task=example.task,
        note=example.note,
        instruction=example.question,
        reference=example.answer,
        note_type=example.note_type,
        source=example.source,
        year=years.get(example.report_id, ""),
        restricted=example.restricted,
        report_id=example.report_id,
        article=article_id(example.article),
        teacher=example.answer_generation.model,
    )


def of_table(files: list[SourceFile], name: str, years: Mapping[str, str]) -> Iterator[Question]:
    for row in rows_of(files):
        if row.values is None:
            raise UserError(f"{row.place}: {row.error}")
        values = {str(key).lower(): "" if value is None else str(value).strip() for key, value in row.values.items()}
        if any(SURROGATE.search(text) for text in values.values()):
            raise UserError(f"{row.place}: not UTF-8; save the file in that encoding")
        column = "question" if "question" in values else "instruction"
        missing = [name for name in ("note", column) if name not in values]
        if missing:
            missing = ["question or instruction" if name == column else name for name in missing]
            raise UserError(f"{row.place}: no column {' and '.join(missing)} among {shown(values)}")
        if not values["note"] or not values[column]:
            raise UserError(f"{row.place}: {'note' if not values['note'] else column} is empty")
        task = values.get("task") or "Question Answering"
        patient = values.get("patient_id", "")
        yield Question(
            id=values.get("id") or f"{patient or name}-{text_hash(values['note'], values[column])}",
            note_id=values.get("note_id") or text_hash(values["note"]),
            task=TASK_NAMES.get(task.lower(), task),
            note=values["note"],
            instruction=values[column],
            reference=values.get("answer") or values.get("reference") or "",
            note_type=values.get("note_type", ""),
            source=values.get("source") or name,
            year=years.get(patient, "") or values.get("year", ""),
            restricted=is_true(values.get("restricted")),
            report_id=patient,
            article=article_id(values.get("article", "")),
            teacher=values.get("teacher", ""),
        )


def years_of(path: Path) -> dict[str, str]:
    """Year of each case report, by report id."""
    if not path.exists():
        raise UserError(f"--reports {path}: no such file")
    years = {}
    for row in rows_of(files_of(path)):
        values = row.values or {}
        date = str(values.get("year") or values.get("date") or values.get("pub_date") or "")
        name = values.get("id") or values.get("patient_uid") or values.get("patient_id")
        if name is not None and (year := YEAR.search(date)):
            years[str(name)] = year[0]
    return years
