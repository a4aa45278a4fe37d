"""Readings of the scores that show what a mean hides: missing verdicts, failed and declined answers, and length."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from asclepius_jax.evaluate.judge.by_rule import declines
from asclepius_jax.evaluate.records import FAILED, NO_ANSWER, Answer, Question
from asclepius_jax.evaluate.statistics.estimates import SCALE, Estimate, mean, rate
from asclepius_jax.evaluate.statistics.intervals import FEWEST_CLUSTERS, mark_of
from data_prep.contract.prompt.cited_sentences import without_citations

WORST, BEST = SCALE
LENGTH = "least squares, clustered, t"  # statsmodels' sandwich, t with clusters - 1 degrees of freedom

# question id -> joined score, nan or absent if it is missing
Scores = Mapping[str, float]


def is_answerable(question: Question) -> bool | None:
    """True unless the reference answer says that the note does not contain what is asked; None without one."""
    if not question.reference.strip():
        return None
    return not declines(question.reference)


# ---------------------------------------------------------------- missing verdicts, failed answers


def readings(
    scores: Scores, lost: Scores, answers: Mapping[str, Answer], questions: Mapping[str, Question]
) -> dict[str, Any]:
    """Mean score of one model in several readings.

    lost: share of the votes on each answer that are missing. `as_judged` leaves missing votes out. `worst` and `best`
    score each of them 1 and 4, so that the mean lies between them whatever is missing. `failed_as_1` scores answers
    that failed, were cut off or did not fit as 1, whatever the judge says of what there is of them.
    """
    clusters = [question.cluster for question in questions.values()]
    given = [scores.get(name, math.nan) for name in questions]
    given = [math.nan if score == 0 else score for score in given]
    failed = [name in answers and answers[name].finish_reason in FAILED for name in questions]

    gone = [1.0 if math.isnan(score) else lost.get(name, 0.0) for name, score in zip(questions, given, strict=True)]

    def filled(with_score: float) -> dict[str, Any]:
        values = [
            with_score if share == 1 else score * (1 - share) + with_score * share
            for score, share in zip(given, gone, strict=True)
        ]
        return asdict(mean(values, clusters, SCALE))

    return {
        "as_judged": asdict(mean(given, clusters, SCALE)),
        "worst": filled(WORST),
        "best": filled(BEST),
        "missing": sum(map(math.isnan, given)),
        "votes_missing": math.fsum(gone) / len(gone) if gone else 0.0,
        "failed_as_1": asdict(
            mean(
                [WORST if is_failed else score for score, is_failed in zip(given, failed, strict=True)], clusters, SCALE
            )
        ),
        "failed": sum(failed),
    }


# ---------------------------------------------------------------- declined answers


def declined(scores: Scores, answers: Mapping[str, Answer], questions: Mapping[str, Question]) -> dict[str, Any]:
    """How often a model declines, and its mean scores without the questions, or the answers, that this concerns.

    A model that declines every question scores 2 where the note has the answer; one that answers all and makes a slip
    in some scores less. `declined` is its share of all answers, `declined_answerable` and `declined_unanswerable` those
    of questions that the note answers, or does not, by their reference. `answerable` is the mean score on the former,
    `answered` that of the answers that do not decline.
    """
    given = {name: answer for name, answer in answers.items() if answer.finish_reason not in NO_ANSWER}
    refusals = {name: declines(answer.text) for name, answer in given.items()}

    def share_of(answerable: bool | None) -> dict[str, Any]:
        names = [
            name for name, question in questions.items() if answerable is None or is_answerable(question) is answerable
        ]
        values = [float(refusals[name]) if name in refusals else None for name in names]
        return asdict(rate(values, [questions[name].cluster for name in names]))

    def mean_of(names: Sequence[str]) -> dict[str, Any]:
        values = [scores.get(name, math.nan) or math.nan for name in names]
        return asdict(mean(values, [questions[name].cluster for name in names], SCALE))

    return {
        "declined": share_of(None),
        "declined_answerable": share_of(True),
        "declined_unanswerable": share_of(False),
        "answerable": mean_of([name for name, question in questions.items() if is_answerable(question)]),
        "answered": mean_of([name for name in questions if name in refusals and not refusals[name]]),
    }


# ---------------------------------------------------------------- length


def length_adjusted(
    scores: Mapping[str, Scores],
    answers: Mapping[str, Mapping[str, Answer]],
    questions: Mapping[str, Question],
    baseline: str,
) -> dict[str, Any]:
    """Differences of mean score from the baseline between answers of equal length, by model, and the slope.

    Least squares of the score on the model and the log of the answer's number of words, within questions, with errors
    clustered as in `Question.cluster` and t intervals (Length-controlled AlpacaEval, arXiv 2404.04475, adjusts in the
    same way). `per_doubling` is the change of the score with twice the words. A longer answer may rightly score more,
    so this reading stands beside the plain one and does not replace it. Failed answers are left out.
    """
    models = [baseline, *sorted(model for model in scores if model != baseline)]
    rows: list[tuple[str, str, float, float]] = []
    for model in models:
        for name in questions:
            answer, score = answers.get(model, {}).get(name), scores[model].get(name, math.nan)
            if answer and answer.finish_reason not in NO_ANSWER and score and not math.isnan(score):
                rows.append((model, name, float(score), math.log2(1 + len(without_citations(answer.text).split()))))
    counts = Counter(name for _, name, _, _ in rows)
    rows = [row for row in rows if counts[row[1]] > 1]
    clusters = [questions[row[1]].cluster for row in rows]
    wanted = [*models[1:], "per_doubling"]
    if (
        len(set(clusters)) < FEWEST_CLUSTERS
        or len({row[3] for row in rows}) < 2
        or len({row[0] for row in rows}) < len(models)
    ):
        missing = Estimate(
            None, None, None, len(rows), len(set(clusters)), 0, "too few clusters or answers, or all of one length"
        )
        return dict.fromkeys(wanted, asdict(missing))
    design = np.asarray([[*(float(row[0] == model) for model in models[1:]), row[3]] for row in rows])
    return fitted(design, np.asarray([row[2] for row in rows]), [row[1] for row in rows], clusters, wanted)


def fitted(
    design: np.ndarray, values: np.ndarray, groups: Sequence[str], clusters: Sequence[Hashable], wanted: Sequence[str]
) -> dict[str, Any]:
    """Coefficients of a regression within groups, by name."""
    import statsmodels.api as sm

    place = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    group = np.asarray([place[name] for name in groups])
    counts = np.bincount(group)

    def within(column: np.ndarray) -> np.ndarray:
        return column - (np.bincount(group, column) / counts)[group]

    cluster = np.unique([str(each) for each in clusters], return_inverse=True)[1]
    inside = np.stack([within(column) for column in design.T], axis=1)
    units = len(set(cluster))
    if np.linalg.matrix_rank(inside) < inside.shape[1]:
        missing = Estimate(None, None, None, len(values), units, 0, "models and lengths cannot be told apart")
        return dict.fromkeys(wanted, asdict(missing))
    fit = sm.OLS(within(values), inside).fit(cov_type="cluster", cov_kwds={"groups": cluster}, use_t=True)
    mark = mark_of(units, float(np.bincount(cluster).max()) / len(values))
    return {
        name: asdict(
            Estimate(float(value), float(low), float(high), len(values), units, 0, "", LENGTH, units - 1.0, mark)
        )
        for name, value, (low, high) in zip(wanted, fit.params, fit.conf_int(), strict=True)
    }
