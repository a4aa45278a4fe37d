"""Write down, before the scores are seen, what an evaluation will test.

    asclepius evaluate prespecify --out prespecification.json --endpoint clinicians --models mine base \\
        --baseline base --patients 60 --raters 4 --hypotheses "mine scores higher than base"

The report checks that its analysis matches the file, and calls everything else exploratory.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import tyro

from asclepius_jax.evaluate.answers.answers import content_of_questions
from asclepius_jax.evaluate.protocol.power_table import StudySize, detectable
from asclepius_jax.evaluate.protocol.prespecification import (
    SCHEMA,
    UNACCEPTABLE,
    WITH_TASKS,
    WITHOUT_TASKS,
    Prespecification,
    read_prespecification,
)
from asclepius_jax.evaluate.statistics.power import Design
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import write_durably


@dataclass(frozen=True)
class PrespecifyConfig:
    out: Path
    """JSON file to write. An existing one is never replaced."""

    endpoint: str
    """Whose scores decide: clinicians, jury, or the name of a judge as in the report's tables."""

    models: tuple[str, ...]
    """Models that will be compared, as they are named in the answers."""

    patients: int
    """Number of independent units (patients, articles or notes, whichever is the coarsest) that will be scored."""

    raters: int = 1
    """Number of clinicians. 1 for a judge."""

    figure: Literal["mean score", "unacceptable"] = "mean score"
    """Figure that is compared: the mean score, or the share of unacceptable answers."""

    baseline: str = ""
    """Model with which the others are compared; empty compares every pair."""

    margin: float = 0.3
    """Largest difference of mean scores that would not matter, for the equivalence test."""

    by_task: bool = True
    """Test each task as well as all questions. Shares of unacceptable answers are tested over all questions only."""

    tasks: tuple[str, ...] = ()
    """Tasks of the questions; empty leaves them open."""

    questions: Path | None = None
    """Folder of questions, whose hash is written down."""

    subgroups: tuple[Literal["age group", "sex", "specialty"], ...] = ()
    """Subgroups whose interaction tests are confirmatory."""

    raters_per_patient: int = 0
    """Number of raters who score each patient; 0 for all."""

    size: tyro.conf.OmitArgPrefixes[StudySize] = field(default_factory=StudySize)

    exclusions: tuple[str, ...] = ()
    """Answers and raters that the analysis will leave out, and why, in sentences."""

    hypotheses: tuple[str, ...] = ()
    """Hypotheses, in sentences."""


def run(config: PrespecifyConfig) -> dict[str, Any]:
    """Write the file, print its hash and return its content. Raises UserError for a plan that cannot be carried out."""
    if config.out.exists():
        raise UserError(f"{config.out} exists: a prespecification is not changed afterwards; choose another --out")
    check(config)
    design = Design(config.patients, config.raters, config.raters_per_patient, config.size.questions_per_patient)
    spec = Prespecification(
        schema=SCHEMA,
        written=datetime.now(UTC).date().isoformat(),
        endpoint=config.endpoint,
        figure=config.figure,
        baseline=config.baseline,
        margin=config.margin,
        alpha=config.size.alpha,
        family=WITH_TASKS if config.by_task and config.figure != UNACCEPTABLE else WITHOUT_TASKS,
        models=sorted(config.models),
        tasks=sorted(config.tasks),
        questions=content_of_questions(config.questions) if config.questions else "",
        subgroups=sorted(config.subgroups),
        sample_size={
            "patients": config.patients,
            "raters": config.raters,
            "raters_per_patient": config.raters_per_patient or config.raters,
            **asdict(config.size),
            "detectable_by_these_raters": detectable(config.size, design, False),
            "detectable_by_raters_like_these": detectable(config.size, design, True),
        },
        exclusions=list(config.exclusions),
        hypotheses=list(config.hypotheses),
    )
    write_durably(config.out, json.dumps(asdict(spec), indent=1, ensure_ascii=False) + "\n")
    _, sha256 = read_prespecification(config.out)
    print(f"prespecification -> {config.out}\nSHA-256 {sha256}: deposit it in a registry before the scores are seen")
    return asdict(spec)


def check(config: PrespecifyConfig) -> None:
    if len(set(config.models)) < max(2, len(config.models)):
        raise UserError(f"--models {' '.join(config.models)}: give at least two different models")
    if config.baseline and config.baseline not in config.models:
        raise UserError(f"--baseline {config.baseline}: must be one of --models {' '.join(config.models)}")
    if not config.margin > 0:
        raise UserError(f"--margin {config.margin:g}: must be above 0")
    if not 0 < config.size.alpha < config.size.power < 1:
        raise UserError(f"--alpha {config.size.alpha:g}: must lie between 0 and --power {config.size.power:g}")
