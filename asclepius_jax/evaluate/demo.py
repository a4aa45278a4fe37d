"""A small version of the whole evaluation, without a network: rule-based teacher, demo model and random weights.

asclepius demo && asclepius evaluate demo
"""

import importlib.util
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from asclepius_jax.evaluate.answers import answers
from asclepius_jax.evaluate.answers.specs import Decoding
from asclepius_jax.evaluate.audits import realism
from asclepius_jax.evaluate.judge import judge, plant
from asclepius_jax.evaluate.judge.by_rule import RULES
from asclepius_jax.evaluate.questions import questions
from asclepius_jax.evaluate.report import report
from asclepius_jax.evaluate.report.tables import estimate, share
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import recording_files
from data_prep.execution.progress import say
from data_prep.teachers.base import TeacherConfig

REPORTS = Path(__file__).resolve().parents[2] / "data_prep" / "ingest" / "demo_reports.jsonl"
MODELS = ("teacher by rule", "demo model", "random weights")  # expected order, best first


@dataclass(frozen=True)
class DemoConfig:
    """Evaluate the demo's model in a few minutes."""

    demo: Path = Path("runs/demo")
    """Folder that `asclepius demo` wrote."""

    out: Path = Path("runs/demo/evaluation")
    """Output folder."""

    per_task: int = 6
    """Number of questions per task."""


def run(config: DemoConfig) -> dict[str, Any]:
    """Run every part from questions to report and return the report's figures. Raises UserError without a demo."""
    needed = {name: config.demo / name for name in ("notes", "instructions", "hf")}
    missing = [str(path) for path in needed.values() if not path.is_dir()]
    if missing:
        raise UserError(f"{missing[0]} is missing: run asclepius demo first, or give its folder with --demo")
    with recording_files(config.demo):  # a later demo replaces them
        return run_parts(config, needed)


def run_parts(config: DemoConfig, needed: dict[str, Path]) -> dict[str, Any]:
    started, out, folder = time.monotonic(), config.out, needed["hf"]
    questions.run(questions.QuestionsConfig(needed["instructions"], out / "questions", config.per_task))
    specs: tuple[str, ...] = (f"{MODELS[0]}=offline:", f"{MODELS[1]}=hf:{folder}", f"{MODELS[2]}=untrained:{folder}")
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        say("torch is not installed: using the checkpoint, skipping random weights and realism")
        specs = (specs[0], f"{MODELS[1]}=checkpoint:{config.demo / 'instruct'}")
    answers.run(
        answers.AnswersConfig(
            out / "questions", specs, out / "answers", Decoding(max_new_tokens=128, batch=16), teacher=TeacherConfig()
        )
    )
    by_rule = judge.JudgeConfig(out / "questions", (out / "answers",), out / "judged", RULES)
    by_rule = replace(by_rule, teacher=TeacherConfig(model=RULES))
    judge.run(by_rule)
    plant.run(plant.PlantConfig(needed["instructions"], out / "calibration", per_class=20))
    calibration = out / "calibration"
    judge.run(
        replace(
            by_rule, questions=calibration / "questions", answers=(calibration / "answers",), out=calibration / "judged"
        )
    )
    if with_torch:
        realism.run(
            realism.RealismConfig(
                scorer=folder,
                sources=(f"notes by rule={needed['notes']}", f"case reports={REPORTS}"),
                out=out / "realism.json",
                sample=24,
            )
        )
    figures = report.run(
        report.ReportConfig(
            questions=out / "questions",
            out=out / "report",
            answers=(out / "answers",),
            judged=(out / "judged",),
            calibration=calibration,
            calibration_judged=(calibration / "judged",),
            measured=(out / "realism.json",) if with_torch else (),
            baseline=MODELS[1],
        )
    )
    show(figures)
    say(f"evaluate demo: {time.monotonic() - started:.0f} s -> {out / 'report' / 'report.html'}")
    return figures


def show(figures: dict[str, Any]) -> None:
    table = Table(
        "model", "mean score", "unacceptable", "states something unsupported", title="asclepius evaluate demo"
    )
    for model in (name for name in MODELS if name in figures["scores"][RULES]):
        scored = figures["scores"][RULES][model]
        table.add_row(
            model,
            estimate(scored["mean"]),
            share(scored["unacceptable"]),
            share(figures["hallucination"][model]["answers_with_unsupported"]),
        )
    Console(width=110).print(table)
