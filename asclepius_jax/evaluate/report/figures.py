"""Compute every figure of an evaluation from its stored results, as one nested dict for JSON and the report.

Every interval names its method; `docs/statistics.md` says what the methods are and how well they cover.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.judge.asking.required import required_content
from asclepius_jax.evaluate.judge.calibration import calibrate, read_labels
from asclepius_jax.evaluate.judge.rubric import SCORES
from asclepius_jax.evaluate.records import Question, read_records, unit_of
from asclepius_jax.evaluate.report.as_in_paper import as_in_paper
from asclepius_jax.evaluate.report.journal.blinding import blinding_of
from asclepius_jax.evaluate.report.journal.rater_figures import rater_model_of
from asclepius_jax.evaluate.report.journal.seeds import seeds_of
from asclepius_jax.evaluate.report.journal.subgroups import confirm_subgroups, subgroups_of
from asclepius_jax.evaluate.report.journal.verifying_times import verifying_times
from asclepius_jax.evaluate.report.judges.judge_agreement import agreement_of
from asclepius_jax.evaluate.report.judges.judge_errors import harm_of
from asclepius_jax.evaluate.report.judges.judge_readings import positions_of, readings_of
from asclepius_jax.evaluate.report.judges.votes import votes_of
from asclepius_jax.evaluate.report.model_comparisons import (
    Endpoint,
    comparisons_of,
    confirm,
    family_of,
    pairs_of_models,
    score_column,
    shown_of,
    unacceptable_column,
)
from asclepius_jax.evaluate.report.results import (
    MISSING,
    Cluster,
    Joined,
    Results,
    Table,
    asked_of,
    check_ids,
    main_judge,
    read_judged,
    scores_of,
)
from asclepius_jax.evaluate.statistics.estimates import SCALE, mean, rate
from asclepius_jax.evaluate.statistics.intervals import FEWEST_CLUSTERS
from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class Plan:
    """The prespecified part of an analysis."""

    endpoint: Endpoint
    subgroups: tuple[str, ...] = ()  # whose interaction tests are confirmatory


LENGTHS = ((200, "under 200 words"), (500, "200 to 499 words"), (1000, "500 to 999 words"))
LONGEST = "1,000 words and more"


def model_figures(by_question: Mapping[str, Joined], questions: Mapping[str, Question]) -> dict[str, Any]:
    clusters = [question.cluster for question in questions.values()]
    shares = [by_question.get(name, MISSING).shares for name in questions]
    return {
        "mean": asdict(mean(score_column(by_question, questions), clusters, SCALE)),
        # Votes that differ divide their answer, so that the counts have the same mean as the joined scores.
        "distribution": {
            str(score): sum(column) for score, column in zip(SCORES, zip(*shares, strict=True), strict=True)
        },
        "unacceptable": asdict(rate(list(unacceptable_column(by_question, questions)), clusters)),
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


def slices_of(by_model: Mapping[str, Mapping[str, Joined]], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Mean score of each model by slice, for every criterion but those that put all questions into one slice.

    A slice of fewer than five clusters is suppressed, as a subgroup is."""
    figures: dict[str, Any] = {}
    for way, name_of in SLICES.items():
        groups: dict[str, dict[str, Question]] = defaultdict(dict)
        for question in questions.values():
            groups[name_of(question) or "not known"][question.id] = question
        if len(groups) > 1 or way == "task":
            figures[way] = {
                name: slice_figures(by_model, group)
                for name, group in sorted(groups.items(), key=lambda item: slice_order(item[0]))
            }
    return figures


def slice_figures(by_model: Mapping[str, Mapping[str, Joined]], group: Mapping[str, Question]) -> dict[str, Any]:
    clusters = [question.cluster for question in group.values()]
    found: dict[str, Any] = {"questions": len(group), "clusters": len(set(clusters)), "suppressed": ""}
    if found["clusters"] < FEWEST_CLUSTERS:
        return {**found, "suppressed": f"fewer than {FEWEST_CLUSTERS} clusters", "models": {}}
    found["models"] = {
        model: asdict(mean(score_column(by_question, group), clusters, SCALE))
        for model, by_question in by_model.items()
    }
    return found


# ---------------------------------------------------------------- all figures


