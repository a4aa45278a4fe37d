"""The tables of the paper (arXiv 2309.00237), computed as the paper does: every answer counts as independent.

Means and counts over single verdicts, Krippendorff's alpha and correlations without intervals, and plain paired t
tests. They are for comparison with the paper; where questions share a note, their p values are too small.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from asclepius_jax.evaluate.records import Question
from asclepius_jax.evaluate.report.judges.judge_agreement import items_of, score_row
from asclepius_jax.evaluate.report.model_comparisons import Pairs, score_column
from asclepius_jax.evaluate.report.results import CLINICIANS, JURY, Results, Table
from asclepius_jax.evaluate.statistics.agreement import krippendorff_alpha
from asclepius_jax.evaluate.statistics.estimates import scores
from data_prep.contract.errors import UserError

NAMES = {"pearson": "pearsonr", "spearman": "spearmanr", "kendall": "kendalltau"}  # of scipy


def as_in_paper(results: Results, table: Table, pairs: Pairs) -> dict[str, Any]:
    """Scores, paired t tests, alpha and correlations as in the paper."""
    return {
        "scores": scores_in_paper(results),
        "paired_t": {
            judge: {
                name: paired_t(by_model, first, second, results.questions)
                for name, (first, second) in pairs.items()
                if first in by_model and second in by_model
            }
            for judge, by_model in table.items()
            if judge != JURY
        },
        "alpha": alphas(results, table),
        "correlations": {
            judge: correlations_in_paper(table, judge) for judge in table if CLINICIANS in table and judge != CLINICIANS
        },
    }


def scores_in_paper(results: Results) -> dict[str, Any]:
    """Mean of the verdicts and number of verdicts with score 1, by judge and model."""
    given: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for each in results.judged:
        for j in each.judgements:
            given[each.name][j.model].append(j.score)
    for rating in results.first_ratings:
        given[CLINICIANS][rating.model].append(rating.score)
    figures: dict[str, Any] = {}
    for judge, by_model in given.items():
        for model, votes in sorted(by_model.items()):
            present = [vote for vote in votes if vote]
            figures.setdefault(judge, {})[model] = {
                "mean": sum(present) / len(present) if present else None,
                "unacceptable": present.count(1),
                "verdicts": len(present),
            }
    return figures


def paired_t(
    by_model: Mapping[str, Mapping[str, Any]], first: str, second: str, questions: Mapping[str, Question]
) -> dict[str, Any]:
    from scipy import stats

    a, b = (score_column(by_model[model], questions) for model in (first, second))
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 2 or np.ptp(a[both] - b[both]) == 0:
        return {"t": None, "p": None, "n": int(both.sum())}
    found = stats.ttest_rel(a[both], b[both])
    return {"t": float(found.statistic), "p": float(found.pvalue), "n": int(both.sum())}


def alphas(results: Results, table: Table) -> dict[str, float | None]:
    """Ordinal alpha of clinicians and of judges, each over all answers; None if undefined."""
    items = items_of(table)
    given = {(r.rater, r.model, r.question_id): float(r.score) for r in results.first_ratings}
    raters = sorted({rating.rater for rating in results.ratings})
    rows = {
        CLINICIANS: [[given.get((rater, *item), 0.0) for item in items] for rater in raters],
        "judges": [score_row(table, each.name, items) for each in results.judged],
    }
    found: dict[str, float | None] = {}
    for name, ratings in rows.items():
        if len(ratings) > 1:
            try:
                found[name] = krippendorff_alpha([scores(row) for row in ratings]).value
            except UserError:
                found[name] = None
    return found


def correlations_in_paper(table: Table, judge: str) -> dict[str, Any]:
    from scipy import stats

    items = items_of(table)
    a, b = (np.asarray(score_row(table, name, items)) for name in (judge, CLINICIANS))
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    figures: dict[str, Any] = {"n": len(a)}
    for name, function in NAMES.items():
        defined = len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0
        found = getattr(stats, function)(a, b) if defined else None
        p = math.nan if found is None else float(found.pvalue)
        figures[name] = None if found is None else float(found.statistic)
        figures[f"{name}_p"] = None if math.isnan(p) else p
    return figures
