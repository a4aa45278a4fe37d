"""Models are compared as one family of tests, and the paper's own tables stand beside."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from asclepius_jax.evaluate.records import Judgement, Rating
from asclepius_jax.evaluate.report.figures import figures_of
from asclepius_jax.evaluate.report.model_comparisons import Endpoint, adjust, comparisons_of, pairs_of_models
from asclepius_jax.evaluate.report.report import ReportConfig, rendered, run
from asclepius_jax.evaluate.report.results import Joined, Judged, Results
from asclepius_jax.evaluate.statistics.comparisons import flipped
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.drawn_scores import KINDS, latent
from tests.helpers.evaluation.made_evaluation import question, write_judgements, write_questions

MORE = {"hallucination": {}, "calibration": {}, "measured": [], "other_answers": [], "claims": {}}
ABOUT = {"mode": "pointwise", "votes": 1, "prompt": "p", "teacher": None, "warnings": [], "models": [], "answers": ""}


def made(scores: dict[str, list[int]], notes: int | None = None) -> Results:
    """Scores of models by one judge; every question on its own note unless the number of notes is given."""
    count = len(next(iter(scores.values())))
    questions = {f"q{n}": question(n, note_id=f"n{n % (notes or count)}") for n in range(count)}
    verdicts = [
        Judgement(f"q{n}", m, "j", 0, s, incorrect=s == 1) for m, given in scores.items() for n, s in enumerate(given)
    ]
    return Results(questions, [Judged("j", ABOUT, verdicts)])


GOOD, BAD = [4, 4, 4, 3, 4, 4, 3, 4] * 3, [1, 1, 2, 1, 1, 1, 3, 1] * 3


def test_models_are_compared_with_the_baseline_by_task_too():
    found = figures_of(made({"good": GOOD, "bad": BAD}), "bad", 0.3)
    told = found["comparisons"]["j"]["good"]
    assert told["difference"]["value"] == pytest.approx(np.mean(GOOD) - np.mean(BAD))
    assert told["difference"]["low"] > 0
    assert told["sign_flip"]["p"] < 0.001
    assert not told["equivalence"]["equivalent"]
    assert set(told["tasks"]) == {"Question Answering", "Summarization"}
    assert all(row["p_holm"] >= row["p"] for row in told["tasks"].values())
    assert found["family"] == {
        "judge": "j", "figure": "mean score", "models": "each model against bad",
        "questions": "all questions and each of 2 tasks", "tests": 3, "undefined": 0,
        "level": 0.05, "correction": "Holm",
    }  # fmt: skip


def test_the_family_spans_models_and_tasks():
    """Five models and two tasks are 12 tests: the smallest p value is multiplied by 12."""
    random = np.random.default_rng(0)
    scores = {f"m{k}": random.integers(1, 5, 24).tolist() for k in range(4)}
    scores["base"] = BAD
    found = figures_of(made(scores), "base", 0.3)
    rows = found["comparisons"]["j"].values()
    raw = [row["sign_flip"]["p"] for row in rows] + [t["p"] for row in rows for t in row["tasks"].values()]
    holm = [row["p_holm"] for row in rows] + [t["p_holm"] for row in rows for t in row["tasks"].values()]
    assert found["family"]["tests"] == len(raw) == 12
    assert min(holm) == pytest.approx(12 * min(raw))


def test_other_judges_and_shares_are_exploratory():
    results = made({"good": GOOD, "bad": BAD})
    other = [Judgement(j.question_id, j.model, "k", 0, j.score) for j in results.judged[0].judgements]
    results.judged.append(Judged("k", ABOUT, other))
    found = figures_of(results, "bad", 0.3)
    assert found["main"] == "jury"
    assert found["comparisons"]["jury"]["good"]["exploratory"], "nothing was prespecified"
    assert found["comparisons"]["jury"]["good"]["p_holm"] is not None
    for judge in ("j", "k"):
        row = found["comparisons"][judge]["good"]
        assert row["exploratory"]
        assert row["p_holm"] is None
        assert all(task["p_holm"] is None for task in row["tasks"].values())
    assert found["comparisons"]["jury"]["good"]["unacceptable"]["exploratory"]
    page = rendered("report.html", {**found, **MORE})
    assert "each model against bad, over all questions and each of 2 tasks: 3 tests" in page
    assert "Everything else on this page is exploratory" in page


def test_every_pair_is_compared_on_request(tmp_path):
    found = figures_of(made({"a": GOOD, "b": BAD, "c": GOOD}), "", 0.3, pairwise=True)
    assert list(found["comparisons"]["j"]) == ["a against b", "a against c", "b against c"]
    assert found["family"]["models"] == "every pair of models"
    assert found["family"]["tests"] == 9
    assert "Every pair of models" in rendered("report.html", {**found, **MORE})
    with pytest.raises(UserError, match="--pairwise compares every pair of models: leave out --baseline a"):
        run(ReportConfig(tmp_path, tmp_path / "out", baseline="a", pairwise=True))


def test_total_separation_and_identical_models_are_told_on_the_page(tmp_path):
    questions = write_questions(tmp_path / "questions", 30)
    judged = write_judgements(tmp_path / "judged", "j", {"best": [4] * 30, "twin": [1] * 30, "base": [1] * 30})
    figures = run(ReportConfig(questions, tmp_path / "out", judged=(judged,), baseline="base"))
    best, twin = (figures["comparisons"]["j"][name] for name in ("best", "twin"))
    assert best["sign_flip"]["p"] <= 2e-4
    assert best["p_holm"] < 0.05
    assert best["equivalence"]["equivalent"] is None
    assert (twin["difference"]["value"], twin["sign_flip"]["p"], twin["equivalence"]["equivalent"]) == (0, 1, True)
    page = (tmp_path / "out/report.html").read_text()
    assert "best: no interval: no variation: every pair differs by 3." in page
    assert "twin: the two are identical on all 30 pairs." in page


@pytest.mark.parametrize("models", [3, 6, 10])
def test_equal_models_are_rarely_told_apart(models: int):
    """At most 6 % of studies say that something is significant; without correction 13 to 30 % would."""
    random, adjusted, raw, draws = np.random.default_rng(models), 0, 0, 250
    cuts = stats.norm.ppf(KINDS["spread"])
    clusters = [n // 6 for n in range(78)]  # 2 ^ 13 ways of flipping: Holm could find something
    for _ in range(draws):
        shared = latent(random, np.asarray(clusters), 0.5)
        rows: dict = {}
        scored = [1 + np.searchsorted(cuts, math.sqrt(0.5) * (shared + random.normal(size=78))) for _ in range(models)]
        for k, values in enumerate(scored[1:]):
            gap = (values - scored[0]).astype(float)
            p = flipped(gap, clusters).p
            tasks = {task: {"p": flipped(gap[task::2], clusters[task::2]).p} for task in (0, 1)}
            rows[k] = {"sign_flip": {"p": p}, "tasks": tasks}
        adjust(rows, Endpoint("j"))
        found = [(row["p_holm"], row["sign_flip"]["p"]) for row in rows.values()]
        found += [(task["p_holm"], task["p"]) for row in rows.values() for task in row["tasks"].values()]
        adjusted += min(holm for holm, _ in found) < 0.05
        raw += min(p for _, p in found) < 0.05
    assert adjusted / draws <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / draws)
    assert raw / draws > 0.08


def test_a_task_without_a_test_is_not_counted():
    """Summaries have one note: no test of its clusters' signs. The sentence on the page counts what was tested."""
    results = made({"good": GOOD, "bad": BAD})
    for n in range(1, 24, 2):  # Summarization
        results.questions[f"q{n}"] = question(n, note_id="same")
    found = figures_of(results, "bad", 0.3)
    task = found["comparisons"]["j"]["good"]["tasks"]["Summarization"]
    assert task["p"] is None
    assert (task["difference"]["value"], task["difference"]["clusters"]) == (None, 1), "it is one patient's"
    assert task["difference"]["undefined"] == "suppressed: fewer than 5 clusters"
    assert (found["family"]["questions"], found["family"]["tests"], found["family"]["undefined"]) == (
        "all questions and one task", 2, 1,
    )  # fmt: skip
    assert "2 tests, whose p values are" in (page := rendered("report.html", {**found, **MORE}))
    assert "1 more could not be computed." in page


