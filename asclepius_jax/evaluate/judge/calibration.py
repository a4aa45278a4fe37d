"""Calibrate a judge: its accuracy on answers with known errors, as it is used, and its agreement with itself.

All votes on an answer are joined as the report joins them, so a calibration with one vote says nothing of a judge that
is used with three, and one of single answers nothing of a judge of lists.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.judge.position_bias import position_bias
from asclepius_jax.evaluate.records import Judgement, Label, read_records
from asclepius_jax.evaluate.statistics.agreement import krippendorff_alpha
from asclepius_jax.evaluate.statistics.estimates import rate, scores
from asclepius_jax.evaluate.statistics.joined import majority, mean_score
from data_prep.contract.errors import UserError

Answered = tuple[str, str]  # question id, model
Units = Mapping[str, Hashable]


def caught(label: Label, judgement: Judgement) -> bool:
    """Report whether a verdict shows the labelled error or, if the answer is right, any error."""
    shows = {
        "incorrect": judgement.incorrect,
        "omitted": judgement.omitted not in ("", "nothing") or (not judgement.omitted and judgement.score in (2, 3)),
        "unanswerable": judgement.score == 1,
        "": judgement.score < 4,
    }
    return shows[label.shows]


def read_labels(folder: Path) -> dict[Answered, Label]:
    """Labels of a calibration set by (question id, model)."""
    return {(label.question_id, label.model): label for label in read_records(folder, "labels", Label)}


def calibrate(
    labels: Mapping[Any, Label], judgements: Sequence[Judgement], units: Units | None = None
) -> dict[str, Any]:
    """Sensitivity, in total and by class of error, and specificity of one judge, from all its votes.

    units: cluster of each question, see `Question.cluster`; by default each question is its own. `incorrect_flag` has
    the sensitivity and specificity of the flag `incorrect` alone, which correct a share of incorrect answers with
    `correction.rogan_gladen`; answers that should have declined count for neither. `mean_scores` are of right and of
    wrong answers, `position` is that of `position_bias`. Answers without any readable vote are missing. Raises
    UserError for an answer without a label.
    """
    known = {(label.question_id, label.model): label for label in labels.values()}
    votes: dict[Answered, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        key = judgement.question_id, judgement.model
        if key not in known:
            raise UserError(f"{key[0]} is judged but has no label: judge the answers of the calibration set")
        votes[key].append(judgement)
    joined = {key: joined_flag(known[key], given) for key, given in votes.items()}
    classes: dict[str, list[Answered]] = defaultdict(list)
    for key in joined:
        classes[known[key].error].append(key)
    right = classes.pop("", [])
    wrong = [key for keys in classes.values() for key in keys]

    def share_of(keys: Sequence[Answered], values: Mapping[Answered, float]) -> dict[str, Any]:
        clusters = [(units or {}).get(question, question) for question, _ in keys]
        return asdict(rate([values[key] for key in keys], clusters))

    sensitivity, specificity = share_of(wrong, joined), share_of(right, {key: 1 - joined[key] for key in right})
    undefined = sensitivity["value"] is None or specificity["value"] is None
    flags = {key: majority(j.incorrect for j in given if not j.problem) for key, given in votes.items()}
    incorrect = [key for key in wrong if known[key].shows == "incorrect"]
    correct = [key for key in votes if known[key].shows in ("", "omitted")]
    means = {key: mean_score(j.score for j in given) for key, given in votes.items()}
    return {
        "answers": len(votes),
        "votes": max((len(given) for given in votes.values()), default=0),
        "missing": sensitivity["missing"] + specificity["missing"],
        "sensitivity": sensitivity,
        "specificity": specificity,
        # Youden's J = sensitivity + specificity - 1: 0 for a coin toss, 1 for a perfect judge.
        "youden": None if undefined else sensitivity["value"] + specificity["value"] - 1,
        "classes": {name: share_of(keys, joined) for name, keys in classes.items()},
        "incorrect_flag": {
            "sensitivity": share_of(incorrect, flags),
            "specificity": share_of(correct, {key: 1 - flags[key] for key in correct}),
        },
        "mean_scores": {
            "right": known_mean(means[key] for key in right),
            "wrong": known_mean(means[key] for key in wrong),
        },
        "test_retest": retest(judgements, units),
        "position": position_bias(judgements, units),
    }


def known_mean(values: Iterable[float]) -> float | None:
    value = mean_score(values)
    return None if math.isnan(value) else value


def joined_flag(label: Label, votes: Sequence[Judgement]) -> float:
    """Majority of an answer's readable votes on the labelled error: 0, 0.5 for a tie, 1, or nan if none is readable."""
    return majority(caught(label, judgement) for judgement in votes if not judgement.problem)


def retest(judgements: Sequence[Judgement], units: Units | None = None) -> dict[str, Any] | None:
    """Agreement between the votes of one judge, with Krippendorff's alpha; None if it voted once.

    units: cluster of each question, see `Question.cluster`."""
    votes = sorted({judgement.vote for judgement in judgements})
    if len(votes) < 2:
        return None
    items = sorted({(judgement.model, judgement.question_id) for judgement in judgements})
    place = {item: number for number, item in enumerate(items)}
    table: list[list[int]] = [[0] * len(items) for _ in votes]
    for judgement in judgements:
        table[votes.index(judgement.vote)][place[judgement.model, judgement.question_id]] = judgement.score
    clusters = [units[question] for _, question in items] if units else None
    columns = list(zip(*table, strict=True))
    same = [float(len(set(column)) == 1) if all(column) else None for column in columns]
    try:
        alpha: dict[str, Any] = asdict(krippendorff_alpha([scores(row) for row in table], clusters=clusters))
    except UserError as error:
        alpha = {"value": None, "undefined": str(error)}
    return {
        "votes": len(votes),
        "alpha": alpha,
        "same_score": asdict(rate(same, clusters or [question for _, question in items])),
    }
