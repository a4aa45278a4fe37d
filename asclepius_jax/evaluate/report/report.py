"""One self-contained page of an evaluation, with its figures as JSON and as Markdown for a model card beside it.

    asclepius evaluate report --questions evaluation/questions --answers evaluation/answers \\
        --judged evaluation/judged/rules evaluation/judged/gpt --ratings evaluation/ratings \\
        --calibration calibration --calibration-judged calibration/judged/gpt --baseline base --out evaluation/report

    evaluation/report/report.html  report.json  report.md

Everything comes from stored results; running it again asks nobody anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.answers.answers import answers_hash, read_answers
from asclepius_jax.evaluate.judge import claims
from asclepius_jax.evaluate.judge.hallucination import analyse
from asclepius_jax.evaluate.judge.rubric import MEANINGS, SCORES
from asclepius_jax.evaluate.records import Answer, Question, Rating, read_records
from asclepius_jax.evaluate.report import charts as report_charts
from asclepius_jax.evaluate.report.figures import (
    CLINICIANS,
    JURY,
    Judged,
    Results,
    calibration_of,
    figures_of,
    read_judged,
)
from asclepius_jax.evaluate.report.tables import estimate, p_value, read_measured, share
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, write_durably
from data_prep.execution.progress import say

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ReportConfig:
    questions: Path
    """A finished folder of questions."""

    out: Path
    """The folder to write report.html, report.json and report.md into."""

    answers: tuple[Path, ...] = ()
    """Folders of answers: they are checked against their notes by rule."""

    judged: tuple[Path, ...] = ()
    """Folders of judgements, one for each judge."""

    ratings: tuple[Path, ...] = ()
    """Folders of clinicians' ratings."""

    calibration: Path | None = None
    """What `asclepius evaluate plant` wrote."""

    calibration_judged: tuple[Path, ...] = ()
    """Folders of judgements on its answers: what each judge is worth."""

    claims: tuple[Path, ...] = ()
    """Folders of claims, one for each model that checked them."""

    measured: tuple[Path, ...] = ()
    """JSON files of gold tasks, realism, forgetting and privacy, as their commands write them."""

    baseline: str = ""
    """The model that the others are compared with."""

    margin: float = 0.3
    """Difference of mean scores that would not matter, for the test of equivalence; decide on it beforehand."""


