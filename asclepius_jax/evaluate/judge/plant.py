"""Plant errors in answers, to calibrate a judge before relying on it.

    asclepius evaluate plant --source data/split/held_out --medec medec.csv --out calibration

    calibration/questions   calibration/answers   calibration/labels      as many right answers as wrong ones

With `--per-question 4`, every question has four answers, right and wrong ones together, for a judge with `--mode
listwise`.

The errors are those of `synthesize/planted/mutations.py` in right answers, answers cut to about half of their words,
answers given for another patient's note, and sentences with errors written by people, from a file in the layout of
MEDEC (`Error Flag`, `Error Type`, `Error Sentence`, `Corrected Sentence`, `Corrected Text`).
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from asclepius_jax.evaluate.judge.by_rule import familiar
from asclepius_jax.evaluate.records import Answer, Label, Question
from data_prep.clinical_text.sentences import split_sentences
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files, writing_folder, writing_together
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.contract.records import Example, file_hash, read_parquet, seeded_fraction, text_hash
from data_prep.contract.tables import files_of, rows_of
from data_prep.synthesize.planted.mutations import CLASSES, is_true_elsewhere
from data_prep.synthesize.second_reader.verdicts import SAYS_ABSENT

MODEL = "planted"  # model name of the answers; of lists, "planted 1", "planted 2", ...
MOST_IN_LIST = 26  # letters
MEDEC_COLUMNS = ("Error Flag", "Error Type", "Error Sentence", "Corrected Sentence", "Corrected Text")
NAMES = ("drug swapped", "finding invented")  # no error if the note happens to contain the new name
MOST_LEFT = 0.5  # largest share of the words that a cut answer keeps
MOST_SHARED = 0.5  # an answer that shares more of its words with another patient's note may be right there


@dataclass(frozen=True)
class PlantConfig:
    source: Path
    """Finished folder of instructions, whose answers are assumed to be right."""

    out: Path
    """Output folder for `questions`, `answers` and `labels`."""

    medec: Path | None = None
    """CSV file in the layout of MEDEC."""

    per_class: int = 30
    """Number of answers per class of error."""

    per_question: int = 1
    """Number of answers per question, to calibrate a judge with --mode listwise, which should see as many as it does
    in use. At least one of them is right."""

    seed: int = 0
    """Random seed for choosing answers and placing errors."""


Made = tuple[Question, Answer, Label]


def made(example: Example, error: str, shows: str, answer: str) -> Made:
    name = f"{example.id} {error or 'right'}"
    question = question_of(example, name)
    return question, Answer(name, MODEL, answer, "stop"), Label(name, error, shows)


def question_of(example: Example, name: str) -> Question:
    return Question(
        name, example.note_id, example.task, example.note, example.question, example.answer, source=example.source,
        restricted=example.restricted, note_type=example.note_type, report_id=example.report_id,
        article=example.article, teacher=example.answer_generation.model,
    )  # fmt: skip


def mutated(examples: list[Example], seed: int, error: str) -> Iterator[Made]:
    for example in examples:
        planted = CLASSES[error](example.answer, Random(f"{seed} {error} {example.id}"))
        if planted and not (error in NAMES and is_true_elsewhere(planted, example.note)):
            yield made(example, error, "incorrect", planted.text)


def cut(examples: list[Example], seed: int) -> Iterator[Made]:
    """Answers of several sentences or lines without their last ones."""
    for example in examples:
        parts = split_sentences(example.answer)
        total = len(example.answer.split())
        if len(parts) < 3 or total < 20:
            continue
        kept = len(parts)
        while kept > 1 and len(" ".join(parts[:kept]).split()) > MOST_LEFT * total:
            kept -= 1
        short = example.answer[: example.answer.find(parts[kept]) if parts[kept] in example.answer else 0].strip()
        if short:
            yield made(example, "left out", "omitted", short)


def elsewhere(examples: list[Example], seed: int) -> Iterator[Made]:
    """Questions on another patient's note, which does not answer them, with the answer from the original note."""
    for example, other in zip(examples, examples[1:] + examples[:1], strict=True):
        absent = SAYS_ABSENT.search(example.answer)
        if example.report_id == other.report_id or absent or familiar(example.answer, other.note) > MOST_SHARED:
            continue
        unanswerable = replace(
            example,
            note=other.note,
            note_id=other.note_id,
            report_id=other.report_id,
            article=other.article,
            answer="This is not stated in the note.",
            restricted=example.restricted or other.restricted,
        )
        yield made(unanswerable, "not in the note", "unanswerable", example.answer)


def right(examples: list[Example], seed: int) -> Iterator[Made]:
    for example in examples:
        yield made(example, "", "", example.answer)


