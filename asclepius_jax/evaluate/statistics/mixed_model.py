"""Rater-by-item mixed model of clinicians' scores: effects of the models, variance components, and ICC.

score = model (fixed) + patient + question + answer + rater + rater x model + residual, all but the first random and
crossed, by REML (statsmodels). Raters and items are a sample of all that could have been asked, so that the intervals
of model effects speak of raters like these.
"""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from asclepius_jax.evaluate.statistics.estimates import SCALE, Column, Estimate, same_length, scores
from asclepius_jax.evaluate.statistics.intervals import CONFIDENCE, quantile

FEWEST_RATERS, FEWEST_QUESTIONS = 3, 5
MOST_ANSWERS = 600  # the time grows with their cube: 400 take 4 s
MIXED = "mixed model, REML, t with raters - 1 degrees of freedom"
PARTS = ("patient", "question", "answer", "rater", "rater x model", "residual")
OF_ANSWERS = ("patient", "question", "answer")


def rater_item_model(
    values: Column,
    raters: Sequence[str],
    models: Sequence[str],
    questions: Sequence[str],
    units: Sequence[Hashable],
    baseline: str = "",
) -> dict[str, Any]:
    """Fit the model to one row per rating; 0 and None are missing.

    `effects` has each model's score less that of the baseline (empty: the first by name), with t intervals: the degrees
    of freedom are those of the raters, fewer than of anything else. `components` are standard deviations, in points.
    `icc` is ICC(A,1) of McGraw and Wong (1996), two-way random, absolute agreement, for one rater: the share of the
    variance within models that lies between answers; `icc_mean` is that of the mean of all raters, ICC(A,k).
    `undefined` is the reason why nothing is estimated. Raises UserError for columns of unequal length.
    """
    same_length(values=values, raters=raters, models=models, questions=questions, units=units)
    score = scores(values)
    rows = np.flatnonzero(~np.isnan(score)).tolist()
    columns: dict[str, Sequence[Hashable]] = {"rater": raters, "model": models, "question": questions, "patient": units}
    kept = {name: [str(column[row]) for row in rows] for name, column in columns.items()}
    count = {name: len(set(column)) for name, column in kept.items()}
    answers = list(zip(kept["question"], kept["model"], strict=True))
    count["answer"] = len(set(answers))
    if why := why_no_model(count, len(rows)):
        return {"undefined": why}
    kept["answer"] = [f"{question} {model}" for question, model in answers]
    kept["rater x model"] = [f"{rater} {model}" for rater, model in zip(kept["rater"], kept["model"], strict=True)]
    parts = [
        name
        for name in PARTS[:-1]
        if (name != "patient" or count["patient"] < count["question"])
        and (name not in ("answer", "rater x model") or count["model"] > 1)
    ]
    names = sorted(set(kept["model"]), key=lambda name: (name != baseline, name))
    fixed = np.stack([np.ones(len(rows)), *(np.asarray(kept["model"]) == name for name in names[1:])], axis=1)
    fit, why = fitted(score[rows], fixed, {name: kept[name] for name in parts})
    if why:
        return {"undefined": why}
    variances = {name: float(v) for name, v in zip(parts, fit.vcomp, strict=True)} | {"residual": float(fit.scale)}
    return {
        "undefined": "",
        "n": len(rows),
        "counts": count,
        "baseline": names[0],
        "effects": effects_of(fit, names[1:], count),
        "components": {name: math.sqrt(max(0.0, variance)) for name, variance in variances.items()},
        **iccs(variances, count["rater"]),
    }


def why_no_model(count: dict[str, int], rows: int) -> str:
    """Reason why the model is not fitted; empty if it is."""
    if count["rater"] < FEWEST_RATERS:
        return f"{count['rater']} raters, fewer than {FEWEST_RATERS}: their spread cannot be estimated"
    if count["question"] < FEWEST_QUESTIONS:
        return f"{count['question']} questions, fewer than {FEWEST_QUESTIONS}"
    if count["answer"] > MOST_ANSWERS:
        return f"{count['answer']:,} answers: more than {MOST_ANSWERS} take too long"
    if rows <= count["answer"]:
        return "no answer was rated by two raters"
    return ""


def fitted(score: np.ndarray, fixed: np.ndarray, groups: dict[str, list[str]]) -> tuple[Any, str]:
    """The fitted model with one variance component per grouping, or the reason why there is none."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    if np.ptp(score) == 0:
        return None, "all scores are equal"
    matrices = []
    for labels in groups.values():
        levels = sorted(set(labels))
        matrices.append(np.asarray(labels)[:, None] == np.asarray(levels)[None, :])
    spec = VCSpec(list(groups), [[list(map(str, range(m.shape[1])))] for m in matrices], [[m * 1.0] for m in matrices])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a component of 0 lies on the boundary, which is no error
        try:
            model = MixedLM(score, fixed, np.zeros(len(score)), exog_vc=spec)
            fit = model.fit(reml=True, method=["lbfgs", "powell"])
        except (np.linalg.LinAlgError, ValueError) as error:
            return None, f"the model cannot be fitted ({error})"
    if not fit.converged or not np.isfinite(fit.vcomp).all() or not np.isfinite(fit.bse_fe).all():
        return None, "the model did not converge"
    return fit, ""


def effects_of(fit: Any, names: Sequence[str], count: dict[str, int]) -> dict[str, Any]:
    freedom = count["rater"] - 1.0
    reach = quantile(freedom, CONFIDENCE)
    ends = SCALE[0] - SCALE[1], SCALE[1] - SCALE[0]
    effects = {}
    for name, value, error in zip(names, fit.fe_params[1:], fit.bse_fe[1:], strict=True):
        low, high = max(ends[0], value - reach * error), min(ends[1], value + reach * error)
        effects[name] = asdict(
            Estimate(float(value), float(low), float(high), int(fit.nobs), count["patient"], 0, "", MIXED, freedom)
        )
    return effects


def iccs(variances: dict[str, float], raters: int) -> dict[str, Any]:
    of_answers = sum(variances.get(name, 0.0) for name in OF_ANSWERS)
    of_raters = sum(variance for name, variance in variances.items() if name not in OF_ANSWERS)
    why = "no interval: Krippendorff's alpha of the clinicians has one, by cluster"

    def icc(number: int) -> dict[str, Any]:
        total = of_answers + of_raters / number
        return {"value": of_answers / total if total > 0 else None, "low": None, "high": None, "undefined": why}

    return {"icc": icc(1), "icc_mean": icc(raters)}