def test_detectable_is_that_of_holms_first_step():
    """Against the noncentral t distribution, at 0.05 over the three tests of the family."""
    random = np.random.default_rng(4)
    first, second = (random.integers(1, 5, 40) for _ in range(2))
    found = figures_of(made({"a": first.tolist(), "b": second.tolist()}), "b", 0.3)
    told = found["comparisons"]["j"]["a"]["detectable"]
    assert told["level"] == pytest.approx(0.05 / 3)
    error, freedom = np.std(first - second, ddof=1) / math.sqrt(40), 39
    critical = stats.t.isf(told["level"] / 2, freedom)
    assert stats.nct.sf(critical, freedom, told["value"] / error) == pytest.approx(0.8, abs=1e-3)
    few = figures_of(made({f"m{k}": random.integers(1, 5, 9).tolist() for k in range(8)}, notes=9), "m0", 0.3)
    told = few["comparisons"]["j"]["m1"]["detectable"]  # 0.05 / 21 is less than 2 ** -8
    assert told["value"] is None
    assert told["undefined"] == "9 clusters only: a sign-flip test cannot reach the level 0.0024"


def test_clinicians_who_did_not_rate_the_baseline_leave_the_judges_comparison():
    results = made({"good": GOOD, "bad": BAD})
    results.ratings = [Rating(r, f"q{n}", "good", s) for r in "rs" for n, s in enumerate(GOOD[:12])]
    found = figures_of(results, "bad", 0.3)
    assert found["main"] == "clinicians"
    assert found["shown"] == {"judge": "j", "without": ["bad"]}
    page = rendered("report.html", {**found, **MORE})
    assert "No comparison by clinicians, who gave no verdict on bad. What follows is by j, exploratory" in page
    assert "Differences of mean score by j, in points" in page
    assert "The family of tests" not in page
    alone = rendered("report.html", {**figures_of(replace(results, judged=[]), "", 0.3, pairwise=True), **MORE})
    assert "The family of tests" not in alone
    results.ratings += [Rating(r, f"q{n}", "bad", s) for r in "rs" for n, s in enumerate(BAD[:12])]
    page = rendered("report.html", {**figures_of(results, "bad", 0.3), **MORE})
    assert "clinicians scored answers to 12 of 24 questions" in page
    assert "No comparison" not in page


