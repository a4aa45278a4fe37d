"""The prespecification of an evaluation: a JSON file, its hash, and how far an analysis departs from it.

    {"schema": 1, "written": "2025-03-01", "endpoint": "clinicians", "figure": "mean score", "baseline": "base",
     "margin": 0.3, "alpha": 0.05, "family": "all questions and each task", "models": ["base", "mine"], ...}

The date is what the file says. Deposit the file, or its hash, in a public registry before the scores are seen: only
that proves when it was written.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError

SCHEMA = 1
MEAN_SCORE, UNACCEPTABLE = "mean score", "unacceptable"
FIGURES = (MEAN_SCORE, UNACCEPTABLE)
WITH_TASKS, WITHOUT_TASKS = "all questions and each task", "all questions"


@dataclass(frozen=True)
class Prespecification:
    schema: int
    written: str  # date, ISO 8601
    endpoint: str  # whose scores are tested: "clinicians", "jury" or the name of a judge
    figure: str  # one of FIGURES
    baseline: str  # empty: every pair of models
    margin: float  # of equivalence, in points
    alpha: float  # level of the family of tests
    family: str  # WITH_TASKS or WITHOUT_TASKS
    models: list[str]
    tasks: list[str]  # empty: whatever tasks the questions have
    questions: str  # hash of the folder of questions; empty if they are not drawn yet
    subgroups: list[str]  # whose interaction tests are confirmatory
    sample_size: dict[str, Any]  # patients, raters, and the difference that they detect
    exclusions: list[str]
    hypotheses: list[str]


@dataclass(frozen=True)
class Analysis:
    """The analysis of a report, to be compared with its prespecification."""

    judges: Collection[str]  # whose scores there are
    baseline: str
    pairwise: bool  # every pair of models is compared
    margin: float
    models: Collection[str]  # that the endpoint's judge scored
    tasks: Collection[str]  # of the questions that it was asked about
    questions: str  # hash
    tests: int  # of the family, that could be computed
    patients: int  # units with scores by the endpoint's judge: of every pair of models, for both
    raters: int  # who gave a score
    raters_of_units: Mapping[int, int]  # number of raters -> number of units that so many scored


def read_prespecification(path: Path) -> tuple[Prespecification, str]:
    """The prespecification and the SHA-256 of its file. Raises UserError if the file is not one."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
        spec = Prespecification(**content)
        known = {field.name for field in fields(Prespecification)}
    except OSError as error:
        raise UserError(f"--prespecification {path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise UserError(
            f"--prespecification {path}: not a file that asclepius evaluate prespecify wrote ({error})"
        ) from error
    if spec.schema != SCHEMA or set(content) != known or spec.figure not in FIGURES:
        raise UserError(f"--prespecification {path}: schema {spec.schema}, but this program reads {SCHEMA}")
    return spec, hashlib.sha256(data).hexdigest()


def departures(spec: Prespecification, analysis: Analysis) -> list[str]:
    """Every difference between an analysis and its prespecification, one clause each."""
    found = []
    if spec.endpoint not in analysis.judges:
        found.append(f"the endpoint is scored by {spec.endpoint}, of whom there are no scores")
    for name, planned, done in (
        ("baseline", baseline(spec.baseline, not spec.baseline), baseline(analysis.baseline, analysis.pairwise)),
        ("margin", f"{spec.margin:g}", f"{analysis.margin:g}"),
    ):
        if planned != done:
            found.append(f"the {name} is {done} instead of {planned}")
    for name, wanted, given in (("model", spec.models, analysis.models), ("task", spec.tasks, analysis.tasks)):
        found += [f"{name} {each} is missing" for each in sorted(set(wanted) - set(given))]
        found += [f"{name} {each} was not planned" for each in sorted(set(given) - set(wanted)) if wanted]
    if spec.questions and spec.questions != analysis.questions:
        found.append("the questions are not those whose hash was written down")
    if not analysis.tests:
        found.append("no test of the family could be computed")
    return found + departures_of_size(spec, analysis)


def baseline(name: str, pairwise: bool) -> str:
    return name or ("none (every pair)" if pairwise else "none (nothing is compared)")


def departures_of_size(spec: Prespecification, analysis: Analysis) -> list[str]:
    found, size = [], spec.sample_size
    patients = size.get("patients", 0)
    if analysis.patients < patients:
        found.append(f"{analysis.patients} independent units instead of {patients}")
    if spec.endpoint != "clinicians":
        return found
    if analysis.raters < (raters := size.get("raters", 0)):
        found.append(f"{analysis.raters} raters instead of {raters}")
    each = size.get("raters_per_patient", 0)
    scored = sum(units for count, units in analysis.raters_of_units.items() if count >= each)
    if scored < patients:
        found.append(f"{scored} independent units were scored by {each} or more raters each, instead of {patients}")
    return found


def reported(spec: Prespecification, sha256: str, analysis: Analysis) -> dict[str, Any]:
    """Fields of a prespecification for the report, with its hash and the departures from it."""
    return {"sha256": sha256, "departures": departures(spec, analysis), **asdict(spec)}


def is_confirmatory(prespecification: Mapping[str, Any]) -> bool:
    """Report whether the endpoint was prespecified and analysed exactly as it was."""
    return bool(prespecification) and not prespecification["departures"]
