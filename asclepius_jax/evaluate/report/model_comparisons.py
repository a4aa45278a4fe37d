"""Compare models: against a baseline, or every pair, with Holm's correction over all tests of the stated family.

The family is the endpoint's: the comparisons of models by one judge, over all questions and, for mean scores, over each
task. Whatever is compared beside it (other judges, the other figure) gets no adjusted p value. All of it is exploratory
until `confirm` says otherwise.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from asclepius_jax.evaluate.protocol.prespecification import MEAN_SCORE, UNACCEPTABLE
from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.results import JURY, MISSING, Joined, Table
from asclepius_jax.evaluate.statistics.comparisons import LEVEL, by_holm, compare, equivalent, paired
from asclepius_jax.evaluate.statistics.estimates import SCALE, SHARE, Column, Estimate, few, scores
from asclepius_jax.evaluate.statistics.intervals import FEWEST_CLUSTERS
from asclepius_jax.evaluate.statistics.power import FEWEST, attainable, detectable_difference


@dataclass(frozen=True)
class Endpoint:
    """Scores that the family of tests compares."""

    judge: str  # whose scores are compared
    figure: str = MEAN_SCORE
    with_tasks: bool = True  # each task is tested, besides all questions; mean scores only
    level: float = LEVEL  # of the family together, and of every equivalence test


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
                "exploratory": True,
                **comparison(by_model[first], by_model[second], questions, (margin, endpoint.level)),
            }
            for name, (first, second) in pairs.items()
            if first in by_model and second in by_model
        }
        if rows:
            compared[judge] = rows
        if judge == endpoint.judge:
            adjust(rows, endpoint)
        add_detectable(rows, by_model, questions, endpoint, judge)
    return compared


def comparison(
    first: Mapping[str, Joined],
    second: Mapping[str, Joined],
    questions: Mapping[str, Question],
    equivalence: tuple[float, float],
) -> dict[str, Any]:
    """Difference, test and equivalence of two models. equivalence: its margin and level."""
    clusters = [question.cluster for question in questions.values()]
    columns = score_column(first, questions), score_column(second, questions)
    by_task: dict[str, Any] = {}
    for task in sorted({question.task for question in questions.values()}):
        ids = [name for name, question in questions.items() if question.task == task]
        of_task = [questions[name].cluster for name in ids]
        found = compare(score_column(first, ids), score_column(second, ids), of_task, SCALE)
        by_task[task] = {
            "difference": asdict(unless_few(found.difference)),
            "p": found.sign_flip.p,
            "p_holm": None,
            "exploratory": True,
        }
    unacceptable = unacceptable_column(first, questions), unacceptable_column(second, questions)
    return {
        **asdict(compare(*columns, clusters, SCALE)),
        "p_holm": None,
        "equivalence": {
            **asdict(equivalent(*columns, clusters, *equivalence)),
            "level": equivalence[1],
            "exploratory": True,  # of no family, and not adjusted
        },
        "unacceptable": {**asdict(compare(*unacceptable, clusters, SHARE)), "p_holm": None, "exploratory": True},
        "tasks": by_task,
    }


def unless_few(difference: Estimate) -> Estimate:
    """A task's difference, suppressed as slices are where it would say something about single patients."""
    if difference.clusters >= FEWEST_CLUSTERS:
        return difference
    why = f"suppressed: fewer than {FEWEST_CLUSTERS} clusters"
    return replace(difference, value=None, low=None, high=None, undefined=why, method="", mark="")


def add_detectable(
    rows: Mapping[str, dict[str, Any]],
    by_model: Mapping[str, Mapping[str, Joined]],
    questions: Mapping[str, Question],
    endpoint: Endpoint,
    judge: str,
) -> None:
    """Write the detectable difference of either figure.

    Of the family's figure it is what Holm's first step detects, whose level is that of the family over the number of
    its tests; of others, what a single test detects."""
    clusters = [question.cluster for question in questions.values()]
    family = sum(p is not None for p in tests_of(rows, endpoint).values()) if judge == endpoint.judge else 0
    for row in rows.values():
        models = by_model[row["first"]], by_model[row["second"]]
        for figure, part, column_of in (
            (MEAN_SCORE, row, score_column),
            (UNACCEPTABLE, row["unacceptable"], unacceptable_column),
        ):
            tests = family if figure == endpoint.figure else 0
            first, second = (column_of(model, questions) for model in models)
            part["detectable"] = detectable_at(endpoint.level / max(tests, 1), first, second, clusters)


def detectable_at(level: float, first: Column, second: Column, clusters: Sequence[Any]) -> dict[str, Any]:
    """Detectable difference at this level, or the reason why a sign-flip test cannot reach it."""
    differences, kept, missing = paired(first, second, clusters)
    count = len(set(kept))
    if count >= FEWEST and not attainable(level, count):
        why = f"{few(count)}: a sign-flip test cannot reach the level {level:.2g}"
        return {**asdict(Estimate(None, None, None, len(differences), count, missing, why)), "level": level}
    return {**asdict(detectable_difference(first, second, clusters, level=level)), "level": level}


def confirm(rows: Mapping[str, dict[str, Any]], endpoint: Endpoint) -> None:
    """Mark the tests of the family as confirmatory."""
    for row in rows.values():
        if endpoint.figure == UNACCEPTABLE:
            row["unacceptable"]["exploratory"] = False
            continue
        row["exploratory"] = False
        for part in row["tasks"].values():
            part["exploratory"] = part["p_holm"] is None


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
            row["unacceptable"]["p_holm"] = holm[name, ""]
            continue
        row["p_holm"] = holm[name, ""]
        for task, part in row["tasks"].items():
            part["p_holm"] = holm.get((name, task), row["p_holm"] if len(row["tasks"]) == 1 else None)


def family_of(compared: Mapping[str, Any], endpoint: Endpoint, baseline: str) -> dict[str, Any]:
    """The family of tests that are corrected for each other, in words and numbers."""
    rows = compared.get(endpoint.judge, {})
    tests = tests_of(rows, endpoint)
    tasks = len({task for (_, task), p in tests.items() if task and p is not None})
    by_task = {0: "", 1: " and one task"}.get(tasks, f" and each of {tasks} tasks")
    return {
        "judge": endpoint.judge,
        "figure": endpoint.figure,
        "models": f"each model against {baseline}" if baseline else "every pair of models",
        "questions": f"all questions{by_task}",
        "tests": sum(p is not None for p in tests.values()),
        "undefined": sum(p is None for p in tests.values()),
        "level": endpoint.level,
        "correction": "Holm",
    }


def shown_of(compared: Mapping[str, Any], table: Table, pairs: Pairs, main: str) -> dict[str, Any]:
    """Judge whose comparisons the page shows: the main one, or another if the main one compares nothing.

    `without`: models of the pairs that the main judge was never asked about."""
    judge = next((name for name in (main, JURY, *compared) if name in compared), "")
    wanted = {model for pair in pairs.values() for model in pair}
    return {"judge": judge, "without": sorted(wanted - table.get(main, {}).keys())}
