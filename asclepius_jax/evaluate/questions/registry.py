"""Turn benchmark data sets into questions, with reference answers where the set has them.

    asclepius evaluate benchmark --set maccrobat --source maccrobat/ --out evaluation/questions
    asclepius evaluate benchmark --set mimic-iv --source discharge.csv --out evaluation/questions --limit 500

Each reader's docstring describes the files of its set. Notes of sets that need credentials are marked as restricted and
are sent only to endpoints of one's own institution.
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
    function: str  # takes (source, seed), yields questions
    source: str  # description of --source


SHARD_QUESTIONS = 10_000
DATASETS = "asclepius_jax.evaluate.questions.datasets"
SETS = {
    "maccrobat": Reader(f"{DATASETS}.maccrobat", "questions", "the folder of brat .txt and .ann files"),
    "abbreviations": Reader(f"{DATASETS}.abbreviations", "questions", "a CSV of abbreviation, sense, text"),
    "medec": Reader(f"{DATASETS}.medec", "questions", "a CSV of MEDEC"),
    "aci-bench": Reader(f"{DATASETS}.dialogues", "aci_bench", "a CSV, or the folder with valid.csv"),
    "mts-dialog": Reader(f"{DATASETS}.dialogues", "mts_dialog", "a CSV, or the folder with the validation set"),
    "mimic-iii": Reader(f"{DATASETS}.mimic_and_mtsamples", "mimic_iii", "NOTEEVENTS.csv"),
    "mimic-iv": Reader(f"{DATASETS}.mimic_and_mtsamples", "mimic_iv", "discharge.csv"),
    "mtsamples": Reader(f"{DATASETS}.mimic_and_mtsamples", "mtsamples", "mtsamples.jsonl or mtsamples.csv"),
    "i2b2-2010": Reader(f"{DATASETS}.i2b2", "concepts", "the folder of .txt, .con and .rel files"),
    "i2b2-2011": Reader(f"{DATASETS}.i2b2", "coreference", "the folder of .txt and .chains files"),
    "i2b2-2012": Reader(f"{DATASETS}.i2b2", "temporal", "the folder of .xml files"),
    "casi": Reader(f"{DATASETS}.casi", "abbreviations", "the data set's .txt file, separated by |"),
    "casi-coreference": Reader(f"{DATASETS}.casi", "coreference", "a CSV of text, pronoun, antecedent"),
    "discq": Reader(f"{DATASETS}.discq_and_archehr_qa", "discq", "the folder with the CSV and relations_txt/"),
    "archehr-qa": Reader(f"{DATASETS}.discq_and_archehr_qa", "archehr_qa", "the folder with the .xml and the key"),
}


@dataclass(frozen=True)
class SetConfig:
    set: Annotated[str, tyro.conf.arg(help=f"Data set to read, one of {', '.join(SETS)}.")]

    source: Path
    """File or folder of the data set, as its owners distribute it."""

    out: Path
    """Output folder for the questions. A finished folder of questions is replaced, unless it has files of yours."""

    limit: int = 0
    """Number of notes whose questions are kept, chosen by the seed; 0 keeps all."""

    seed: int = 0
    """Random seed for choosing notes, and for choosing what to ask if a note has more than fits an instruction."""


def chosen(questions: Iterable[Question], limit: int, seed: int) -> Iterator[Question]:
    """All questions of `limit` notes, chosen by the seed and the notes' ids.

    Keeps only these in memory, because a hospital's notes would not fit."""
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
    """Write the folder of questions. Raises UserError for invalid options or input."""
    if config.set not in SETS:
        near = difflib.get_close_matches(config.set, SETS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(SETS)}"
        raise UserError(f"no such --set {config.set}; {remedy}")
    if not config.source.exists():
        raise UserError(f"{config.source}: no such file or folder; --set {config.set} reads {SETS[config.set].source}")
    if config.limit < 0:
        raise UserError(f"--limit {config.limit}: give the number of notes to keep, or 0 for all")
    reader = SETS[config.set]
    found = getattr(importlib.import_module(reader.module), reader.function)(config.source, config.seed)
    tasks: Counter[str] = Counter()
    ids: set[str] = set()
    notes: set[str] = set()
    with writing_folder(config.out, "questions", {config.source.name: source_hash(config.source)}) as writer:
        remaining = chosen(found, config.limit, config.seed)
        while shard := list(islice(remaining, SHARD_QUESTIONS)):
            for question in shard:
                if question.id in ids:
                    raise UserError(f"{config.source} contains {question.id} twice: ids must be unique")
                ids.add(question.id)
                notes.add(question.note_id)
                tasks[question.task] += 1
            writer.add_shard(shard, Question)
        if not ids:
            raise UserError(f"{config.source} yields no questions; --set {config.set} reads {reader.source}")
        writer.counts["in"] = len(ids)
        writer.facts = {"set": config.set, "seed": config.seed, "limit": config.limit, "tasks": dict(tasks)}
    by_task = ", ".join(f"{count} {task}" for task, count in tasks.items())
    print(f"benchmark: {len(ids)} questions on {len(notes)} notes ({by_task}) -> {config.out}")
