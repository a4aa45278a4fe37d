"""Compare models: against a baseline, or every pair, with Holm's correction over all tests of the stated family.

The family is the main judge's comparisons of models, over all questions and over each task. Whatever is compared beside
it (other judges, shares of unacceptable answers) is exploratory and gets no adjusted p value.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.results import MISSING, Joined, Table
from asclepius_jax.evaluate.statistics.comparisons import by_holm, compare, equivalent
from asclepius_jax.evaluate.statistics.estimates import SCALE, SHARE, scores
from asclepius_jax.evaluate.statistics.power import detectable_difference

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
    table: Table, questions: Mapping[str, Question], pairs: Pairs, margin: float, main: str
) -> dict[str, Any]:
    """Comparisons by judge and pair of models: difference, test, equivalence, and the same by task."""
    compared: dict[str, Any] = {}
    for judge, by_model in table.items():
        rows = {
            name: {
                "first": first,
                "second": second,
                "exploratory": judge != main,
                **comparison(by_model[first], by_model[second], questions, margin),
            }
            for name, (first, second) in pairs.items()
            if first in by_model and second in by_model
        }
        if rows:
            compared[judge] = rows
    if main in compared:
        adjust(compared[main])
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
        "unacceptable": {**asdict(compare(*unacceptable, clusters, SHARE)), "exploratory": True},
        "detectable": asdict(detectable_difference(*columns, clusters)),
        "tasks": by_task,
    }


def adjust(rows: Mapping[str, dict[str, Any]]) -> None:
    """Write Holm's adjusted p values of one family: every pair over all questions and over each task.

    With one task only, the task's test is that of all questions and is not counted again."""
    family = {(name, ""): row["sign_flip"]["p"] for name, row in rows.items()}
    for name, row in rows.items():
        if len(row["tasks"]) > 1:
            family |= {(name, task): part["p"] for task, part in row["tasks"].items()}
    holm = by_holm(family)
    for name, row in rows.items():
        row["p_holm"] = holm[name, ""]
        for task, part in row["tasks"].items():
            part["p_holm"] = holm.get((name, task), row["p_holm"])


def family_of(compared: Mapping[str, Any], main: str, baseline: str) -> dict[str, Any]:
    """The family of tests that are corrected for each other, in words and numbers."""
    rows = compared.get(main, {})
    tasks = max((len(row["tasks"]) for row in rows.values()), default=0)
    tests = [row["sign_flip"]["p"] for row in rows.values()]
    tests += [part["p"] for row in rows.values() if len(row["tasks"]) > 1 for part in row["tasks"].values()]
    return {
        "judge": main,
        "models": f"each model against {baseline}" if baseline else "every pair of models",
        "questions": f"all questions and each of {tasks} tasks" if tasks > 1 else "all questions",
        "tests": sum(p is not None for p in tests),
        "correction": "Holm",
    }
