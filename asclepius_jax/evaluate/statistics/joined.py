"""One verdict out of several on the same answer: votes of a judge, judges of a jury, clinicians.

Scores are joined by their mean and yes/no flags by majority. A median, or a tie counted as "no", favours one side: of
two equal models, the one that loses more votes would come out better or worse for that alone.
"""

import math
from collections.abc import Hashable, Iterable, Mapping

import numpy as np

DIGITS = 12  # kept of a mean: thirds that are equal must stay so, or ranks depend on the order of summation


def mean_score(scores: Iterable[float]) -> float:
    """Mean of the rubric scores, without the missing ones (0, nan); nan if all are missing."""
    present = [score for score in scores if score and not math.isnan(score)]
    return round(math.fsum(present) / len(present), DIGITS) if present else math.nan


def severities(scores: Mapping[str, Mapping[Hashable, float]]) -> dict[str, float]:
    """How much higher than the others each judge scores the same answers, in points; 0 on average over judges.

    scores: judge -> answer -> score, nan if missing. The least-squares fit of score = answer + judge. Of two equal
    models, the one on which a strict judge loses verdicts would otherwise come out better. A judge that shares no
    answers with another has 0.
    """
    judges = sorted(scores)
    by_answer: dict[Hashable, dict[int, float]] = {}
    for row, judge in enumerate(judges):
        for answer, score in scores[judge].items():
            if score and not math.isnan(score):
                by_answer.setdefault(answer, {})[row] = score
    # The normal equations once the answers are eliminated: one row a judge.
    shared_JJ, apart_J = np.zeros((len(judges), len(judges))), np.zeros(len(judges))
    for given in by_answer.values():
        rows, values = list(given), np.array(list(given.values()))
        shared_JJ[np.ix_(rows, rows)] += np.eye(len(rows)) - 1 / len(rows)
        apart_J[rows] += values - values.mean()
    found_J = np.linalg.pinv(shared_JJ, hermitian=True) @ apart_J
    return {judge: round(float(value), DIGITS) for judge, value in zip(judges, found_J, strict=True)}


def majority(flags: Iterable[float]) -> float:
    """Majority vote as a number: 1 if most flags are set, 0 if most are not, 0.5 for a tie; nan without flags.

    A flag may itself be such a number: the tied vote of one judge counts half in the jury's."""
    votes = [float(flag) for flag in flags]
    difference = 2 * sum(votes) - len(votes)
    return math.nan if not votes else 0.5 + 0.5 * ((difference > 0) - (difference < 0))