def lists(examples: list[Example], config: PlantConfig) -> Iterator[Made]:
    """`config.per_question` answers to each question: right ones, and errors of the classes used least so far.

    One is wrong, one is right, and each of the others either by chance. If too few errors fit, right and wrong answers
    alike are repeated, so that the most common answer of a list need not be right.
    """
    makers: list[Callable[..., Iterator[Made]]] = [*(functools.partial(mutated, error=e) for e in CLASSES), cut]
    used: Counter[str] = Counter()
    for example in examples:
        random = Random(f"{config.seed} list {example.id}")
        found = [item for make in makers for item in make([example], seed=config.seed)]
        random.shuffle(found)
        found.sort(key=lambda item: used[item[2].error])
        wrong = [item for item in found if used[item[2].error] < config.per_class]
        if not wrong:
            continue
        texts = [(example.answer, "", "")]
        for place in range(config.per_question - 1):
            if place and random.random() < 0.5:
                texts.append(texts[0])
            else:
                _, answer, label = wrong[place % len(wrong)]
                texts.append((answer.text, label.error, label.shows))
                used[label.error] += 1
        random.shuffle(texts)
        question = question_of(example, f"{example.id} list")
        for number, (text, error, shows) in enumerate(texts, 1):
            model = f"{MODEL} {number}"
            yield question, Answer(question.id, model, text, "stop"), Label(question.id, error, shows, model)


def from_medec(path: Path, seed: int) -> Iterator[Made]:
    """Questions whose answer is, at random, the sentence with the error or its correction."""
    for row in rows_of(files_of(path)):
        values = row.values or {}
        missing = [column for column in MEDEC_COLUMNS if column not in values]
        if missing:
            raise UserError(f"{row.place}: no column {', '.join(missing)}: the file must have the layout of MEDEC")
        if str(values["Error Flag"]).strip() != "1":
            continue
        note, kind = str(values["Corrected Text"]).strip(), str(values["Error Type"]).strip()
        name = f"medec {text_hash(note)}"
        wrong = seeded_fraction(seed, "medec", name) < 0.5
        question = Question(
            name,
            name,
            "Question Answering",
            note,
            f"Quote the sentence of the note that tells the {spoken(kind)}.",
            str(values["Corrected Sentence"]).strip(),
            source="MEDEC",
        )
        answer = str(values["Error Sentence" if wrong else "Corrected Sentence"]).strip()
        label = Label(name, f"MEDEC {kind}", "incorrect") if wrong else Label(name, "", "")
        yield question, Answer(name, MODEL, answer, "stop"), label


def spoken(kind: str) -> str:
    return {"causalOrganism": "causal organism", "causalorganism": "causal organism"}.get(kind, kind or "finding")


def run(config: PlantConfig) -> dict[str, int]:
    """Write the three folders and return the number of answers per class. Raises UserError for invalid options."""
    if config.per_class < 1:
        raise UserError(f"--per-class {config.per_class}: must be at least 1")
    if not 1 <= config.per_question <= MOST_IN_LIST:
        raise UserError(f"--per-question {config.per_question}: must be from 1 to {MOST_IN_LIST}")
    if config.per_question > 1 and config.medec:
        raise UserError("--medec has one answer per question: leave it out with --per-question")
    manifest = read_manifest(config.source, "instructions")
    # A citation is no word to change, and judges are not asked about it.
    examples = [
        replace(example, answer=without_citations(example.answer))
        for path in verified_files(config.source, manifest)
        for example in read_parquet(path, Example)
    ]
    examples.sort(key=lambda example: seeded_fraction(config.seed, "plant", example.id))
    chosen = list(lists(examples, config)) if config.per_question > 1 else singles(examples, config)
    inputs = {str(config.source): text_hash(*(file["sha256"] for file in manifest["files"]))}
    if config.medec:
        if not config.medec.is_file():
            raise UserError(f"--medec {config.medec}: no such file")
        chosen += unique(from_medec(config.medec, config.seed))
        inputs[str(config.medec)] = file_hash(config.medec)
    counts = Counter(label.error or "right" for _, _, label in chosen)
    write(config.out, chosen, inputs)
    by_class = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"plant: {len(chosen)} answers ({by_class}) -> {config.out}", flush=True)
    return counts


def singles(examples: list[Example], config: PlantConfig) -> list[Made]:
    chosen: list[Made] = []
    for error in CLASSES:
        chosen += first(mutated(examples, config.seed, error), config.per_class)
    chosen += first(cut(examples, config.seed), config.per_class)
    chosen += first(elsewhere(examples, config.seed), config.per_class)
    return chosen + first(right(examples, config.seed), max(1, len(chosen)))


def first(found: Iterator[Made], count: int) -> list[Made]:
    return [item for item, _ in zip(found, range(count), strict=False)]


def unique(found: Iterator[Made]) -> list[Made]:
    return list({question.id: (question, answer, label) for question, answer, label in found}.values())


def write(out: Path, chosen: list[Made], inputs: dict[str, str]) -> None:
    columns: dict[str, tuple[type, list[Any]]] = {
        "questions": (Question, list({question.id: question for question, _, _ in chosen}.values())),
        "answers": (Answer, [answer for _, answer, _ in chosen]),
        "labels": (Label, [label for _, _, label in chosen]),
    }
    with writing_together(out, {kind: kind for kind in columns}, inputs) as together:
        for kind, (record_type, records) in columns.items():
            with writing_folder(together / kind, kind, inputs) as writer:
                writer.counts["in"] = len(records)
                writer.add_shard(records, record_type)