def figures_of(
    results: Results, baseline: str, margin: float, pairwise: bool = False, plan: Plan | None = None
) -> dict[str, Any]:
    """All figures from judgements and ratings; see the module's docstring.

    plan: what was prespecified; otherwise mean scores by the main judge, over all questions and each task.

    Raises UserError for an unknown baseline, unknown question ids, duplicate ratings or no questions."""
    check_ids(results)
    if not results.questions:
        raise UserError("nothing to report: --questions contains no questions")
    table, first = scores_of(results), results.first_samples
    # Clinicians rate first samples, and the paper's tables know no others.
    first_table = scores_of(first)
    models = sorted({model for by_model in table.values() for model in by_model})
    if baseline and baseline not in models:
        raise UserError(f"--baseline {baseline}: no such model; choose one of {', '.join(models)}")
    plan = plan or Plan(Endpoint(main_judge(table)))
    endpoint = plan.endpoint
    if endpoint.judge not in table:
        endpoint = Endpoint(main_judge(table), level=endpoint.level)
    main, of_main = endpoint.judge, table.get(endpoint.judge, {})
    asked = asked_of(table, main, results.questions)
    pairs = pairs_of_models(models, baseline, pairwise)
    compared = comparisons_of(table, results.questions, pairs, margin, endpoint)
    return {
        **counts_of(results, table),
        "main": main,
        "scores": {
            judge: best_first(
                {
                    model: model_figures(by_question, asked_of(table, judge, results.questions))
                    for model, by_question in by_model.items()
                }
            )
            for judge, by_model in table.items()
        },
        "slices": {
            judge: slices_of(by_model, asked_of(table, judge, results.questions)) for judge, by_model in table.items()
        },
        "comparisons": compared,
        "family": family_of(compared, endpoint, baseline),
        "shown": shown_of(compared, table, pairs, main),
        "baseline": baseline,
        "margin": margin,
        "agreement": agreement_of(first, first_table),
        "readings": readings_of(first, first_table, baseline),
        "position": positions_of(results),
        "harm": harm_of(first),
        "votes": votes_of(results, table),
        "seeds": seeds_of(results),
        "subgroups": subgroups_of(of_main, asked, pairs),
        "rater_model": rater_model_of(results, baseline),
        "verifying_times": verifying_times(results.first_ratings, results.questions),
        "blinding": blinding_of(results.guesses, results.questions),
        "as_in_paper": as_in_paper(first, first_table, pairs),
    }


def confirm_plan(figures: Mapping[str, Any], plan: Plan) -> None:
    """Mark what was prespecified as confirmatory, once the analysis is known to follow its prespecification."""
    confirm(figures["comparisons"].get(plan.endpoint.judge, {}), plan.endpoint)
    confirm_subgroups(figures["subgroups"], plan.subgroups)


def counts_of(results: Results, table: Table) -> dict[str, Any]:
    """Numbers of questions, verdicts, and raters who gave a score."""
    questions = results.questions
    readable = [rating for rating in results.first_ratings if rating.score]
    raters_of_units: dict[Cluster, set[str]] = defaultdict(set)
    for rating in readable:
        raters_of_units[questions[rating.question_id].cluster].add(rating.rater)
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
            judge: len({name for found in by_model.values() for name, verdict in found.items() if any(verdict.shares)})
            for judge, by_model in table.items()
        },
        "scored_units": {
            judge: len(
                {
                    questions[name].cluster
                    for found in by_model.values()
                    for name, verdict in found.items()
                    if any(verdict.shares)
                }
            )
            for judge, by_model in table.items()
        },
        "raters": len({rating.rater for rating in readable}),
        # number of raters -> number of units that so many scored
        "raters_of_units": dict(sorted(Counter(map(len, raters_of_units.values())).items())),
    }


def calibration_of(folder: Path, judged: Iterable[Path]) -> dict[str, Any]:
    """Calibration figures of each judge, from its verdicts on answers with known errors."""
    labels = read_labels(folder / "labels")
    questions = {q.id: q for q in read_records(folder / "questions", "questions", Question)}
    units = {name: question.cluster for name, question in questions.items()}
    has_required = any(required_content(question) for question in questions.values())
    return {
        each.name: {
            **calibrate(labels, each.judgements, units),
            "about": each.about,
            "sees_required": has_required,
            "unit": unit_of(questions.values()),
        }
        for each in read_judged(judged)
    }
