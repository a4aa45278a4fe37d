"""Compute every figure of an evaluation from its stored results, as one nested dict for JSON and the report.

A judge's score of an answer is the lower median of its readable votes. The jury's score is the lower median of all
judges' scores. Unreadable votes are missing and counted.
"""

import statistics as plain
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asclepius_jax.evaluate.judge.calibration import calibrate, read_labels, retest
from asclepius_jax.evaluate.records import Judgement, Question, Rating, read_records, unit_of
from asclepius_jax.evaluate.statistics.agreement import correlations, krippendorff_alpha, quadratic_kappa
from asclepius_jax.evaluate.statistics.comparisons import by_holm, compare, detectable_difference, equivalent, mcnemar
from asclepius_jax.evaluate.statistics.estimates import mean, rate, scores, unacceptable_rate
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest

JURY = "jury"
CLINICIANS = "clinicians"
LENGTHS = ((200, "under 200 words"), (500, "200 to 499 words"), (1000, "500 to 999 words"))
LONGEST = "1,000 words and more"

# judge -> model -> question id -> score; 0 is missing
Scores = dict[str, dict[str, dict[str, int]]]
# what a question shares with others, see `Question.cluster`
Cluster = tuple[str, str]
# (model, question id, called incorrect)
Vote = tuple[str, str, bool]


@dataclass(frozen=True)
class Judged:
    """Folder of judgements, with the judge's facts from its manifest."""

    name: str
    about: dict[str, Any]
    judgements: list[Judgement]


@dataclass
class Results:
    """Stored results of an evaluation."""

    questions: dict[str, Question]
    judged: list[Judged] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)

    @property
    def clusters(self) -> list[Cluster]:
        return [question.cluster for question in self.questions.values()]


def read_judged(folders: Iterable[Path]) -> list[Judged]:
    judged = []
    for folder in folders:
        manifest = read_manifest(folder, "judgements")
        about = {name: manifest.get(name) for name in ("mode", "votes", "prompt", "teacher", "warnings", "models")}
        about["answers"] = manifest["inputs"].get("answers", "")
        judged.append(Judged(manifest["judge"], about, list(read_records(folder, "judgements", Judgement))))
    duplicates = [name for name, count in Counter(each.name for each in judged).items() if count > 1]
    if duplicates:
        raise UserError(f"two folders of judgements are by {duplicates[0]}: give one of them another --name")
    return judged


def check_ids(results: Results) -> None:
    found = [(f"judge {each.name}", j.question_id) for each in results.judged for j in each.judgements]
    found += [(f"rater {rating.rater}", rating.question_id) for rating in results.ratings]
    stray = next(((who, name) for who, name in found if name not in results.questions), None)
    if stray:
        raise UserError(
            f"{stray[0]} scores {stray[1]}, which is not among the questions: give the --questions that were judged"
        )
    given = Counter((r.rater, r.question_id, r.model, r.repeat) for r in results.ratings)
    duplicate = next((key for key, count in given.items() if count > 1), None)
    if duplicate:
        rater, question, model, _ = duplicate
        raise UserError(f"rater {rater} rates {model}'s answer to {question} twice: keep one of the ratings")


def lower_median(values: Sequence[int]) -> int:
    """Lower median of the scores that are not 0 (missing); 0 if all are missing."""
    present = [value for value in values if value]
    return int(plain.median_low(present)) if present else 0


def scores_of(results: Results) -> Scores:
    """Scores by each judge, by all clinicians together and, if there are several judges, by the jury of them."""
    collected: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for each in results.judged:
        for j in each.judgements:
            collected[each.name][j.model, j.question_id].append(j.score)
    for rating in results.ratings:
        if not rating.repeat:
            collected[CLINICIANS][rating.model, rating.question_id].append(rating.score)
    table: Scores = {}
    for judge, found in collected.items():
        for (model, question), given in found.items():
            table.setdefault(judge, {}).setdefault(model, {})[question] = lower_median(given)
    if len(results.judged) > 1:
        together: dict[tuple[str, str], list[int]] = defaultdict(list)
        for each in results.judged:
            for model, by_question in table[each.name].items():
                for question, score in by_question.items():
                    together[model, question].append(score)
        for (model, question), given in together.items():
            table.setdefault(JURY, {}).setdefault(model, {})[question] = lower_median(given)
    return table


def column(by_question: Mapping[str, int], ids: Iterable[str]) -> np.ndarray:
    return scores([by_question.get(name, 0) for name in ids])


def model_figures(by_question: Mapping[str, int], questions: Mapping[str, Question]) -> dict[str, Any]:
    values = column(by_question, questions)
    clusters = [question.cluster for question in questions.values()]
    counts = Counter(int(value) for value in values if not np.isnan(value))
    return {
        "mean": asdict(mean(values, clusters)),
        "distribution": {str(score): counts[score] for score in (1, 2, 3, 4)},
        "unacceptable": asdict(unacceptable_rate(values)),
    }


