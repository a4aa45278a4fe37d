"""Report an evaluation as one self-contained page, as JSON figures, and as Markdown for a model card.

    asclepius evaluate report --questions evaluation/questions --answers evaluation/answers \\
        --judged evaluation/judged/rules evaluation/judged/gpt --ratings evaluation/ratings \\
        --calibration calibration --calibration-judged calibration/judged/gpt --baseline base --out evaluation/report

    evaluation/report/report.html  report.json  report.md

The report uses stored results only, so running it again sends no requests.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.answers.answers import answers_hash, content_of_questions, read_answers
from asclepius_jax.evaluate.clinicians.sentences import citations, numbered
from asclepius_jax.evaluate.clinicians.verdicts import pieces
from asclepius_jax.evaluate.judge import claims
from asclepius_jax.evaluate.judge.hallucination import analyse
from asclepius_jax.evaluate.judge.rubric import MEANINGS, SCORES
from asclepius_jax.evaluate.protocol.prespecification import (
    WITH_TASKS,
    Analysis,
    is_confirmatory,
    read_prespecification,
    reported,
)
from asclepius_jax.evaluate.records import Answer, Question, Rating, read_records
from asclepius_jax.evaluate.report.figures import Plan, calibration_of, confirm_plan, figures_of
from asclepius_jax.evaluate.report.journal.contamination import contamination_of, models_of
from asclepius_jax.evaluate.report.journal.tripod import checklist
from asclepius_jax.evaluate.report.judges.judge_errors import judge_errors
from asclepius_jax.evaluate.report.judges.limits import limits
from asclepius_jax.evaluate.report.methods import methods_of, reasons_of
from asclepius_jax.evaluate.report.model_comparisons import Endpoint
from asclepius_jax.evaluate.report.results import CLINICIANS, Judged, Results, read_judged
from asclepius_jax.evaluate.report.tables import estimate, number, p_value, points, read_measured, share
from data_prep.contract.errors import UserError
from data_prep.contract.folders.folder_lock import locked
from data_prep.contract.folders.output_folders import write_durably
from data_prep.contract.manifests import read_manifest
from data_prep.contract.reports import evaluation_charts as draw
from data_prep.contract.reports import pages
from data_prep.execution.progress import say

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ReportConfig:
    questions: Path
    """Finished folder of questions."""

    out: Path
    """Output folder for report.html, report.json and report.md."""

    answers: tuple[Path, ...] = ()
    """Folders of answers, which are checked against their notes by rule."""

    judged: tuple[Path, ...] = ()
    """Folders of judgements, one per judge."""

    ratings: tuple[Path, ...] = ()
    """Folders of clinicians' ratings."""

    calibration: Path | None = None
    """Calibration folder that `asclepius evaluate plant` wrote."""

    calibration_judged: tuple[Path, ...] = ()
    """Folders of judgements on the answers of --calibration, one per judge, which show how reliable each judge is."""

    claims: tuple[Path, ...] = ()
    """Folders of claims, one per model that checked them."""

    measured: tuple[Path, ...] = ()
    """JSON files written by the score, realism, forgetting and privacy commands."""

    baseline: str = ""
    """Model with which the others are compared. Empty compares none, unless --pairwise."""

    pairwise: bool = False
    """Compare every pair of models instead of each with the baseline."""

    margin: float = 0.3
    """Largest difference of mean scores that would not matter, for the equivalence test. Choose it beforehand."""

    split: tuple[Path, ...] = ()
    """Folders that `asclepius split` wrote, from which the report says what is known of contamination."""

    trained_on: tuple[str, ...] = ()
    """Models that were trained on the training side of --split, by your account. Of checkpoints it is read from the
    run; of other models it is unknown."""

    tripod: Path | None = None
    """Markdown file for a draft of the TRIPOD-LLM checklist, filled in as far as these data allow."""

    prespecification: Path | None = None
    """File that `asclepius evaluate prespecify` wrote. The report names every departure from it; without it, all
    results are called exploratory."""


