"""Calibrate a judge: its accuracy on answers with known errors, and its agreement with itself."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.records import Judgement, Label, read_records
from asclepius_jax.evaluate.statistics.agreement import krippendorff_alpha
from asclepius_jax.evaluate.statistics.estimates import rate, scores
from data_prep.contract.errors import UserError


def caught(label: Label, judgement: Judgement) -> bool:
    """Report whether a verdict shows the labelled error or, if the answer is right, any error."""
    shows = {
        "incorrect": judgement.incorrect,
        "omitted": judgement.omitted not in ("", "nothing") or (not judgement.omitted and judgement.score in (2, 3)),
        "unanswerable": judgement.score == 1,
        "": judgement.score < 4,
    }
    return shows[label.shows]


def read_labels(folder: Path) -> dict[str, Label]:
    return {label.question_id: label for label in read_records(folder, "labels", Label)}


def calibrate(labels: Mapping[str, Label], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Sensitivity, in total and by class of error, and specificity of one judge, with Wilson intervals over answers.

    Uses the judge's first vote on each answer; missing verdicts are counted. Raises UserError for an answer without
    a label."""
    unknown = next((j.question_id for j in judgements if j.question_id not in labels), None)
    if unknown:
        raise UserError(f"{unknown} is judged but has no label: judge the answers of the calibration set")
    first = [judgement for judgement in judgements if judgement.vote == 0]
    classes: dict[str, list[bool | None]] = {}
    for judgement in first:
        label = labels[judgement.question_id]
        flagged = None if judgement.problem else caught(label, judgement)
        classes.setdefault(label.error, []).append(flagged)
    right = classes.pop("", [])
    wrong = [flagged for flags in classes.values() for flagged in flags]
    sensitivity, false_alarms = rate(wrong), rate(right)
    specificity = rate([None if flagged is None else not flagged for flagged in right])
    undefined = sensitivity.value is None or false_alarms.value is None
    return {
        "answers": len(first),
        "missing": sum(bool(judgement.problem) for judgement in first),
        "sensitivity": asdict(sensitivity),
        "specificity": asdict(specificity),
        # Youden's J = sensitivity + specificity - 1: 0 for a coin toss, 1 for a perfect judge.
        "youden": None if undefined else float(sensitivity.value or 0) - float(false_alarms.value or 0),
        "classes": {name: asdict(rate(flags)) for name, flags in classes.items()},
        "test_retest": retest(judgements),
    }


def retest(judgements: Sequence[Judgement], units: Mapping[str, Hashable] | None = None) -> dict[str, Any] | None:
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
    same = [len(set(column)) == 1 for column in zip(*table, strict=True) if all(column)]
    try:
        alpha: dict[str, Any] = asdict(krippendorff_alpha([scores(row) for row in table], clusters=clusters))
    except UserError as error:
        alpha = {"value": None, "undefined": str(error)}
    return {"votes": len(votes), "alpha": alpha, "same_score": asdict(rate(same))}
