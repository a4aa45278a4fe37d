"""The rater-by-item model finds the components that scores were drawn with, and the ICC of an analysis of variance."""

import numpy as np
import pytest

from asclepius_jax.evaluate.statistics.mixed_model import rater_item_model


def drawn(random, questions, models, raters, deviations, effect=0.0):
    """Columns of a complete design. deviations: of question, answer, rater, rater x model, residual."""
    q, a, r, rm, e = (float(each) for each in deviations)
    of_question, of_answer = random.normal(0, q, questions), random.normal(0, a, (questions, models))
    of_rater, of_both = random.normal(0, r, raters), random.normal(0, rm, (raters, models))
    rows = [
        (
            2.5 + effect * m + of_question[i] + of_answer[i, m] + of_rater[k] + of_both[k, m] + random.normal(0, e),
            f"r{k}",
            f"m{m}",
            f"q{i}",
        )
        for i in range(questions)
        for m in range(models)
        for k in range(raters)
    ]
    values, rater, model, question = zip(*rows, strict=True)
    return np.clip(values, 1, 4), rater, model, question


def test_components_and_effects_are_those_that_scores_were_drawn_with():
    random, found = np.random.default_rng(0), []
    for _ in range(12):
        values, *names = drawn(random, 30, 3, 5, (0.2, 0.15, 0.1, 0.08, 0.2), effect=0.2)
        found.append(rater_item_model(values, *names, names[2], "m0"))
    assert not any(each["undefined"] for each in found)
    means = {
        name: np.sqrt(np.mean([each["components"][name] ** 2 for each in found])) for name in found[0]["components"]
    }
    expected = {"question": 0.2, "answer": 0.15, "rater": 0.1, "rater x model": 0.08, "residual": 0.2}
    assert means == pytest.approx(expected, abs=0.03)
    assert np.mean([each["effects"]["m2"]["value"] for each in found]) == pytest.approx(0.4, abs=0.05)
    assert sum(each["effects"]["m2"]["low"] <= 0.4 <= each["effects"]["m2"]["high"] for each in found) >= 10
    icc = (0.04 + 0.0225) / (0.04 + 0.0225 + 0.01 + 0.0064 + 0.04)
    assert np.mean([each["icc"]["value"] for each in found]) == pytest.approx(icc, abs=0.06)


def test_the_icc_of_a_balanced_table_is_that_of_an_analysis_of_variance():
    """One model, 25 answers, 4 raters: ICC(A,1) = (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)."""
    values, *names = drawn(np.random.default_rng(1), 25, 1, 4, (0.5, 0.0, 0.2, 0.0, 0.3))
    table = np.asarray(values).reshape(25, 4)
    grand, n, k = table.mean(), 25, 4
    rows = k * ((table.mean(1) - grand) ** 2).sum() / (n - 1)
    columns = n * ((table.mean(0) - grand) ** 2).sum() / (k - 1)
    rest = ((table - table.mean(1, keepdims=True) - table.mean(0) + grand) ** 2).sum() / ((n - 1) * (k - 1))
    icc = (rows - rest) / (rows + (k - 1) * rest + k * (columns - rest) / n)
    found = rater_item_model(values, *names, names[2])
    assert found["icc"]["value"] == pytest.approx(icc, abs=2e-3)
    assert found["icc_mean"]["value"] == pytest.approx((rows - rest) / (rows + (columns - rest) / n), abs=2e-3)


def test_too_few_raters_and_scores_without_spread_have_a_reason():
    values, *names = drawn(np.random.default_rng(2), 10, 2, 2, (0.3, 0.1, 0.1, 0.1, 0.3))
    assert "2 raters, fewer than 3" in rater_item_model(values, *names, names[2])["undefined"]
    _, *names = drawn(np.random.default_rng(2), 10, 2, 3, (0.3, 0.1, 0.1, 0.1, 0.3))
    assert rater_item_model([4.0] * 60, *names, names[2])["undefined"] == "all scores are equal"
    alone = [4.0 if f"r{n // 3 % 3}" == rater else 0 for n, rater in enumerate(names[0])]
    assert rater_item_model(alone, *names, names[2])["undefined"] == "no answer was rated by two raters"
