"""Time that clinicians take to verify an answer, with and without citations of the note."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from asclepius_jax.evaluate.records import Question, Rating
from asclepius_jax.evaluate.statistics.estimates import median, ratio_of_sums, transformed


def verifying_times(ratings: Sequence[Rating], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Median seconds of each kind of answer and their ratio within raters; empty unless both kinds were timed.

    ratings: first ratings. Those without a score or a time (paper, older studies) are left out. The intervals speak of
    these raters.
    """
    timed = [rating for rating in ratings if rating.score and rating.answer_seconds > 0]
    kinds = {"with": [r for r in timed if r.cites], "without": [r for r in timed if not r.cites]}
    if not all(kinds.values()):
        return {}
    return {
        "kinds": {
            name: {
                "seconds": asdict(median([r.answer_seconds for r in rows], clusters_of(rows, questions))),
                "raters": len({rating.rater for rating in rows}),
            }
            for name, rows in kinds.items()
        },
        "ratio": ratio_within_raters(timed, questions),
    }


def ratio_within_raters(timed: Sequence[Rating], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Time with citations over time without, of raters who verified both kinds of answers.

    Least squares of the log of the time on the kind, within raters: the slope is a ratio of sums of deviations from
    each rater's means, so it has the clustered interval of one. It is a ratio of geometric means.
    """
    of_rater = {name: [r for r in timed if r.rater == name] for name in sorted({r.rater for r in timed})}
    of_rater = {name: rows for name, rows in of_rater.items() if len({r.cites for r in rows}) == 2}
    above: list[float] = []
    below: list[float] = []
    for rows in of_rater.values():
        kind = np.asarray([float(r.cites) for r in rows])
        log = np.asarray([math.log(r.answer_seconds) for r in rows])
        kind -= kind.mean()
        above += list(kind * (log - log.mean()))
        below += list(kind**2)
    rows = [rating for each in of_rater.values() for rating in each]
    slope = ratio_of_sums(above, below, clusters_of(rows, questions))
    if not rows:
        slope = replace(slope, undefined="no rater verified answers of both kinds")
    return {**asdict(transformed(slope, math.exp)), "raters": len(of_rater)}


def clusters_of(ratings: Sequence[Rating], questions: Mapping[str, Question]) -> list[tuple[str, str]]:
    return [questions[rating.question_id].cluster for rating in ratings]
