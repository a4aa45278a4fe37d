"""Score answers against reference answers, as a table of figures with note-clustered intervals.

    asclepius evaluate score --questions evaluation/questions --answers evaluation/answers --json figures.json

Unreadable answers are counted and left out of the figures; a second column counts them as wrong. Questions whose answer
is missing or an error, or whose prompt was too long, are counted and left out as well.
`asclepius evaluate report --measured figures.json` shows the table.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from asclepius_jax.evaluate.answers.answers import found_folders
from asclepius_jax.evaluate.known_answers.scorers import SCORERS, Sums
from asclepius_jax.evaluate.questions.datasets.references import load
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records, unit_of
from asclepius_jax.evaluate.statistics.estimates import SHARE, Estimate, Rate, rate, ratio_of_sums
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably
from data_prep.contract.prompt.cited_sentences import without_citations

TITLE = "Scores against reference answers"
ABOUT = (
    "Intervals are 95 % and clustered by {}. Unparsable answers are left out, except in the last column, which counts "
    "them as wrong."
)
COLUMNS = ("model", "task", "figure", "value", "answers", "units", "unparsable as wrong")
UNPARSABLE = "left out of the figures; with_unparsable_as_wrong counts them as answers that name nothing"


@dataclass(frozen=True)
class ScoreConfig:
    questions: Path
    """Folder of questions with references."""

    answers: Path
    """Folder of answers to these questions, or a folder with one such folder per model."""

    json: Path | None = None
    """JSON file to write the figures to. Without it, the table is only printed."""

    by: Literal["task", "note_type", "source", "year"] = "task"
    """Column of the questions by which each task is sliced. task means no slices."""


class Scored(NamedTuple):
    """Contribution of one answer to each figure."""

    cluster: tuple[str, str]
    sums: Sums | None  # None if the answer could not be read
    if_wrong: Sums  # contribution of an answer that names nothing


@dataclass(frozen=True)
class Figure:
    estimate: Estimate
    with_unparsable_as_wrong: float | None


@dataclass(frozen=True)
class Slice:
    """Figures of one model's answers to one task or slice of it."""

    model: str
    task: str
    slice: str  # value of the --by column; empty for the whole task
    questions: int
    unanswered: int  # questions without an answer
    errors: int  # answers that failed or whose prompt was too long
    cut: int  # answers that ended at the length limit; they are scored
    unparsable: Rate
    figures: dict[str, Figure]


def score_answer(question: Question, text: str) -> Scored:
    text = without_citations(text)
    reference = load(question.reference)
    scorer = SCORERS[reference["kind"]]
    # An answer that repeats the reference is right, whatever form the reference has: it is the upper bound.
    repeats = text.strip() == question.reference.strip()
    read = scorer.known(reference) if repeats else scorer.read(text, reference, question.note)
    if_wrong = scorer.sums(scorer.empty, reference)
    return Scored(question.cluster, None if read is None else scorer.sums(read, reference), if_wrong)


def figure_of(name: str, scored: Sequence[Scored]) -> Figure:
    def row(sums: Sums | None) -> tuple[float, float]:
        return (math.nan, math.nan) if sums is None else sums.get(name, (0.0, 0.0))

    columns = np.asarray([row(answer.sums) for answer in scored])
    estimate = ratio_of_sums(columns[:, 0], columns[:, 1], [answer.cluster for answer in scored], SHARE)
    harsh = np.asarray([row(answer.if_wrong if answer.sums is None else answer.sums) for answer in scored]).sum(0)
    return Figure(estimate, float(harsh[0] / harsh[1]) if harsh[1] else None)


def figures_of(key: tuple[str, str, str], questions: Sequence[Question], answers: dict) -> Slice:
    """Figures of one (model, task, slice value). answers: by (question id, model)."""
    model, task, value = key
    given: list[tuple[Question, Answer]] = []
    for question in questions:
        answer = answers.get((question.id, model))
        if answer is not None:
            given.append((question, answer))
    usable = [(question, answer) for question, answer in given if answer.finish_reason not in NO_ANSWER]
    scored = [score_answer(question, answer.text) for question, answer in usable]
    names = dict.fromkeys(name for answer in scored for name in answer.if_wrong)
    return Slice(
        model,
        task,
        value,
        len(questions),
        len(questions) - len(given),
        len(given) - len(usable),
        sum(answer.finish_reason == "length" for _, answer in usable),
        rate([answer.sums is None for answer in scored], [answer.cluster for answer in scored]),
        {name: figure_of(name, scored) for name in names},
    )


