"""Errors of judges on the report: shares of incorrect answers and means, raw and corrected, and harm.

A judge's `incorrect` flag is corrected by its calibration (Rogan and Gladen), and flag and score by clinicians' ratings
of a random part of the answers (prediction-powered inference).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from asclepius_jax.evaluate.judge.correction import (
    errors_by_model,
    prediction_powered,
    prediction_powered_share,
    rogan_gladen,
)
from asclepius_jax.evaluate.judge.rubric import HARMS
from asclepius_jax.evaluate.records import Judgement, Question, Rating
from asclepius_jax.evaluate.report.results import CLINICIANS, MISSING, Results, Table, scores_of
from asclepius_jax.evaluate.statistics.estimates import SCALE, Rate, mean, rate, scores
from asclepius_jax.evaluate.statistics.joined import majority

# (model, question id)
Item = tuple[str, str]
Flags = Mapping[Item, float]


def joined_flags(votes: Iterable[Judgement | Rating]) -> dict[Item, float]:
    """Majority of the readable votes on each answer: 1 if most call it incorrect, 0 if most do not, 0.5 for a tie."""
    by_answer: dict[Item, list[bool]] = defaultdict(list)
    for vote in votes:
        if vote.score:
            by_answer[vote.model, vote.question_id].append(vote.incorrect)
    return {answer: majority(flags) for answer, flags in by_answer.items()}


def judge_errors(results: Results, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """By judge: `models` with raw and corrected figures, and `by_model` with errors against the clinicians."""
    table, units = scores_of(results), {q.id: q.cluster for q in results.questions.values()}
    clinicians = joined_flags(results.first_ratings)
    figures = {}
    for each in results.judged:
        flags, tested = joined_flags(each.judgements), calibration.get(each.name)
        figures[each.name] = {
            "models": {
                model: {
                    **incorrect_of(model, (flags, clinicians), results.questions, tested),
                    **mean_of(table, each.name, model, results.questions),
                }
                for model in sorted(table.get(each.name, {}))
            },
            "by_model": errors_by_model(flags, clinicians, units) if clinicians else {},
        }
    return figures


def incorrect_of(
    model: str, flags: tuple[Flags, Flags], questions: Mapping[str, Question], tested: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The share that a judge calls incorrect: raw, by its calibration, and by the clinicians' ratings."""
    clusters = [question.cluster for question in questions.values()]
    judge, clinicians = ([part.get((model, name)) for name in questions] for part in flags)
    apparent = rate(judge, clusters)
    figures: dict[str, Any] = {"incorrect": asdict(apparent)}
    if tested:
        sensitivity, specificity = (Rate(**tested["incorrect_flag"][name]) for name in ("sensitivity", "specificity"))
        figures["rogan_gladen"] = rogan_gladen(apparent, sensitivity, specificity)
    if flags[1]:
        figures["powered_incorrect"] = asdict(prediction_powered_share(judge, clinicians, clusters))
    return figures


def mean_of(table: Table, judge: str, model: str, questions: Mapping[str, Question]) -> dict[str, Any]:
    """The judge's mean score, and that by clinicians, from the judge's scores of all answers and theirs of a part."""
    by_judge, by_clinicians = (
        [table.get(name, {}).get(model, {}).get(question, MISSING).score for question in questions]
        for name in (judge, CLINICIANS)
    )
    clusters = [question.cluster for question in questions.values()]
    figures = {"mean": asdict(mean(scores(by_judge), clusters, SCALE))}
    if CLINICIANS in table:
        figures["powered_mean"] = asdict(prediction_powered(by_judge, by_clinicians, clusters))
    return figures


# ---------------------------------------------------------------- harm


def harm_of(results: Results) -> dict[str, Any]:
    """Shares of answers with harmful errors by model, as judges grade harm and as clinicians mark spans.

    For judges the majority of votes counts, and answers without a grade are missing. For clinicians an answer has a
    minor (major) error if most of those who rated it marked one that is at least as severe. `spans` counts the marks.
    """
    figures: dict[str, Any] = {}
    for each in results.judged:
        grades: dict[Item, list[int]] = defaultdict(list)
        for j in each.judgements:
            if j.score and j.harm:
                grades[j.model, j.question_id].append(HARMS.index(j.harm))
        if grades:
            figures[each.name] = by_severity(grades, HARMS[1:], results.questions)
    marks: dict[Item, list[int]] = defaultdict(list)
    spans: dict[str, Counter[str]] = defaultdict(Counter)
    for rating in results.first_ratings:
        if rating.score:
            found = json.loads(rating.spans or "[]")
            marks[rating.model, rating.question_id].append(
                max((SEVERITIES.index(span["severity"]) + 1 for span in found), default=0)
            )
            spans[rating.model].update(f"{span['type']}, {span['severity']}" for span in found)
    if any(spans.values()):
        figures[CLINICIANS] = by_severity(marks, SEVERITIES, results.questions)
        for model, counts in spans.items():
            figures[CLINICIANS][model]["spans"] = dict(sorted(counts.items()))
    return figures


SEVERITIES = ("minor", "major")  # of clinicians' spans, see `clinicians.verdicts`


def by_severity(
    grades: Mapping[Item, list[int]], names: Iterable[str], questions: Mapping[str, Question]
) -> dict[str, Any]:
    """Share of answers whose error is at least as severe, by model and grade. grades: of each vote, 0 for no harm."""
    clusters = [question.cluster for question in questions.values()]
    return {
        model: {
            name: asdict(
                rate(
                    [majority(g >= least for g in grades.get((model, question), ())) for question in questions],
                    clusters,
                )
            )
            for least, name in enumerate(names, 1)
        }
        for model in sorted({model for model, _ in grades})
    }
