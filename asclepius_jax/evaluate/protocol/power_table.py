"""The smallest difference that a study detects, by its number of patients and raters.

asclepius evaluate power --patients 20 40 60 100 --raters 2 4 6

The standard deviations are those of the difference between two models' scores of one answer each; the rater-by-item
model of an earlier report gives them. The defaults are guesses for a pilot study.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from asclepius_jax.evaluate.report.tables import keep
from asclepius_jax.evaluate.statistics.power import POWER, Components, Design, planned_detectable
from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class StudySize:
    """Spread of the scores, on which the detectable difference depends besides the numbers of patients and raters."""

    sd_patient: float = 0.5
    """Standard deviation between patients of the difference between two models, in points."""

    sd_rater: float = 0.3
    """Standard deviation of that difference between raters, in points."""

    sd_residual: float = 0.8
    """Remaining standard deviation of that difference for one answer by one rater, in points."""

    questions_per_patient: int = 1
    """Number of questions per patient."""

    power: float = POWER
    """Probability with which the difference is to be detected."""

    alpha: float = 0.05
    """Level of the test, or of the whole family of tests in a prespecification."""


@dataclass(frozen=True)
class PowerConfig:
    patients: tuple[int, ...] = (20, 40, 60, 100, 200)
    """Numbers of patients."""

    raters: tuple[int, ...] = (1, 2, 4, 6)
    """Numbers of raters, who all score every patient."""

    size: tyro.conf.OmitArgPrefixes[StudySize] = field(default_factory=StudySize)

    out: Path | None = None
    """JSON file to write, which `report --measured` shows."""


def detectable(size: StudySize, design: Design, random_raters: bool) -> float | str:
    """Smallest detectable difference in points, or the reason why there is no test."""
    components = Components(size.sd_patient, size.sd_rater, size.sd_residual)
    wanted = Design(**{**asdict(design), "random_raters": random_raters})
    try:
        return planned_detectable(components, wanted, size.power, size.alpha)
    except UserError as error:
        return str(error)


def run(config: PowerConfig) -> dict[str, Any]:
    """Print the table and return it. Raises UserError for a power or numbers that are not possible."""
    size = config.size
    if not 0 < size.alpha < size.power < 1:
        raise UserError(f"--power {size.power:g}: must lie between --alpha {size.alpha:g} and 1")
    if min(size.sd_patient, size.sd_rater) < 0 or not size.sd_residual > 0:
        raise UserError("--sd-patient and --sd-rater must be 0 or more, --sd-residual above 0")
    if min((*config.patients, *config.raters, size.questions_per_patient), default=0) < 1:
        raise UserError("--patients, --raters and --questions-per-patient: numbers must be 1 or more")
    rows, figures = [], []
    for patients in config.patients:
        for raters in config.raters:
            design = Design(patients, raters, 0, size.questions_per_patient)
            these, like_these = (detectable(size, design, random) for random in (False, True))
            figures.append({**asdict(design), "these_raters": these, "raters_like_these": like_these})
            cells = [f"{value:.2f}" if isinstance(value, float) else "–" for value in (these, like_these)]
            rows.append([str(patients), str(raters), *cells])
    made = {
        "title": "Planned power",
        "about": f"Smallest difference of mean scores that a study detects with power {size.power:g} at level "
        f"{size.alpha:g}, in points. Standard deviations of the difference between two models: {size.sd_patient:g} "
        f"between patients, {size.sd_rater:g} between raters, {size.sd_residual:g} otherwise; "
        f"{size.questions_per_patient} question(s) per patient. “–”: no test with so few.",
        "columns": ["patients", "raters", "conclusion about these raters", "about all raters like these"],
        "table": rows,
        "figures": {"rows": figures, "size": asdict(size)},
    }
    keep(made, config.out)
    return made