def checked(questions: Iterable[Question], answers: Iterable[Answer]) -> tuple[list[Question], dict]:
    """Questions with a reference, and answers by (question id, model). Raises UserError if their ids do not match."""
    by_id: dict[str, Question] = {}
    for question in questions:
        if question.id in by_id:
            raise UserError(f"--questions contains {question.id} twice: ids must be unique")
        by_id[question.id] = question
    found: dict[tuple[str, str], Answer] = {}
    unknown: list[str] = []
    for answer in answers:
        if answer.question_id not in by_id:
            unknown.append(answer.question_id)
        elif (answer.question_id, answer.model) in found:
            raise UserError(f"{answer.model} answers question {answer.question_id} twice: keep one of the answers")
        found[answer.question_id, answer.model] = answer
    if unknown:
        raise UserError(f"{len(unknown)} answers are to questions not in --questions, such as {unknown[0]}")
    if not found:
        raise UserError("--answers contains no answers")
    with_reference = [question for question in by_id.values() if question.reference]
    if not with_reference:
        raise UserError("no question has a reference answer to score against: use a judge for these answers")
    return with_reference, found


def score(questions: Iterable[Question], answers: Iterable[Answer], config: ScoreConfig) -> list[Slice]:
    """Figures of every model, task and slice, in the order of the questions."""
    with_reference, found = checked(questions, answers)
    groups: dict[tuple[str, str, str], list[Question]] = {}
    for model in dict.fromkeys(answer.model for answer in found.values()):
        for question in with_reference:
            groups.setdefault((model, question.task, ""), []).append(question)
            if config.by != "task":
                value = getattr(question, config.by) or "unknown"
                groups.setdefault((model, question.task, value), []).append(question)
    return [figures_of(key, members, found) for key, members in groups.items()]


def value_text(figure: Estimate | Rate) -> str:
    """Value and interval for the table. The JSON contains the reasons for undefined ones."""
    if figure.value is None:
        return "undefined"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f} [undefined]"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def as_table(slices: Sequence[Slice]) -> list[list[str]]:
    """Table for the report, one row per figure."""
    rows = []
    for each in slices:
        task = f"{each.task}: {each.slice}" if each.slice else each.task
        rows.append([each.model, task, "unparsable", value_text(each.unparsable), str(each.unparsable.n), "", ""])
        for name, figure in each.figures.items():
            estimate, harsh = figure.estimate, figure.with_unparsable_as_wrong
            wrong = "" if harsh is None else f"{harsh:.3f}"
            rows.append([each.model, task, name, value_text(estimate), str(estimate.n), str(estimate.clusters), wrong])
    return rows


def show(slices: Sequence[Slice], unit: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"95 % intervals by {unit}; only the last column counts unparsable answers, as wrong")
    for name in COLUMNS[:3]:
        table.add_column(name, overflow="fold")
    for name in COLUMNS[3:]:
        table.add_column(name, justify="right", overflow="fold")
    for each in slices:
        names = (escape(each.model), escape(f"{each.task}: {each.slice}" if each.slice else each.task))
        unparsable = escape(value_text(each.unparsable))
        table.add_row(*names, "unparsable", unparsable, str(each.unparsable.n), "", "", style="dim")
        for name, figure in each.figures.items():
            estimate, harsh = figure.estimate, figure.with_unparsable_as_wrong
            wrong = "" if harsh is None else f"{harsh:.3f}"
            table.add_row("", "", name, escape(value_text(estimate)), str(estimate.n), str(estimate.clusters), wrong)
        if each.unanswered or each.errors or each.cut:
            counts = f"{each.unanswered} unanswered, {each.errors} errors, {each.cut} cut at the length limit"
            table.add_row("", "", "", f"of {each.questions}: {counts}", style="dim")
        table.add_section()
    Console().print(table)


def as_json(slices: Sequence[Slice], without_reference: int, unit: str) -> dict[str, Any]:
    return {
        "title": TITLE,
        "about": ABOUT.format(unit),
        "columns": list(COLUMNS),
        "table": as_table(slices),
        "interval": f"95 %, clustered by {unit}; the method stands with each figure",
        "unparsable": UNPARSABLE,
        "questions_without_reference": without_reference,
        "slices": [asdict(each) for each in slices],
    }


def answers_of(folder: Path) -> Iterator[Answer]:
    """Answers in a finished folder, or in the finished folders inside it."""
    for finished in found_folders([folder]):
        yield from read_records(finished, "answers", Answer)


def run(config: ScoreConfig) -> None:
    """Print the table and write the JSON. Raises UserError for invalid options or input."""
    questions = list(read_records(config.questions, "questions", Question))
    slices = score(questions, answers_of(config.answers), config)
    without = sum(not question.reference for question in questions)
    unit = unit_of(questions)
    show(slices, unit)
    if without:
        print(f"score: {without} of {len(questions)} questions have no reference and are not scored")
    if config.json:
        figures = as_json(slices, without, unit)
        write_durably(config.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
