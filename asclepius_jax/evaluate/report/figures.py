"""Every figure of an evaluation, from its stored results: one nested dict that JSON holds and the report shows.

A score of an answer by a judge is the lower median of the votes that could be read; that of the jury, of all judges'
scores. What could not be read is missing and counted.
"""

import statistics as plain
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asclepius_jax.evaluate.judge.calibration import calibrate, read_labels, retest
from asclepius_jax.evaluate.records import Judgement, Question, Rating, read_records
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


@dataclass(frozen=True)
class Judged:
    """A folder of judgements, with what its manifest says of the judge."""

    name: str
    about: dict[str, Any]
    judgements: list[Judgement]


@dataclass
class Results:
    """What is stored of an evaluation."""

    questions: dict[str, Question]
    judged: list[Judged] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        return [question.note_id for question in self.questions.values()]


def read_judged(folders: Iterable[Path]) -> list[Judged]:
    judged = []
    for folder in folders:
        manifest = read_manifest(folder, "judgements")
        about = {name: manifest.get(name) for name in ("mode", "votes", "prompt", "teacher", "warnings", "models")}
        about["answers"] = manifest["inputs"].get("answers", "")
        judged.append(Judged(manifest["judge"], about, list(read_records(folder, "judgements", Judgement))))
    twice = [name for name, count in Counter(each.name for each in judged).items() if count > 1]
    if twice:
        raise UserError(f"two folders of judgements are by {twice[0]}: give one of them another --name")
    return judged


def check_ids(results: Results) -> None:
    found = [(f"judge {each.name}", j.question_id) for each in results.judged for j in each.judgements]
    found += [(f"rater {rating.rater}", rating.question_id) for rating in results.ratings]
    stray = next(((who, name) for who, name in found if name not in results.questions), None)
    if stray:
        raise UserError(f"{stray[0]} scores {stray[1]}, which is not among the questions: name the questions it judged")
    given = Counter((r.rater, r.question_id, r.model, r.repeat) for r in results.ratings)
    twice = next((key for key, count in given.items() if count > 1), None)
    if twice:
        raise UserError(f"rater {twice[0]} rates {twice[2]}'s answer to {twice[1]} twice: keep one of the ratings")


def lower_median(values: Sequence[int]) -> int:
    """Of those that are not missing; 0 where all are."""
    there = [value for value in values if value]
    return int(plain.median_low(there)) if there else 0


def scores_of(results: Results) -> Scores:
    """By each judge, by all judges as a jury where there are several, and by all clinicians together."""
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
            for model, mine in table[each.name].items():
                for question, one in mine.items():
                    together[model, question].append(one)
        for (model, question), given in together.items():
            table.setdefault(JURY, {}).setdefault(model, {})[question] = lower_median(given)
    return table


def column(mine: Mapping[str, int], ids: Iterable[str]) -> np.ndarray:
    return scores([mine.get(name, 0) for name in ids])


def of_model(mine: Mapping[str, int], questions: Mapping[str, Question]) -> dict[str, Any]:
    values = column(mine, questions)
    notes = [question.note_id for question in questions.values()]
    counts = Counter(int(value) for value in values if not np.isnan(value))
    return {
        "mean": asdict(mean(values, notes)),
        "distribution": {str(score): counts[score] for score in (1, 2, 3, 4)},
        "unacceptable": asdict(unacceptable_rate(values)),
    }


def best_first(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(sorted(models.items(), key=lambda item: (-(item[1]["mean"]["value"] or 0.0), item[0])))


# ---------------------------------------------------------------- slices


def length_of(question: Question) -> str:
    words = len(question.note.split())
    return next((name for most, name in LENGTHS if words < most), LONGEST)


def place_of(name: str) -> tuple[int, str]:
    """Lengths from short to long, other names by the alphabet."""
    lengths = [*(length for _, length in LENGTHS), LONGEST]
    return (lengths.index(name) if name in lengths else 0), name


SLICES: dict[str, Callable[[Question], str]] = {
    "task": lambda question: question.task,
    "note type": lambda question: question.note_type,
    "source": lambda question: question.source,
    "year": lambda question: question.year,
    "note length": length_of,
}


def slices_of(mine: Mapping[str, Mapping[str, int]], questions: Mapping[str, Question]) -> dict[str, Any]:
    """For each way to slice, each slice's mean by model; a way in which all questions are one slice says nothing."""
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
                        model: asdict(mean(column(given, group), [q.note_id for q in group.values()]))
                        for model, given in mine.items()
                    },
                }
                for name, group in sorted(groups.items(), key=lambda item: place_of(item[0]))
            }
    return figures


# ---------------------------------------------------------------- comparisons


def comparisons_of(
    mine: Mapping[str, Mapping[str, int]], results: Results, baseline: str, margin: float
) -> dict[str, Any]:
    """Every other model against the baseline: difference, tests, equivalence, and by task with Holm's correction."""
    questions, notes = results.questions, results.notes
    figures: dict[str, Any] = {}
    for model, given in mine.items():
        if model == baseline:
            continue
        first, second = column(given, questions), column(mine[baseline], questions)
        by_task: dict[str, Any] = {}
        for task in sorted({question.task for question in questions.values()}):
            ids = [name for name, question in questions.items() if question.task == task]
            found = compare(column(given, ids), column(mine[baseline], ids), [questions[name].note_id for name in ids])
            by_task[task] = {"difference": asdict(found.difference), "p": found.sign_flip.p}
        holm = by_holm({task: told["p"] for task, told in by_task.items()})
        for task, told in by_task.items():
            told["p_holm"] = holm[task]
        figures[model] = {
            **asdict(compare(first, second, notes)),
            "equivalence": asdict(equivalent(first, second, notes, margin)),
            "unacceptable": asdict(mcnemar(first, second)),
            "detectable": asdict(detectable_difference(first, second, notes)),
            "tasks": by_task,
        }
    return figures