def best_first(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(sorted(models.items(), key=lambda item: (-(item[1]["mean"]["value"] or 0.0), item[0])))


# ---------------------------------------------------------------- slices


def length_of(question: Question) -> str:
    words = len(question.note.split())
    return next((name for limit, name in LENGTHS if words < limit), LONGEST)


def slice_order(name: str) -> tuple[int, str]:
    """Sort key of a slice: note lengths from short to long, other names alphabetically."""
    lengths = [*(length for _, length in LENGTHS), LONGEST]
    return (lengths.index(name) if name in lengths else 0), name


SLICES: dict[str, Callable[[Question], str]] = {
    "task": lambda question: question.task,
    "note type": lambda question: question.note_type,
    "source": lambda question: question.source,
    "year": lambda question: question.year,
    "note length": length_of,
}


def slices_of(by_model: Mapping[str, Mapping[str, int]], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Mean score of each model by slice, for every criterion but those that put all questions into one slice."""
    figures: dict[str, Any] = {}
    for way, name_of in SLICES.items():
        groups: dict[str, dict[str, Question]] = defaultdict(dict)
        for question in questions.values():
            groups[name_of(question) or "not known"][question.id] = question
        if len(groups) > 1 or way == "task":
            figures[way] = {
                name: {
                    "questions": len(group),
                    "models": {
                        model: asdict(mean(column(by_question, group), [q.cluster for q in group.values()]))
                        for model, by_question in by_model.items()
                    },
                }
                for name, group in sorted(groups.items(), key=lambda item: slice_order(item[0]))
            }
    return figures


# ---------------------------------------------------------------- comparisons


def comparisons_of(
    by_model: Mapping[str, Mapping[str, int]], results: Results, baseline: str, margin: float
) -> dict[str, Any]:
    """Compare every other model with the baseline: difference, tests, equivalence, and tasks with Holm's correction."""
    questions, clusters = results.questions, results.clusters
    figures: dict[str, Any] = {}
    for model, by_question in by_model.items():
        if model == baseline:
            continue
        first, second = column(by_question, questions), column(by_model[baseline], questions)
        by_task: dict[str, Any] = {}
        for task in sorted({question.task for question in questions.values()}):
            ids = [name for name, question in questions.items() if question.task == task]
            of_task = [questions[name].cluster for name in ids]
            comparison = compare(column(by_question, ids), column(by_model[baseline], ids), of_task)
            by_task[task] = {"difference": asdict(comparison.difference), "p": comparison.sign_flip.p}
        holm = by_holm({task: row["p"] for task, row in by_task.items()})
        for task, row in by_task.items():
            row["p_holm"] = holm[task]
        figures[model] = {
            **asdict(compare(first, second, clusters)),
            "equivalence": asdict(equivalent(first, second, clusters, margin)),
            "unacceptable": asdict(mcnemar(first, second)),
            "detectable": asdict(detectable_difference(first, second, clusters)),
            "tasks": by_task,
        }
    return figures


# ---------------------------------------------------------------- agreement


def agreement_of(results: Results, table: Scores) -> dict[str, Any]:
    """Agreement between judges, between clinicians, of judges with clinicians, and of each with itself."""
    units = {question.id: question.cluster for question in results.questions.values()}
    figures: dict[str, Any] = {
        "retest": {each.name: votes for each in results.judged if (votes := retest(each.judgements, units))},
    }
    items = sorted(
        {
            (model, question)
            for by_model in table.values()
            for model, by_question in by_model.items()
            for question in by_question
        }
    )
    names = [each.name for each in results.judged]
    if len(names) > 1:
        figures["judges"] = alpha(
            [[table[judge].get(m, {}).get(q, 0) for m, q in items] for judge in names], units, items
        )
    raters = sorted({rating.rater for rating in results.ratings})
    if raters:
        given = {(r.rater, r.model, r.question_id, r.repeat): r.score for r in results.ratings}
        rows = [[given.get((rater, m, q, 0), 0) for m, q in items] for rater in raters]
        figures["clinicians"] = alpha(rows, units, items)
        repeated = [(rater, m, q) for rater, m, q, repeat in given if repeat]
        if repeated:
            pairs = [[given.get((*key, again), 0) for key in repeated] for again in (0, 1)]
            figures["same_clinician"] = alpha(pairs, units, [(m, q) for _, m, q in repeated])
        figures["incorrect_by_clinicians"] = {
            each.name: judge_accuracy(
                [(r.model, r.question_id, r.incorrect) for r in results.ratings if r.score],
                [(j.model, j.question_id, j.incorrect) for j in each.judgements if j.score],
            )
            for each in results.judged
        }
        figures["with_clinicians"] = {
            judge: with_clinicians(table, judge, items, units) for judge in table if judge != CLINICIANS
        }
    return figures


def majority_incorrect(votes: Iterable[Vote]) -> dict[tuple[str, str], bool]:
    """Majority vote on each (model, question): True if more than half call the answer incorrect."""
    by_answer: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for model, question, incorrect in votes:
        by_answer[model, question].append(incorrect)
    return {answer: 2 * sum(flags) > len(flags) for answer, flags in by_answer.items()}


def judge_accuracy(clinician_votes: Iterable[Vote], judge_votes: Iterable[Vote]) -> dict[str, Any]:
    """Sensitivity and specificity of a judge's `incorrect` flag against the clinicians' majority.

    Neither list may contain missing verdicts."""
    clinicians, judge = majority_incorrect(clinician_votes), majority_incorrect(judge_votes)
    both = [(clinicians[answer], judge[answer]) for answer in clinicians if answer in judge]
    return {
        "sensitivity": asdict(rate([by_judge for by_clinicians, by_judge in both if by_clinicians])),
        "specificity": asdict(rate([not by_judge for by_clinicians, by_judge in both if not by_clinicians])),
    }


def with_clinicians(
    table: Scores, judge: str, items: Sequence[tuple[str, str]], units: Mapping[str, Cluster]
) -> dict[str, Any]:
    clinician_scores, judge_scores = (
        scores([table.get(name, {}).get(model, {}).get(question, 0) for model, question in items])
        for name in (CLINICIANS, judge)
    )
    clusters = [units[question] for _, question in items]
    fields = fields_of(lambda: correlations(judge_scores, clinician_scores, clusters))
    return {**fields, "kappa": fields_of(lambda: quadratic_kappa(judge_scores, clinician_scores, clusters))}


def alpha(rows: list[list[int]], units: Mapping[str, Cluster], items: Sequence[tuple[str, str]]) -> dict[str, Any]:
    clusters = [units[question] for _, question in items]
    return fields_of(lambda: krippendorff_alpha([scores(row) for row in rows], clusters=clusters))


def fields_of(figure: Callable[[], Any]) -> dict[str, Any]:
    """Fields of a figure, or the reason why it is undefined."""
    try:
        return asdict(figure())
    except UserError as error:
        return {"value": None, "undefined": str(error)}


# ---------------------------------------------------------------- all figures


def figures_of(results: Results, baseline: str, margin: float) -> dict[str, Any]:
    """All figures from judgements and ratings; see the module's docstring.

    Raises UserError for an unknown baseline, unknown question ids, duplicate ratings or no questions."""
    check_ids(results)
    if not results.questions:
        raise UserError("nothing to report: --questions contains no questions")
    table, questions = scores_of(results), results.questions
    models = sorted({model for by_model in table.values() for model in by_model})
    if baseline and baseline not in models:
        raise UserError(f"--baseline {baseline}: no such model; choose one of {', '.join(models)}")
    return {
        "questions": len(questions),
        "notes": len({question.note_id for question in questions.values()}),
        "unit": unit_of(questions.values()),
        "units": len(set(results.clusters)),
        "tasks": dict(Counter(question.task for question in questions.values())),
        "judges": {
            each.name: {
                **each.about,
                "verdicts": len(each.judgements),
                "missing": sum(bool(judgement.problem) for judgement in each.judgements),
            }
            for each in results.judged
        },
        "scored": {
            judge: len({name for by_question in by_model.values() for name, score in by_question.items() if score})
            for judge, by_model in table.items()
        },
        "raters": len({rating.rater for rating in results.ratings}),
        "scores": {
            judge: best_first({model: model_figures(by_question, questions) for model, by_question in by_model.items()})
            for judge, by_model in table.items()
        },
        "slices": {judge: slices_of(by_model, questions) for judge, by_model in table.items()},
        "comparisons": {
            judge: comparisons_of(by_model, results, baseline, margin)
            for judge, by_model in table.items()
            if baseline in by_model and len(by_model) > 1
        }
        if baseline
        else {},
        "baseline": baseline,
        "margin": margin,
        "agreement": agreement_of(results, table),
    }


def calibration_of(folders: Iterable[Path], judged: Iterable[Path]) -> dict[str, Any]:
    """Calibration figures of each judge, from its verdicts on answers with known errors."""
    labels = {name: label for folder in folders for name, label in read_labels(folder / "labels").items()}
    return {each.name: {**calibrate(labels, each.judgements), "about": each.about} for each in read_judged(judged)}
