"""Data sets as instruction sets: every question on its note, with its right answer where the set has one.

    asclepius evaluate benchmark --set maccrobat --source maccrobat/ --out evaluation/questions
    asclepius evaluate benchmark --set mimic-iv --source discharge.csv --out evaluation/questions --limit 500

What a set's files must look like stands at the top of its reader. Notes of the sets that need credentials are marked
as restricted: they go to no endpoint but one of the house's own.
"""

import difflib
import heapq
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from asclepius_jax.evaluate.records import Question
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import writing_folder
from data_prep.contract.records import file_hash, seeded_fraction, text_hash


class Reader(NamedTuple):
    module: str
    function: str  # (source, seed) to questions
    source: str  # what --source names


SHARD_QUESTIONS = 10_000
DATASETS = "asclepius_jax.evaluate.questions.datasets"
SETS = {
    "maccrobat": Reader(f"{DATASETS}.maccrobat", "questions", "the folder of brat's .txt and .ann files"),
    "abbreviations": Reader(f"{DATASETS}.abbreviations", "questions", "a CSV of abbreviation, sense, text"),
    "medec": Reader(f"{DATASETS}.medec", "questions", "a CSV of MEDEC"),
    "aci-bench": Reader(f"{DATASETS}.dialogues", "aci_bench", "a CSV, or the folder that has valid.csv"),
    "mts-dialog": Reader(f"{DATASETS}.dialogues", "mts_dialog", "a CSV, or the folder that has the validation set"),
    "mimic-iii": Reader(f"{DATASETS}.mimic_and_mtsamples", "mimic_iii", "NOTEEVENTS.csv"),
    "mimic-iv": Reader(f"{DATASETS}.mimic_and_mtsamples", "mimic_iv", "discharge.csv"),
    "mtsamples": Reader(f"{DATASETS}.mimic_and_mtsamples", "mtsamples", "mtsamples.jsonl or mtsamples.csv"),
    "i2b2-2010": Reader(f"{DATASETS}.i2b2", "concepts", "the folder of .txt, .con and .rel files"),
    "i2b2-2011": Reader(f"{DATASETS}.i2b2", "coreference", "the folder of .txt and .chains files"),
    "i2b2-2012": Reader(f"{DATASETS}.i2b2", "temporal", "the folder of .xml files"),
    "casi": Reader(f"{DATASETS}.casi", "abbreviations", "the data set's .txt, apart by |"),
    "casi-coreference": Reader(f"{DATASETS}.casi", "coreference", "a CSV of text, pronoun, antecedent"),
    "discq": Reader(f"{DATASETS}.discq", "questions", "the folder of the CSV and of relations_txt/"),
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
    """All questions of `limit` notes; which ones depends on the seed and the notes' ids alone. No more than these are
    held, since a hospital's notes do not fit in memory."""
    if not limit:
        yield from questions
        return
    kept: dict[str, list[Question]] = {}
    farthest: list[tuple[float, str]] = []
    for question in questions:
        note = question.note_id
        if note not in kept:
            entry = (-seeded_fraction(seed, "limit", note), note)
            if len(kept) < limit:
                heapq.heappush(farthest, entry)
            else:
                dropped = heapq.heappushpop(farthest, entry)[1]
                if dropped == note:
                    continue
                del kept[dropped]
            kept[note] = []
        kept[note].append(question)
    for asked in kept.values():
        yield from asked


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
    tasks: Counter[str] = Counter()
    ids: set[str] = set()
    notes: set[str] = set()
    with writing_folder(config.out, "questions", {config.source.name: source_hash(config.source)}) as writer:
        remaining = chosen(made, config.limit, config.seed)
        while shard := list(islice(remaining, SHARD_QUESTIONS)):
            for question in shard:
                if question.id in ids:
                    raise UserError(f"{config.source} has {question.id} twice: ids must be unique")
                ids.add(question.id)
                notes.add(question.note_id)
                tasks[question.task] += 1
            writer.add_shard(shard, Question)  # type: ignore[arg-type]
        if not ids:
            raise UserError(f"{config.source} holds nothing to ask about; --set {config.set} reads {reader.source}")
        writer.counts["in"] = len(ids)
        writer.facts = {"set": config.set, "seed": config.seed, "limit": config.limit, "tasks": dict(tasks)}
    told = ", ".join(f"{count} {task}" for task, count in tasks.items())
    print(f"benchmark: {len(ids)} questions on {len(notes)} notes ({told}) -> {config.out}")