# ---------------------------------------------------------------- agreement


def agreement_of(results: Results, table: Scores) -> dict[str, Any]:
    """Between judges, between clinicians, of both with one another, and of a rater or judge with itself."""
    notes = {question.id: question.note_id for question in results.questions.values()}
    figures: dict[str, Any] = {
        "retest": {each.name: told for each in results.judged if (told := retest(each.judgements, notes))},
    }
    items = sorted({(model, name) for mine in table.values() for model, given in mine.items() for name in given})
    names = [each.name for each in results.judged]
    if len(names) > 1:
        figures["judges"] = alpha(
            [[table[judge].get(m, {}).get(q, 0) for m, q in items] for judge in names], notes, items
        )
    raters = sorted({rating.rater for rating in results.ratings})
    if raters:
        given = {(r.rater, r.model, r.question_id, r.repeat): r.score for r in results.ratings}
        rows = [[given.get((rater, m, q, 0), 0) for m, q in items] for rater in raters]
        figures["clinicians"] = alpha(rows, notes, items)
        repeated = [(rater, m, q) for rater, m, q, repeat in given if repeat]
        if repeated:
            pairs = [[given.get((*key, again), 0) for key in repeated] for again in (0, 1)]
            figures["same_clinician"] = alpha(pairs, notes, [(m, q) for _, m, q in repeated])
        wrong = called_incorrect([(r.model, r.question_id, r.incorrect) for r in results.ratings if r.score])
        figures["incorrect_by_clinicians"] = {
            each.name: told
            for each in results.judged
            if (told := finds(wrong, [(j.model, j.question_id, j.incorrect) for j in each.judgements if j.score]))
        }
        figures["with_clinicians"] = {
            judge: with_clinicians(table, judge, items, notes) for judge in table if judge != CLINICIANS
        }
    return figures


def called_incorrect(told: Iterable[tuple[str, str, bool]]) -> dict[tuple[str, str], bool]:
    """(model, question) -> whether more than half call the answer incorrect."""
    votes: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for model, question, incorrect in told:
        votes[model, question].append(incorrect)
    return {answer: 2 * sum(given) > len(given) for answer, given in votes.items()}


def finds(wrong: Mapping[tuple[str, str], bool], told: Iterable[tuple[str, str, bool]]) -> dict[str, Any]:
    """Of the answers that clinicians call incorrect, those that a judge does; and of the others, those that it does
    not. None of its verdicts is missing here."""
    ours = called_incorrect(told)
    both = [(wrong[answer], ours[answer]) for answer in wrong if answer in ours]
    return {
        "sensitivity": asdict(rate([ours for theirs, ours in both if theirs])),
        "specificity": asdict(rate([not ours for theirs, ours in both if not theirs])),
    }


def with_clinicians(
    table: Scores, judge: str, items: Sequence[tuple[str, str]], notes: Mapping[str, str]
) -> dict[str, Any]:
    theirs, ours = (
        scores([table.get(name, {}).get(model, {}).get(question, 0) for model, question in items])
        for name in (CLINICIANS, judge)
    )
    clusters = [notes[question] for _, question in items]
    told = told_of(lambda: correlations(ours, theirs, clusters))
    return {**told, "kappa": told_of(lambda: quadratic_kappa(ours, theirs, clusters))}


def alpha(rows: list[list[int]], notes: Mapping[str, str], items: Sequence[tuple[str, str]]) -> dict[str, Any]:
    clusters = [notes[question] for _, question in items]
    return told_of(lambda: krippendorff_alpha([scores(row) for row in rows], clusters=clusters))


def told_of(figure: Callable[[], Any]) -> dict[str, Any]:
    """A figure's fields, or the reason why there is none."""
    try:
        return asdict(figure())
    except UserError as error:
        return {"value": None, "undefined": str(error)}


# ---------------------------------------------------------------- all of it


def figures_of(results: Results, baseline: str, margin: float) -> dict[str, Any]:
    """What the judges and clinicians say; see the module's docstring."""
    check_ids(results)
    if not results.questions:
        raise UserError("there are no questions: nothing to report")
    table, questions = scores_of(results), results.questions
    models = sorted({model for mine in table.values() for model in mine})
    if baseline and baseline not in models:
        raise UserError(f"--baseline {baseline}: no such model; one of {', '.join(models)}")
    return {
        "questions": len(questions),
        "notes": len(set(results.notes)),
        "tasks": dict(Counter(question.task for question in questions.values())),
        "judges": {
            each.name: {
                **each.about,
                "verdicts": len(each.judgements),
                "missing": sum(bool(judgement.problem) for judgement in each.judgements),
            }
            for each in results.judged
        },
        "raters": len({rating.rater for rating in results.ratings}),
        "scores": {
            judge: best_first({model: of_model(given, questions) for model, given in mine.items()})
            for judge, mine in table.items()
        },
        "slices": {judge: slices_of(mine, questions) for judge, mine in table.items()},
        "comparisons": {
            judge: comparisons_of(mine, results, baseline, margin)
            for judge, mine in table.items()
            if baseline in mine and len(mine) > 1
        }
        if baseline
        else {},
        "baseline": baseline,
        "margin": margin,
        "agreement": agreement_of(results, table),
    }


def calibration_of(folders: Iterable[Path], judged: Iterable[Path]) -> dict[str, Any]:
    """For each judge of a calibration set, what it is worth."""
    labels = {name: label for folder in folders for name, label in read_labels(folder / "labels").items()}
    return {each.name: {**calibrate(labels, each.judgements), "about": each.about} for each in read_judged(judged)}