def run(config: ReportConfig) -> dict[str, Any]:
    """Write the three files and return the figures. Raises UserError for invalid options or input."""
    if not config.margin > 0:
        raise UserError(f"--margin {config.margin:g}: must be above 0")
    if config.pairwise and config.baseline:
        raise UserError(f"--pairwise compares every pair of models: leave out --baseline {config.baseline}")
    if bool(config.calibration) != bool(config.calibration_judged):
        raise UserError("--calibration and --calibration-judged must be given together")
    if not (config.answers or config.judged or config.ratings or config.calibration or config.measured):
        raise UserError("nothing to report: give --answers, --judged, --ratings, --calibration or --measured")
    questions = {question.id: question for question in read_records(config.questions, "questions", Question)}
    results = Results(questions, read_judged(config.judged))
    for folder in config.ratings:
        results.ratings += read_records(folder, "ratings", Rating)
        results.guesses += read_manifest(folder, "ratings").get("guesses", [])
    results.answers = answers = read_answers(config.answers, config.questions) if config.answers else {}
    spec, sha256 = read_prespecification(config.prespecification) if config.prespecification else (None, "")
    plan = None
    if spec:
        endpoint = Endpoint(spec.endpoint, spec.figure, spec.family == WITH_TASKS, spec.alpha)
        plan = Plan(endpoint, tuple(spec.subgroups))
    figures = figures_of(results, config.baseline, config.margin, config.pairwise, plan)
    figures["prespecification"] = reported(spec, sha256, analysis_of(figures, config)) if spec else {}
    figures["confirmatory"] = is_confirmatory(figures["prespecification"])
    if plan and figures["confirmatory"]:
        confirm_plan(figures, plan)
    figures["hallucination"] = analyse(questions, results.first_samples.answers)
    figures["other_answers"] = other_answers(results.judged, answers)
    figures["calibration"] = calibration_of(config.calibration, config.calibration_judged) if config.calibration else {}
    figures["judge_errors"] = judge_errors(results.first_samples, figures["calibration"])
    figures["claims"] = {
        read_manifest(folder, "claims")["checker"]: claims.figures_of(
            read_records(folder, "claims", claims.Claim), questions
        )
        for folder in config.claims
    }
    figures["contamination"] = (
        contamination_of(config.split, config.questions, questions, models_of(config.answers, config.trained_on))
        if config.split
        else {}
    )
    figures["measured"] = [read_measured(path) for path in config.measured]
    figures["limits"] = limits(figures)
    with locked(config.out):
        write_durably(config.out / "report.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        for name in ("report.html", "report.md"):
            write_durably(config.out / name, rendered(name, figures, questions))
    if config.tripod:
        write_durably(config.tripod, checklist(figures))
    say(f"report: {len(questions)} questions, {len(results.judged)} judges -> {config.out / 'report.html'}")
    return figures


def analysis_of(figures: Mapping[str, Any], config: ReportConfig) -> Analysis:
    """The analysis of this report, to be compared with its prespecification."""
    compared = figures["comparisons"].get(figures["main"], {})
    scored = figures["scored_units"].get(figures["main"], 0)
    return Analysis(
        judges=list(figures["scores"]),
        baseline=config.baseline,
        pairwise=config.pairwise,
        margin=config.margin,
        models=[model for model, row in figures["scores"].get(figures["main"], {}).items() if row["mean"]["n"]],
        tasks=list(figures["slices"].get(figures["main"], {}).get("task", figures["tasks"])),
        questions=content_of_questions(config.questions),
        tests=figures["family"]["tests"],
        patients=min((row["difference"]["clusters"] for row in compared.values()), default=scored),
        raters=figures["raters"],
        raters_of_units=figures["raters_of_units"],
    )


def other_answers(judged: Sequence[Judged], answers: Mapping[str, Mapping[str, Answer]]) -> list[str]:
    """Warnings about judges that judged other answers than the report shows."""
    warnings = []
    for each in judged if answers else ():
        models = each.about["models"] or []
        if absent := [model for model in models if model not in answers]:
            warnings.append(f"{each.name} scores {', '.join(absent)}, whose answers were not given.")
        elif each.about["answers"] not in ("", answers_hash({model: answers[model] for model in models})):
            warnings.append(
                f"{each.name} judged other answers than those on this page: run asclepius evaluate judge again."
            )
    return warnings


# ---------------------------------------------------------------- the page


def rendered(name: str, figures: Mapping[str, Any], questions: Mapping[str, Question] | None = None) -> str:
    """Text of one of the files. questions: those whose notes examples may show."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(estimate=estimate, share=share, points=points, p=p_value, cell=cell, number=number)
    main = figures["main"]
    text = environment.get_template(f"{name}.jinja").render(
        f=figures,
        main=main,
        charts=charts(figures, main),
        scores=SCORES,
        meanings=MEANINGS,
        limits=figures["limits"] if "limits" in figures else limits(figures),
        methods=methods_of(figures),
        reasons=reasons_of(figures),
        linked=partial(linked, questions=questions or {}),
    )
    return pages.page("Evaluation", text) if name.endswith(".html") else text


def linked(example: Mapping[str, str], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Example sentence in pieces, each with the number that it cites or 0, and the numbered note if it cites any.

    No example is about a restricted note, see `hallucination.analyse`."""
    question = questions.get(example["question_id"])
    note = question.note if question else ""
    places = citations(example["sentence"], note)
    words = [piece for group, _ in pieces(example["sentence"], (), places) for piece in group]
    return {"words": words, "note": numbered(note) if places else []}


def cell(text: str) -> str:
    """Text for one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def charts(figures: Mapping[str, Any], main: str) -> dict[str, str]:
    import markupsafe

    drawn: dict[str, str] = {}
    if main:
        counts = {model: row["distribution"] for model, row in figures["scores"][main].items()}
        drawn["distributions"] = draw.distributions(counts, main)
        if compared := figures["comparisons"].get(figures["shown"]["judge"]):
            rows = {model: row["difference"] for model, row in compared.items()}
            drawn["forest"] = draw.forest(rows, figures["margin"], figures["baseline"] or "the second model")
    if by_model := figures["hallucination"]:
        kinds = [kind for kind in all_kinds(by_model) if any(row["kinds"].get(kind) for row in by_model.values())]
        rows = {model: row["answers_with_unsupported"] for model, row in by_model.items()}
        drawn["unsupported"] = draw.bars(rows, "Share of answers that state something unsupported")
        drawn["classes"] = draw.class_bars(by_model, kinds)
    if correlated := figures["agreement"].get("with_clinicians"):
        values = {(CLINICIANS, judge): (row.get("spearman") or {}).get("value") for judge, row in correlated.items()}
        drawn["agreement"] = draw.matrix([CLINICIANS, *correlated], values)
    for judge, row in figures["calibration"].items():
        drawn[f"calibration {judge}"] = draw.bars(row["classes"], f"Planted errors that {judge} finds")
    for place, table in enumerate(figures["measured"]):
        if chart := table.get("chart"):
            drawn[f"measured {place}"] = draw.intervals(chart["rows"], chart["description"])
    return {name: markupsafe.Markup(drawing) for name, drawing in drawn.items()}


def all_kinds(by_model: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(kind for row in by_model.values() for kind in row["kinds"]))
