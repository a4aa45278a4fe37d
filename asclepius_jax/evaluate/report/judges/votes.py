"""How many readable votes stand behind each verdict: a majority of fewer votes is another quantity."""

import math
from collections import Counter, defaultdict
from typing import Any

from asclepius_jax.evaluate.report.results import CLINICIANS, JURY, Results, Table

ALIKE = 0.95  # of the largest number of votes per answer: below this, models are not called alike


def votes_of(results: Results, table: Table) -> dict[str, dict[str, Any]]:
    """By judge: mean number of readable votes per verdict of each model, and a warning where models differ.

    The votes of clinicians are raters, those of a jury are judges. Answers without a verdict do not count."""
    figures = {}
    for judge, by_model in table.items():
        counts = jury_counts(results, table) if judge == JURY else counts_by_answer(results, judge)
        means = {model: sum(given) / len(given) for model in by_model if (given := counts.get(model))}
        figures[judge] = {"per_answer": means, "warning": warning_of(judge, means)}
    return figures


def counts_by_answer(results: Results, judge: str) -> dict[str, list[int]]:
    """Numbers of readable votes on each answer, by model; several samples of a model are several answers."""
    votes = (
        ((r.model, r.model, r.question_id, r.score) for r in results.first_ratings)
        if judge == CLINICIANS
        else (
            (j.variant_of or j.model, j.model, j.question_id, j.score)
            for each in results.judged
            if each.name == judge
            for j in each.judgements
        )
    )
    found = Counter((model, sample, question) for model, sample, question, score in votes if score)
    counts: dict[str, list[int]] = defaultdict(list)
    for (model, _, _), count in found.items():
        counts[model].append(count)
    return counts


def jury_counts(results: Results, table: Table) -> dict[str, list[int]]:
    """Numbers of judges with a verdict on each answer, by model."""
    found = Counter(
        (model, question)
        for each in results.judged
        for model, by_question in table.get(each.name, {}).items()
        for question, verdict in by_question.items()
        if not math.isnan(verdict.score)
    )
    counts: dict[str, list[int]] = defaultdict(list)
    for (model, _), count in found.items():
        counts[model].append(count)
    return counts


def warning_of(judge: str, means: dict[str, float]) -> str:
    if not means:
        return ""
    fewest, most = min(means, key=lambda model: means[model]), max(means, key=lambda model: means[model])
    if means[fewest] >= ALIKE * means[most]:
        return ""
    return (
        f"{judge}: {means[fewest]:.2f} readable votes per answer of {fewest}, {means[most]:.2f} of {most}. A majority "
        "of fewer votes is another quantity: compare the shares of unacceptable and incorrect answers with care."
    )
