"""One verdict out of several on the same answer: votes of a judge, judges of a jury, clinicians.

Scores are joined by their mean and yes/no flags by majority. A median, or a tie counted as "no", favours one side: of
two equal models, the one that loses more votes would come out better or worse for that alone.
"""

import math
from collections.abc import Iterable


def mean_score(scores: Iterable[float]) -> float:
    """Mean of the rubric scores, without the missing ones (0, nan); nan if all are missing."""
    present = [score for score in scores if score and not math.isnan(score)]
    return sum(present) / len(present) if present else math.nan


def majority(flags: Iterable[float]) -> float:
    """Majority vote as a number: 1 if most flags are set, 0 if most are not, 0.5 for a tie; nan without flags.

    A flag may itself be such a number: the tied vote of one judge counts half in the jury's."""
    votes = [float(flag) for flag in flags]
    difference = 2 * sum(votes) - len(votes)
    return math.nan if not votes else 0.5 + 0.5 * ((difference > 0) - (difference < 0))
