"""Readings of each judge's scores that show what a mean hides, and how far its verdicts follow the order."""

import math
from typing import Any

from asclepius_jax.evaluate.judge.fairness import declined, length_adjusted, readings
from asclepius_jax.evaluate.judge.position_bias import position_bias
from asclepius_jax.evaluate.report.results import Results, Table, asked_of


def readings_of(results: Results, table: Table, baseline: str) -> dict[str, Any]:
    """By judge: `models` with bounds for missing verdicts, failed and declined answers, and `length_adjusted`."""
    figures: dict[str, Any] = {}
    for judge, by_model in table.items():
        questions = asked_of(table, judge, results.questions)
        scores = {
            model: {name: verdict.score for name, verdict in found.items() if not math.isnan(verdict.score)}
            for model, found in by_model.items()
        }
        lost = {model: {name: verdict.missing for name, verdict in found.items()} for model, found in by_model.items()}
        models = {
            model: readings(given, lost[model], results.answers.get(model, {}), questions)
            | (declined(given, results.answers[model], questions) if model in results.answers else {})
            for model, given in scores.items()
        }
        known = {model: given for model, given in scores.items() if model in results.answers}
        figures[judge] = {"models": models}
        if baseline in known and len(known) > 1:
            figures[judge]["length_adjusted"] = length_adjusted(known, results.answers, questions, baseline)
    return figures


def positions_of(results: Results) -> dict[str, Any]:
    """Position bias of each judge on the answers of this page."""
    units = {question.id: question.cluster for question in results.questions.values()}
    return {each.name: position_bias(each.judgements, units) for each in results.judged}
