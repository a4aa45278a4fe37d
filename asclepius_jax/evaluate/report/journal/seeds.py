"""Several samples of each answer, with different seeds: how far the score of a model depends on the seed."""

import math
from collections import defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np

from asclepius_jax.evaluate.report.model_comparisons import score_column
from asclepius_jax.evaluate.report.results import Joined, Results, joined
from asclepius_jax.evaluate.statistics.estimates import SCALE, mean


def seeds_of(results: Results) -> dict[str, Any]:
    """By judge and model with several samples: the mean of each, and the spread between and within questions.

    `between_seeds` is the standard deviation of the scores of several samples on one question, in points, and contains
    what the judge's own verdicts vary; `between_questions` that of questions, from a one-way analysis of variance with
    random effects. `seed_share` is the share of the variance of a single answer's score that lies between its samples.
    """
    figures: dict[str, Any] = {}
    for each in results.judged:
        votes: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for j in each.judgements:
            votes[j.variant_of or j.model][j.model][j.question_id].append(j.score)
        rows = {
            model: spread_over_seeds(
                {name: {q: joined(given) for q, given in found.items()} for name, found in samples.items()}, results
            )
            for model, samples in votes.items()
            if len(samples) > 1
        }
        if rows:
            figures[each.name] = rows
    return figures


def spread_over_seeds(samples: dict[str, dict[str, Joined]], results: Results) -> dict[str, Any]:
    questions, clusters = results.questions, results.clusters
    columns = {name: score_column(found, questions) for name, found in sorted(samples.items())}
    table_SQ = np.stack(list(columns.values()))
    compared_Q = (~np.isnan(table_SQ)).sum(0) >= 2
    kept_SQ = table_SQ[:, compared_Q]
    figures: dict[str, Any] = {
        "samples": {name: asdict(mean(column, clusters, SCALE)) for name, column in columns.items()},
        "questions": int(compared_Q.sum()),
        "undefined": "",
    }
    if compared_Q.sum() < 2:
        return {**figures, "undefined": "fewer than two questions have two scored samples"}
    counts_Q, means_Q = (~np.isnan(kept_SQ)).sum(0), np.nanmean(kept_SQ, 0)
    rows, groups = int(counts_Q.sum()), len(counts_Q)
    grand = float((counts_Q * means_Q).sum() / rows)
    within = float(np.nansum((kept_SQ - means_Q) ** 2)) / (rows - groups)
    between = float((counts_Q * (means_Q - grand) ** 2).sum()) / (groups - 1)
    each = (rows - float((counts_Q**2).sum()) / rows) / (groups - 1)  # samples per question, if they differ
    of_questions = max(0.0, (between - within) / each)
    total = of_questions + within
    return {
        **figures,
        "between_questions": math.sqrt(of_questions),
        "between_seeds": math.sqrt(within),
        "seed_share": within / total if total else None,
    }
