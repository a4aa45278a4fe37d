"""What a judge is worth: its verdicts on answers whose errors are known, and whether it says the same twice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.records import Judgement, Label, read_records
from asclepius_jax.evaluate.statistics.agreement import krippendorff_alpha
from asclepius_jax.evaluate.statistics.estimates import rate, scores
from data_prep.contract.errors import UserError


def caught(label: Label, judgement: Judgement) -> bool:
    """Whether a verdict shows this error; of a right answer, whether it shows any."""
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
    """Sensitivity by class, specificity, both with Wilson intervals over answers, missing verdicts beside them; by each
    judge's first vote."""
    unknown = next((j.question_id for j in judgements if j.question_id not in labels), None)
    if unknown:
        raise UserError(f"a judgement of {unknown}, which has no label: judge the answers of the calibration set")
    first = [judgement for judgement in judgements if judgement.vote == 0]
    classes: dict[str, list[bool | None]] = {}
    for judgement in first:
        label = labels[judgement.question_id]
        seen = None if judgement.problem else caught(label, judgement)
        classes.setdefault(label.error, []).append(seen)
    right = classes.pop("", [])
    wrong = [seen for found in classes.values() for seen in found]
    sensitivity, alarm = rate(wrong), rate(right)
    specificity = rate([None if seen is None else not seen for seen in right])
    undefined = sensitivity.value is None or alarm.value is None
    return {
        "answers": len(first),
        "missing": sum(bool(judgement.problem) for judgement in first),
        "sensitivity": asdict(sensitivity),
        "specificity": asdict(specificity),
        # Youden's J: 0 is a coin, 1 is right every time.
        "youden": None if undefined else float(sensitivity.value or 0) - float(alarm.value or 0),
        "classes": {name: asdict(rate(found)) for name, found in classes.items()},
        "test_retest": retest(judgements),
    }


def retest(judgements: Sequence[Judgement], notes: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Krippendorff's alpha between the votes of one judge, None where it voted once. `notes`: of each question."""
    votes = sorted({judgement.vote for judgement in judgements})
    if len(votes) < 2:
        return None
    items = sorted({(judgement.model, judgement.question_id) for judgement in judgements})
    place = {item: number for number, item in enumerate(items)}
    table: list[list[int]] = [[0] * len(items) for _ in votes]
    for judgement in judgements:
        table[votes.index(judgement.vote)][place[judgement.model, judgement.question_id]] = judgement.score
    clusters = [notes[question] for _, question in items] if notes else None
    same = [len(set(column)) == 1 for column in zip(*table, strict=True) if all(column)]
    try:
        alpha: dict[str, Any] = asdict(krippendorff_alpha([scores(row) for row in table], clusters=clusters))
    except UserError as error:
        alpha = {"value": None, "undefined": str(error)}
    return {"votes": len(votes), "alpha": alpha, "same_score": asdict(rate(same))}