def run(config: ReportConfig) -> dict[str, Any]:
    """Write the three files; the figures. UserError for what the caller can mend."""
    if not config.margin > 0:
        raise UserError(f"--margin {config.margin:g}: it must be above 0")
    if bool(config.calibration) != bool(config.calibration_judged):
        raise UserError("--calibration and --calibration-judged belong together")
    if not (config.answers or config.judged or config.ratings or config.calibration or config.measured):
        raise UserError("nothing to report: give --answers, --judged, --ratings, --calibration or --measured")
    questions = {question.id: question for question in read_records(config.questions, "questions", Question)}
    results = Results(questions, read_judged(config.judged))
    for folder in config.ratings:
        results.ratings += read_records(folder, "ratings", Rating)
    figures = figures_of(results, config.baseline, config.margin)
    answers = read_answers(config.answers, config.questions) if config.answers else {}
    figures["hallucination"] = analyse(questions, answers)
    figures["other_answers"] = other_answers(results.judged, answers)
    figures["calibration"] = (
        calibration_of([config.calibration], config.calibration_judged) if config.calibration else {}
    )
    figures["claims"] = {
        read_manifest(folder, "claims")["checker"]: claims.figures_of(
            read_records(folder, "claims", claims.Claim), questions
        )
        for folder in config.claims
    }
    figures["measured"] = [read_measured(path) for path in config.measured]
    config.out.mkdir(parents=True, exist_ok=True)
    write_durably(config.out / "report.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    for name in ("report.html", "report.md"):
        write_durably(config.out / name, rendered(name, figures))
    say(f"report: {len(questions)} questions, {len(results.judged)} judges -> {config.out / 'report.html'}")
    return figures


def other_answers(judged: Sequence[Judged], answers: Mapping[str, Mapping[str, Answer]]) -> list[str]:
    """What is known of judges who did not judge the answers that are shown."""
    told = []
    for each in judged if answers else ():
        models = each.about["models"] or []
        if absent := [model for model in models if model not in answers]:
            told.append(f"{each.name} scores {', '.join(absent)}, whose answers were not given.")
        elif each.about["answers"] not in ("", answers_hash({model: answers[model] for model in models})):
            told.append(
                f"{each.name} judged other answers than those of this page: run asclepius evaluate judge again."
            )
    return told


# ---------------------------------------------------------------- the page


def rendered(name: str, figures: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(estimate=estimate, share=share, p=p_value, cell=cell)
    main = main_judge(figures)
    return environment.get_template(f"{name}.jinja").render(
        f=figures, main=main, charts=charts(figures, main), scores=SCORES, meanings=MEANINGS, limits=limits(figures)
    )


def cell(text: str) -> str:
    """In a table of Markdown."""
    return " ".join(text.replace("|", "\\|").split())


def main_judge(figures: Mapping[str, Any]) -> str:
    """Whose scores the page begins with: clinicians before a jury before the one judge."""
    names = list(figures["scores"])
    return next((name for name in (CLINICIANS, JURY) if name in names), names[0] if names else "")


def charts(figures: Mapping[str, Any], main: str) -> dict[str, str]:
    import markupsafe

    drawn: dict[str, str] = {}
    if main:
        of_main = figures["scores"][main]
        drawn["distributions"] = report_charts.distributions({m: told["distribution"] for m, told in of_main.items()})
        if compared := figures["comparisons"].get(main):
            rows = {model: told["difference"] for model, told in compared.items()}
            drawn["forest"] = report_charts.forest(rows, figures["margin"], figures["baseline"])
    if found := figures["hallucination"]:
        kinds = [kind for kind in all_kinds(found) if any(told["kinds"].get(kind) for told in found.values())]
        rows = {model: told["answers_with_unsupported"] for model, told in found.items()}
        drawn["unsupported"] = report_charts.bars(rows, "Share of answers that say something unsupported")
        drawn["classes"] = report_charts.class_bars(found, kinds)
    if correlated := figures["agreement"].get("with_clinicians"):
        values = {(CLINICIANS, judge): (told.get("spearman") or {}).get("value") for judge, told in correlated.items()}
        drawn["agreement"] = report_charts.matrix([CLINICIANS, *correlated], values)
    for judge, told in figures["calibration"].items():
        drawn[f"calibration {judge}"] = report_charts.bars(told["classes"], f"Planted errors that {judge} finds")
    for number, told in enumerate(figures["measured"]):
        if chart := told.get("chart"):
            drawn[f"measured {number}"] = report_charts.intervals(chart["rows"], chart["description"])
    return {name: markupsafe.Markup(drawing) for name, drawing in drawn.items()}


def all_kinds(found: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(kind for told in found.values() for kind in told["kinds"]))


def limits(figures: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the page."""
    told: list[str] = list(figures["other_answers"])
    for judge, about in figures["judges"].items():
        told += about["warnings"] or []
        if about["mode"] == "rules":
            told.append(
                f"{judge} judges by rule: it sees numbers, doses, dates, sides, negations, drugs and findings, and the "
                "words of the known answer; not what they mean together."
            )
            if judge in figures["calibration"]:
                told.append(
                    f"On planted errors {judge} has the right answer beside it: omissions are easy to see there."
                )
        if about["missing"]:
            told.append(f"{about['missing']} of {about['verdicts']} verdicts of {judge} are missing.")
        if judge not in figures["calibration"]:
            told.append(f"{judge} was not tried on answers with known errors.")
    for judge, worth in figures["calibration"].items():
        low = worth["youden"]
        about = figures["judges"].get(judge, worth["about"])
        if other := [name for name in ("mode", "prompt", "teacher") if about[name] != worth["about"][name]]:
            told.append(
                f"{judge} was tried on known errors with another {' and '.join(other)} than it judges with here."
            )
        if low is None:
            told.append(
                f"{judge} gave no readable verdict on right or on wrong answers: nothing is known of its worth."
            )
        elif low < 0.5:
            told.append(
                f"{judge} tells right answers from wrong ones little better than chance (sensitivity + specificity - 1 "
                f"is {low:.2f}): its scores should not be relied on."
            )
    if not figures["raters"]:
        told.append("No clinician rated these answers.")
    if figures["notes"] < figures["questions"]:
        told.append(
            "Questions on one note are not independent: intervals of means resample notes; those of shares of answers, "
            "McNemar's test and Wilcoxon's do not."
        )
    return told
