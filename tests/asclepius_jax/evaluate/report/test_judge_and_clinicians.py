"""A judge beside clinicians: within models, under the clinicians' own ceiling, and without repeats anywhere."""

from dataclasses import replace

import numpy as np
import pytest

from asclepius_jax.evaluate.records import Judgement, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.results import Judged, Results
from asclepius_jax.evaluate.statistics.agreement import against_other_raters, within_groups
from tests.helpers.evaluation.made_evaluation import question

ABOUT = dict.fromkeys(("mode", "votes", "prompt", "teacher", "warnings", "models")) | {"answers": ""}
MODELS = np.repeat(np.arange(4), 100)
QUESTIONS = np.tile(np.arange(100), 4)
KNOWN = 2.5 + np.linspace(-0.75, 0.75, 4)[MODELS]  # mean scores of four models


def cut(values):
    return np.clip(np.round(values), 1, 4)


def truth_of(random):
    return KNOWN + random.normal(0, 0.65, 400)


def test_a_judge_that_knows_only_the_model_has_no_correlation_within_models():
    random, pooled, within = np.random.default_rng(0), [], []
    for _ in range(10):
        clinicians = cut(truth_of(random))
        judge = KNOWN + random.normal(0, 0.3, 400)
        pooled.append(float(np.corrcoef(judge, clinicians)[0, 1]))
        within.append(within_groups(judge, clinicians, MODELS, QUESTIONS))
    assert np.mean(pooled) == pytest.approx(0.57, abs=0.06)
    assert np.mean([each["pearson"].value for each in within]) == pytest.approx(0, abs=0.03)
    assert np.mean([each["spearman"].value for each in within]) == pytest.approx(0, abs=0.03)
    assert sum(each["pearson"].low <= 0 <= each["pearson"].high for each in within) >= 8


def test_within_groups_is_the_partial_correlation_given_the_group():
    """By least squares on indicators of the groups (statsmodels)."""
    import statsmodels.api as sm

    random = np.random.default_rng(1)
    a, b = truth_of(random), truth_of(random)
    dummies = (MODELS[:, None] == np.arange(4)).astype(float)
    rests = [sm.OLS(values, dummies).fit().resid for values in (a, b)]
    found = within_groups(a, b, MODELS, QUESTIONS)["pearson"].value
    assert found == pytest.approx(float(np.corrcoef(*rests)[0, 1]))


def test_a_judge_as_good_as_a_clinician_reaches_the_ceiling():
    """Raters and judge are the truth with the same noise. With two raters, the ceiling is their correlation."""
    random, draws = np.random.default_rng(2), []
    for _ in range(6):
        truth = truth_of(random)
        rows = [cut(truth + random.normal(0, 0.4, 400)) for _ in range(4)]
        draws.append(against_other_raters(rows[3], rows[:3], MODELS, QUESTIONS))
    mean = {name: np.mean([each[name].value for each in draws]) for name in draws[0]}
    assert mean["judge"] == pytest.approx(mean["rater"], abs=0.02)
    assert mean["judge_within"] == pytest.approx(mean["rater_within"], abs=0.03)
    assert mean["judge_within"] < mean["judge"] - 0.1
    both = against_other_raters(rows[3], rows[:2], MODELS, QUESTIONS)["rater"].value
    assert both == pytest.approx(float(np.corrcoef(rows[0], rows[1])[0, 1]))


def test_repeats_change_nothing_but_the_agreement_with_oneself():
    """Every item is rated again, with the opposite verdict, more time, spans and comments."""
    questions = {f"q{n}": question(n, note_id=f"n{n}") for n in range(20)}
    judged = [Judgement(f"q{n}", m, "j", 0, 1 + n % 4, n % 4 == 0) for n in range(20) for m in "ab"]
    first = [
        Rating(r, f"q{n}", m, 1 + (n + k) % 4, incorrect=(n + k) % 4 == 0, seconds=60.0)
        for k, r in enumerate(("r", "s", "t"))
        for n in range(20)
        for m in "ab"
    ]
    span = '[{"start": 0, "end": 3, "type": "context", "severity": "major"}]'
    again = [replace(r, score=5 - r.score, repeat=1, incorrect=r.score == 4, seconds=900.0, spans=span) for r in first]
    plain = figures_of(Results(questions, [Judged("j", ABOUT, judged)], first), "a", 0.3)
    more = figures_of(Results(questions, [Judged("j", ABOUT, judged)], first + again), "a", 0.3)
    assert more["agreement"].pop("same_clinician")["value"] < 0
    assert more == plain
