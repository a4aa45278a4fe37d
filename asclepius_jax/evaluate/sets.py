"""Data sets as instruction sets: every question on its note, with its right answer where the set has one.

    asclepius evaluate benchmark --set maccrobat --source maccrobat/ --out evaluation/questions
    asclepius evaluate benchmark --set mimic-iv --source discharge.csv --out evaluation/questions --limit 500

What a set's files must look like stands at the top of its reader. Notes of the sets that need credentials are marked
as restricted: they go to no endpoint but one of the house's own.
"""

import difflib
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from asclepius_jax.evaluate.records import Question
from data_prep.folders import writing_folder
from data_prep.records import UserError, file_hash, seeded_fraction, text_hash


class Reader(NamedTuple):
    module: str
    function: str  # (source, seed) to questions
    source: str  # what --source names


GOLD = "asclepius_jax.evaluate.gold"
SETS = {
    "maccrobat": Reader(f"{GOLD}.maccrobat", "questions", "the folder of brat's .txt and .ann files"),
    "abbreviations": Reader(f"{GOLD}.abbreviations", "questions", "a CSV of abbreviation, sense, text"),
    "medec": Reader(f"{GOLD}.errors", "questions", "a CSV of MEDEC"),
    "aci-bench": Reader(f"{GOLD}.dialogues", "aci_bench", "a CSV, or the folder that has valid.csv"),
    "mts-dialog": Reader(f"{GOLD}.dialogues", "mts_dialog", "a CSV, or the folder that has the validation set"),
}


@dataclass(frozen=True)
class SetConfig:
    set: Annotated[str, tyro.conf.arg(help=f"Which data set: one of {', '.join(SETS)}.")]

    source: Path
    """Its file or folder, as its owners hand it out."""

    out: Path
    """The folder of questions to write; a finished one of the same kind is replaced."""

    limit: int = 0
    """Keep the questions of so many notes, chosen by the seed; 0 keeps all."""

    seed: int = 0
    """Chooses the notes, and what is asked where a set has more than fits an instruction."""


def chosen(questions: Iterable[Question], limit: int, seed: int) -> Iterator[Question]:
    """All questions of `limit` notes; which ones depends on the seed and the notes' ids alone."""
    if not limit:
        yield from questions
        return
    kept = list(questions)
    notes = sorted({question.note_id for question in kept}, key=lambda note: seeded_fraction(seed, "limit", note))
    wanted = set(notes[:limit])
    yield from (question for question in kept if question.note_id in wanted)


def source_hash(source: Path) -> str:
    paths = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return text_hash(*(file_hash(path) for path in paths))


def run(config: SetConfig) -> None:
    """Write the folder of questions. UserError for what the caller can mend."""
    if config.set not in SETS:
        near = difflib.get_close_matches(config.set, SETS, 1)
        raise UserError(f"no such --set {config.set}; {f'is it {near[0]}?' if near else 'one of ' + ', '.join(SETS)}")
    if not config.source.exists():
        raise UserError(f"{config.source}: no such file or folder; --set {config.set} reads {SETS[config.set].source}")
    if config.limit < 0:
        raise UserError(f"--limit {config.limit}: give how many notes to keep, or 0 for all")
    reader = SETS[config.set]
    made = getattr(importlib.import_module(reader.module), reader.function)(config.source, config.seed)
    questions = list(chosen(made, config.limit, config.seed))
    if not questions:
        raise UserError(f"{config.source} holds nothing to ask about; --set {config.set} reads {reader.source}")
    if repeated := [name for name, count in Counter(question.id for question in questions).items() if count > 1]:
        raise UserError(f"{config.source} has {repeated[0]} twice ({len(repeated)} such ids): ids must be unique")
    tasks = Counter(question.task for question in questions)
    with writing_folder(config.out, "questions", {config.source.name: source_hash(config.source)}) as writer:
        writer.counts["in"] = len(questions)
        writer.facts = {"set": config.set, "seed": config.seed, "limit": config.limit, "tasks": dict(tasks)}
        writer.add_shard(questions, Question)  # type: ignore[arg-type]
    told = ", ".join(f"{count} {task}" for task, count in tasks.items())
    notes = len({question.note_id for question in questions})
    print(f"benchmark: {len(questions)} on {notes} notes ({told}) -> {config.out}")
