"""Compare models: against a baseline, or every pair, with Holm's correction over all tests of the stated family.

The family is the endpoint's: the comparisons of models by one judge, over all questions and, for mean scores, over each
task. Whatever is compared beside it (other judges, the other figure) is exploratory and gets no adjusted p value.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asclepius_jax.evaluate.protocol.prespecification import MEAN_SCORE, UNACCEPTABLE
from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.results import MISSING, Joined, Table
from asclepius_jax.evaluate.statistics.comparisons import by_holm, compare, equivalent
from asclepius_jax.evaluate.statistics.estimates import SCALE, SHARE, scores
from asclepius_jax.evaluate.statistics.power import detectable_difference


@dataclass(frozen=True)
class Endpoint:
    """What the family of tests consists of."""

    judge: str  # whose scores are compared
    figure: str = MEAN_SCORE
    with_tasks: bool = True  # each task is tested, besides all questions; mean scores only


# name of a comparison -> the first model and the second, with which it is compared
Pairs = Mapping[str, tuple[str, str]]


def score_column(by_question: Mapping[str, Joined], ids: Iterable[str]) -> np.ndarray:
    return scores([by_question.get(name, MISSING).score for name in ids])


def unacceptable_column(by_question: Mapping[str, Joined], ids: Iterable[str]) -> np.ndarray:
    return np.asarray([by_question.get(name, MISSING).unacceptable for name in ids])


def pairs_of_models(models: Sequence[str], baseline: str, pairwise: bool) -> Pairs:
    """Pairs of models to compare: each with the baseline, or every two models."""
    if pairwise:
        return {f"{first} against {second}": (first, second) for first, second in itertools.combinations(models, 2)}
    return {model: (model, baseline) for model in models if model != baseline} if baseline else {}


def comparisons_of(
    table: Table, questions: Mapping[str, Question], pairs: Pairs, margin: float, endpoint: Endpoint
) -> dict[str, Any]:
    """Comparisons by judge and pair of models: difference, test, equivalence, and the same by task."""
    compared: dict[str, Any] = {}
    for judge, by_model in table.items():
        rows = {
            name: {
                "first": first,
                "second": second,
                "exploratory": judge != endpoint.judge,
                **comparison(by_model[first], by_model[second], questions, margin),
            }
            for name, (first, second) in pairs.items()
            if first in by_model and second in by_model
        }
        if rows:
            compared[judge] = rows
    if endpoint.judge in compared:
        adjust(compared[endpoint.judge], endpoint)
    return compared


def comparison(
    first: Mapping[str, Joined], second: Mapping[str, Joined], questions: Mapping[str, Question], margin: float
) -> dict[str, Any]:
    clusters = [question.cluster for question in questions.values()]
    columns = score_column(first, questions), score_column(second, questions)
    by_task: dict[str, Any] = {}
    for task in sorted({question.task for question in questions.values()}):
        ids = [name for name, question in questions.items() if question.task == task]
        of_task = [questions[name].cluster for name in ids]
        found = compare(score_column(first, ids), score_column(second, ids), of_task, SCALE)
        by_task[task] = {"difference": asdict(found.difference), "p": found.sign_flip.p, "p_holm": None}
    unacceptable = unacceptable_column(first, questions), unacceptable_column(second, questions)
    return {
        **asdict(compare(*columns, clusters, SCALE)),
        "p_holm": None,
        "equivalence": asdict(equivalent(*columns, clusters, margin)),
        "unacceptable": {**asdict(compare(*unacceptable, clusters, SHARE)), "p_holm": None, "exploratory": True},
        "detectable": asdict(detectable_difference(*columns, clusters)),
        "tasks": by_task,
    }


def tests_of(rows: Mapping[str, dict[str, Any]], endpoint: Endpoint) -> dict[tuple[str, str], float | None]:
    """p values of the family by (pair, task), in which the task is empty for all questions.

    With one task only, the task's test is that of all questions and is not counted again."""
    if endpoint.figure == UNACCEPTABLE:
        return {(name, ""): row["unacceptable"]["sign_flip"]["p"] for name, row in rows.items()}
    family = {(name, ""): row["sign_flip"]["p"] for name, row in rows.items()}
    for name, row in rows.items():
        if len(row["tasks"]) > 1 and endpoint.with_tasks:
            family |= {(name, task): part["p"] for task, part in row["tasks"].items()}
    return family


def adjust(rows: Mapping[str, dict[str, Any]], endpoint: Endpoint) -> None:
    """Write Holm's adjusted p values of one family."""
    holm = by_holm(tests_of(rows, endpoint))
    for name, row in rows.items():
        if endpoint.figure == UNACCEPTABLE:
            row["unacceptable"] |= {"p_holm": holm[name, ""], "exploratory": False}
            continue
        row["p_holm"] = holm[name, ""]
        for task, part in row["tasks"].items():
            part["p_holm"] = holm.get((name, task), row["p_holm"] if len(row["tasks"]) == 1 else None)


def family_of(compared: Mapping[str, Any], endpoint: Endpoint, baseline: str) -> dict[str, Any]:
    """The family of tests that are corrected for each other, in words and numbers."""
    rows = compared.get(endpoint.judge, {})
    tests = tests_of(rows, endpoint)
    tasks = len({task for _, task in tests if task})
    return {
        "judge": endpoint.judge,
        "figure": endpoint.figure,
        "models": f"each model against {baseline}" if baseline else "every pair of models",
        "questions": f"all questions and each of {tasks} tasks" if tasks else "all questions",
        "tests": sum(p is not None for p in tests.values()),
        "correction": "Holm",
    }
