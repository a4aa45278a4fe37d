"""Several samples of an answer are one answer in comparisons, and the spread between them is shown."""

import numpy as np
import pytest

from asclepius_jax.evaluate.records import Answer, Judgement, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.judges.judge_errors import judge_errors
from asclepius_jax.evaluate.report.report import rendered
from asclepius_jax.evaluate.report.results import Judged, Results, joined, over_samples
from tests.helpers.evaluation.made_evaluation import question

ABOUT = dict.fromkeys(("mode", "votes", "prompt", "teacher", "warnings", "models")) | {"answers": ""}


def judged(scores_MSQ: dict[str, np.ndarray]) -> Judged:
    """Scores by model, sample and question."""
    return Judged(
        "j",
        ABOUT,
        [
            Judgement(
                f"q{n}", f"{model}-seed{s}" if s else model, "j", 0, int(score), score == 1, seed=s,
                variant_of=model if s else "",
            )
            for model, table in scores_MSQ.items()
            for s, row in enumerate(table)
            for n, score in enumerate(row)
        ],
    )  # fmt: skip


def made(scores, **more) -> Results:
    count = len(next(iter(scores.values()))[0])
    return Results({f"q{n}": question(n, note_id=f"n{n}") for n in range(count)}, [judged(scores)], **more)


def test_samples_are_joined_after_their_votes_and_one_sample_has_no_more_weight():
    """Two of three samples are unacceptable: 2/3 of the answer, and not its majority."""
    samples = [joined([1, 1, 4]), joined([1]), joined([4])]
    found = over_samples(samples)
    assert (found.score, found.unacceptable) == (pytest.approx((2 + 1 + 4) / 3), pytest.approx(2 / 3))
    scores = figures_of(made({"a": np.array([[1] * 8, [4] * 8, [4] * 8]), "b": np.full((1, 8), 3)}), "b", 0.3)
    assert list(scores["scores"]["j"]) == ["a", "b"]
    assert scores["scores"]["j"]["a"]["mean"]["value"] == 3.0
    assert scores["scores"]["j"]["a"]["mean"]["n"] == 8, "samples are no further questions"
    assert scores["comparisons"]["j"]["a"]["difference"]["value"] == 0.0


def test_the_spread_between_seeds_and_questions_is_that_of_an_analysis_of_variance():
    """Against statsmodels' table of a one-way analysis of variance."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    random = np.random.default_rng(0)
    table = np.clip(np.round(2.5 + random.normal(0, 0.8, 60) + random.normal(0, 0.5, (4, 60))), 1, 4)
    row = figures_of(made({"a": table}), "", 0.3)["seeds"]["j"]["a"]
    frame = pd.DataFrame({"y": table.ravel(), "q": np.tile(np.arange(60), 4)})
    squares = anova_lm(ols("y ~ C(q)", frame).fit())["mean_sq"]
    assert row["between_seeds"] ** 2 == pytest.approx(squares["Residual"])
    assert row["between_questions"] ** 2 == pytest.approx((squares["C(q)"] - squares["Residual"]) / 4)
    assert len(row["samples"]) == 4
    assert "seeds" not in figures_of(made({"a": table[:1]}), "", 0.3)["seeds"]


def test_clinicians_are_compared_with_the_verdicts_on_the_sample_that_they_rated():
    """The judge agrees with them on the first sample, and the second is the opposite."""
    first = np.array([1, 2, 3, 4] * 5)
    ratings = [Rating(r, f"q{n}", "a", int(score)) for r in "rs" for n, score in enumerate(first)]
    answers = {
        name: {f"q{n}": Answer(f"q{n}", name, "x", "stop", variant_of=of) for n in range(20)}
        for name, of in (("a", ""), ("a-seed1", "a"))
    }
    found = figures_of(made({"a": np.stack([first, 5 - first])}, ratings=ratings, answers=answers), "", 0.3)
    assert found["agreement"]["with_clinicians"]["j"]["pearson"]["value"] == pytest.approx(1.0)
    assert found["scores"]["j"]["a"]["mean"]["value"] == 2.5
    assert list(found["readings"]["j"]["models"]) == ["a"]
    assert found["as_in_paper"]["scores"]["j"]["a"]["verdicts"] == 20


def test_corrected_figures_and_the_mean_beside_them_are_of_the_same_sample():
    """The first sample is all 1, the second all 4: the row says 100 % incorrect and mean 1, not 2.5."""
    results = made({"a": np.array([[1] * 8, [4] * 8]), "b": np.full((1, 8), 3)})
    row = judge_errors(results.first_samples, {})["j"]["models"]["a"]
    assert (row["incorrect"]["value"], row["mean"]["value"]) == (1.0, 1.0)
    figures = {**figures_of(results, "b", 0.3), "judge_errors": judge_errors(results.first_samples, {})}
    more = {"hallucination": {}, "calibration": {}, "measured": [], "other_answers": [], "claims": {}}
    page = rendered("report.html", {**figures, **more})
    section = page[page.index("Scores corrected for the judges") :].split("</table>")[0]
    assert "All figures of this section are those of first samples." in section
    assert "1.00" in section.split("<td>a</td>")[1].split("</tr>")[0]
    assert "2.50" not in section
