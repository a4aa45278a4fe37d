"""Agreement between judges, between clinicians, of judges with clinicians, and of each with itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asclepius_jax.evaluate.judge.calibration import retest
from asclepius_jax.evaluate.report.judges.judge_errors import Flags, Item, joined_flags
from asclepius_jax.evaluate.report.results import CLINICIANS, MISSING, Cluster, Results, Table
from asclepius_jax.evaluate.statistics.agreement import (
    against_other_raters,
    correlations,
    krippendorff_alpha,
    quadratic_kappa,
    within_groups,
)
from asclepius_jax.evaluate.statistics.estimates import rate, scores
from data_prep.contract.errors import UserError


def agreement_of(results: Results, table: Table) -> dict[str, Any]:
    """All figures of agreement."""
    units = {question.id: question.cluster for question in results.questions.values()}
    figures: dict[str, Any] = {
        "retest": {each.name: votes for each in results.judged if (votes := retest(each.judgements, units))},
    }
    items = items_of(table)
    names = [each.name for each in results.judged]
    if len(names) > 1:
        figures["judges"] = alpha([score_row(table, judge, items) for judge in names], units, items)
    raters = sorted({rating.rater for rating in results.ratings})
    if raters:
        given = {(r.rater, r.model, r.question_id, r.repeat): r.score for r in results.ratings}
        rows = [[float(given.get((rater, m, q, 0), 0)) for m, q in items] for rater in raters]
        figures["clinicians"] = alpha(rows, units, items)
        repeated = [(rater, m, q) for rater, m, q, repeat in given if repeat]
        if repeated:
            pairs = [[float(given.get((*key, again), 0)) for key in repeated] for again in (0, 1)]
            figures["same_clinician"] = alpha(pairs, units, [(m, q) for _, m, q in repeated])
        figures["incorrect_by_clinicians"] = {
            each.name: judge_accuracy(joined_flags(results.first_ratings), joined_flags(each.judgements), units)
            for each in results.judged
        }
        figures["with_clinicians"] = {
            judge: with_clinicians(table, judge, items, units) for judge in table if judge != CLINICIANS
        }
        figures["ceiling"] = {
            judge: ceiling(table, judge, rows, items, units) for judge in table if judge != CLINICIANS
        }
    return figures


def items_of(table: Table) -> list[Item]:
    """All answers with a verdict, in order."""
    return sorted(
        {(model, question) for by_model in table.values() for model, found in by_model.items() for question in found}
    )


def score_row(table: Table, judge: str, items: Sequence[Item]) -> list[float]:
    by_model = table.get(judge, {})
    return [by_model.get(model, {}).get(question, MISSING).score for model, question in items]


def judge_accuracy(clinicians: Flags, judge: Flags, units: Mapping[str, Cluster]) -> dict[str, Any]:
    """Sensitivity and specificity of a judge's `incorrect` flag against the clinicians' majority.

    An answer on which the clinicians tie is neither right nor wrong: it is
    left out and counted. A judge whose own votes tie finds half of the error."""
    both = [answer for answer in clinicians if answer in judge]
    wrong = [answer for answer in both if clinicians[answer] == 1]
    right = [answer for answer in both if clinicians[answer] == 0]
    return {
        "sensitivity": asdict(rate([judge[a] for a in wrong], [units[question] for _, question in wrong])),
        "specificity": asdict(rate([1 - judge[a] for a in right], [units[question] for _, question in right])),
        "clinicians_tie": len(both) - len(wrong) - len(right),
    }


def with_clinicians(table: Table, judge: str, items: Sequence[Item], units: Mapping[str, Cluster]) -> dict[str, Any]:
    """Correlations over all answers and within models, and kappa. Only the models' quality shows over all answers."""
    by_clinicians, by_judge = (scores(score_row(table, name, items)) for name in (CLINICIANS, judge))
    clusters, models = [units[question] for _, question in items], [model for model, _ in items]
    fields = fields_of(lambda: correlations(by_judge, by_clinicians, clusters))
    kappa = fields_of(lambda: quadratic_kappa(by_judge, by_clinicians, clusters))
    return {**fields, "kappa": kappa, "within_models": figures_by_name(by_judge, by_clinicians, models, clusters)}


def figures_by_name(*columns: Any) -> dict[str, Any]:
    try:
        return {name: asdict(estimate) for name, estimate in within_groups(*columns).items()}
    except UserError as error:
        return {"undefined": str(error)}


def ceiling(
    table: Table, judge: str, by_rater: Sequence[Sequence[float]], items: Sequence[Item], units: Mapping[str, Cluster]
) -> dict[str, Any]:
    """Agreement of a judge, and of a clinician, with the mean of the other clinicians on the same answers."""
    columns = scores(score_row(table, judge, items)), [scores(row) for row in by_rater]
    groups, clusters = [model for model, _ in items], [units[question] for _, question in items]
    try:
        return {name: asdict(each) for name, each in against_other_raters(*columns, groups, clusters).items()}
    except UserError as error:
        return {"undefined": str(error)}


def alpha(rows: Sequence[Sequence[float]], units: Mapping[str, Cluster], items: Sequence[Item]) -> dict[str, Any]:
    clusters = [units[question] for _, question in items]
    return fields_of(lambda: krippendorff_alpha([scores(row) for row in rows], clusters=clusters))


def fields_of(figure: Callable[[], Any]) -> dict[str, Any]:
    """Fields of a figure, or the reason why it is undefined."""
    try:
        return asdict(figure())
    except UserError as error:
        return {"value": None, "undefined": str(error)}