# ---------------------------------------------------------------- the paper's tables


def test_the_papers_tables_are_plain_means_counts_and_t_tests():
    results = made({"a": GOOD, "b": BAD}, notes=6)
    results.ratings = [
        Rating(rater, f"q{n}", model, max(1, score - (rater == "r2" and n % 3 == 0)))
        for rater in ("r1", "r2")
        for model, given in (("a", GOOD), ("b", BAD))
        for n, score in enumerate(given)
    ]
    figures = figures_of(results, "b", 0.3)
    told = figures["as_in_paper"]
    assert told["scores"]["j"]["a"] == {"mean": np.mean(GOOD), "unacceptable": 0, "verdicts": 24}
    assert told["scores"]["j"]["b"]["unacceptable"] == BAD.count(1)
    assert told["scores"]["clinicians"]["a"]["verdicts"] == 48
    expected = stats.ttest_rel(GOOD, BAD)
    assert told["paired_t"]["j"]["a"]["t"] == pytest.approx(expected.statistic)
    assert told["paired_t"]["j"]["a"]["p"] == pytest.approx(expected.pvalue)
    assert 0 < told["alpha"]["clinicians"] < 1
    assert told["alpha"]["clinicians"] == pytest.approx(figures["agreement"]["clinicians"]["value"])
    judge = [*GOOD, *BAD]
    clinicians = [
        np.mean([r.score for r in results.ratings if (r.model, r.question_id) == (m, f"q{n}")])
        for m in "ab" for n in range(24)
    ]  # fmt: skip
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        found = function(judge, clinicians)
        assert told["correlations"]["j"][name] == pytest.approx(found.statistic)
        assert told["correlations"]["j"][f"{name}_p"] == pytest.approx(found.pvalue)
    page = rendered("report.html", {**figures, **MORE})
    assert "Tables as in the paper" in page
    assert "every vote counts as independent" in page


def test_pairs_are_those_of_the_baseline_or_all():
    assert pairs_of_models(["a", "b", "c"], "b", pairwise=False) == {"a": ("a", "b"), "c": ("c", "b")}
    assert len(pairs_of_models(["a", "b", "c", "d"], "", pairwise=True)) == 6
    assert pairs_of_models(["a", "b"], "", pairwise=False) == {}
    verdict = Joined(4.0, 0.0, (0, 0, 0, 1.0))
    assert comparisons_of({"j": {"a": {"q": verdict}}}, {}, {"a": ("a", "b")}, 0.3, Endpoint("j")) == {}
