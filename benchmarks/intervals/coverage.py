"""Coverage of every interval of the evaluation and error rates of its tests, as markdown tables.

    python benchmarks/intervals/coverage.py [--draws N] [SECTION ...]

means        mean scores, 95 % intervals
differences  two equal models: interval, sign-flip test, false equivalence at the margin
shares       shares of answers from 2 to 98 %
ratios       an F1 of summed counts
times        median times to verify with and without citations, and their ratio within raters
agreement    Pearson's r, quadratic kappa and alpha, and how often they have an interval
family       something significant among 3, 6 and 10 equal models, after Holm's correction
votes        two equal models of which one loses 30 % of its votes
power        planned studies of patients and raters: whether their detectable difference is found in 80 %

Clusters have one to six questions; where one dominates, it has 40 and the others one to three. With 1,000 draws a
coverage of 95 % has a standard error of 0.7 points. Takes some minutes on one core.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from asclepius_jax.evaluate.records import Question, Rating  # noqa: E402
from asclepius_jax.evaluate.report.journal.verifying_times import verifying_times  # noqa: E402
from asclepius_jax.evaluate.statistics import estimates  # noqa: E402
from asclepius_jax.evaluate.statistics.agreement import (  # noqa: E402
    Part,
    jackknifed,
    krippendorff_alpha,
    quadratic_kappa,
    ratio,
)
from asclepius_jax.evaluate.statistics.comparisons import by_holm, compare, equivalent  # noqa: E402
from asclepius_jax.evaluate.statistics.joined import mean_score  # noqa: E402
from asclepius_jax.evaluate.statistics.power import Components, Design, planned_detectable  # noqa: E402
from tests.helpers.evaluation.drawn_scores import KINDS, clusters_of, drawn, events, latent, truth  # noqa: E402

CLUSTERS = (5, 8, 20, 100)
CORRELATIONS = (0.0, 0.3, 0.8)
SHARES = (0.02, 0.1, 0.5, 0.9, 0.98)
AGREEMENTS = (0.2, 0.5, 0.85)  # share of the scores' variance that is the answer's
MARGIN = 0.3
TIME_RATIO = 0.8
COMPONENTS = Components(patient=0.5, rater=0.3, residual=0.8)
DESIGNS = (
    *(Design(patients, raters) for patients in (8, 20, 60, 200) for raters in (1, 3)),
    Design(60, 4, 2),
    *(Design(patients, raters, random_raters=True) for patients in (20, 60) for raters in (4, 6)),
)

Draw = Callable[[np.random.Generator, np.ndarray, float], Iterable[float]]


def table(title: str, head: list[str], rows: list[list[Any]]) -> None:
    print(f"\n## {title}\n")
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def inside(estimate: Any, value: float) -> float:
    """1 if the interval contains the value, nan without an interval."""
    return math.nan if estimate.low is None else float(estimate.low - 1e-9 <= value <= estimate.high + 1e-9)


def simulated(draw: Draw, clusters: int, dominated: bool, correlation: float, draws: int) -> np.ndarray:
    """Mean of what `draw` reports, over draws."""
    random = np.random.default_rng([clusters, dominated, int(10 * correlation)])
    found = [list(draw(random, clusters_of(random, clusters, dominated), correlation)) for _ in range(draws)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a figure without any interval
        return np.nanmean(np.asarray(found, float), axis=0)


def grid(title: str, draw: Draw, names: list[str], draws: int, correlated: Iterable[float] = CORRELATIONS) -> None:
    """One row per number of clusters and correlation, without and with a cluster that dominates."""
    rows = []
    for clusters in CLUSTERS:
        for correlation in correlated:
            cells = [simulated(draw, clusters, dominated, correlation, draws) for dominated in (False, True)]
            rows.append([clusters, correlation, *(percent(cell[k]) for cell in cells for k in range(len(names)))])
    head = ["clusters", "correlation", *names, *(f"{name}, one dominates" for name in names)]
    table(title, head, rows)


# ---------------------------------------------------------------- sections


def means(draws: int) -> None:
    def draw(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> Iterable[float]:
        for cumulative in KINDS.values():
            values = drawn(random, cluster_N, correlation, cumulative)
            yield inside(estimates.mean(values, cluster_N, estimates.SCALE), truth(cumulative))

    grid("Mean scores: coverage of the 95 % interval, %", draw, list(KINDS), draws)


def differences(draws: int) -> None:
    names = ["coverage", "significant by interval", "significant by sign flip", "falsely equivalent"]
    for kind, cumulative in list(KINDS.items())[:2]:

        def draw(
            random: np.random.Generator, cluster_N: np.ndarray, correlation: float, cumulative: Any = cumulative
        ) -> Iterable[float]:
            first, second = (drawn(random, cluster_N, correlation, cumulative) for _ in range(2))
            found = compare(first, second, cluster_N, estimates.SCALE)
            covered = inside(found.difference, 0)
            yield from (covered, 1 - covered, found.sign_flip.p < 0.05)
            # A true difference of exactly the margin is not equivalent.
            same = equivalent(first + MARGIN, second, cluster_N, MARGIN).equivalent
            yield math.nan if same is None else same

        grid(f"Differences of two equal models, scores {kind}, % of draws", draw, names, draws)


def shares(draws: int) -> None:
    def draw(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> Iterable[float]:
        for share in SHARES:
            found = estimates.rate(list(events(random, cluster_N, correlation, share)), list(cluster_N))
            yield inside(found, share)

    grid("Shares: coverage of the 95 % interval, %", draw, [f"{share:.0%}" for share in SHARES], draws)


def ratios(draws: int) -> None:
    def counts(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
        """Twice the true positives, and that plus false positives and false negatives."""
        size = random.integers(1, 9, len(cluster_N))
        shared = np.clip(0.75 + 0.3 * correlation * random.normal(size=int(cluster_N.max()) + 1), 0.02, 0.98)
        right, false = random.binomial(size, shared[cluster_N]), random.binomial(3, 0.2, len(cluster_N))
        return 2.0 * right, right + size + false

    random = np.random.default_rng(0)
    true = {}
    for correlation in CORRELATIONS:
        above, below = counts(random, np.repeat(np.arange(200_000), 2), correlation)
        true[correlation] = above.sum() / below.sum()

    def draw(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> Iterable[float]:
        above, below = counts(random, cluster_N, correlation)
        yield inside(estimates.ratio_of_sums(above, below, cluster_N, estimates.SHARE), true[correlation])

    grid("F1 of summed counts: coverage of the 95 % interval, %", draw, ["F1"], draws)


def times(draws: int) -> None:
    """Three raters of unequal speed, two answers to each question, of which one cites; three in ten are not rated."""

    def draw(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> Iterable[float]:
        questions = {
            f"q{n}": Question(f"q{n}", f"n{cluster}", "", "", "", source="made") for n, cluster in enumerate(cluster_N)
        }
        latent_R = latent(random, np.repeat(cluster_N, 6), correlation)
        ratings = [
            Rating(f"r{rater}", name, f"m{cites}", 4, cites=bool(cites), answer_seconds=seconds)
            for (name, rater, cites), value in zip(product(questions, range(3), range(2)), latent_R, strict=True)
            if random.random() < 0.7
            for seconds in [30 * TIME_RATIO**cites * math.exp(0.5 * (rater - 1) + 0.7 * value)]
        ]
        found = verifying_times(ratings, questions)
        # The speeds are symmetric around the second rater's, so the median of all three is that rater's.
        yield inside(SimpleNamespace(**found["kinds"]["with"]["seconds"]), 30 * TIME_RATIO)
        yield inside(SimpleNamespace(**found["kinds"]["without"]["seconds"]), 30)
        yield inside(SimpleNamespace(**found["ratio"]), TIME_RATIO)

    grid("Times to verify: coverage of the 95 % interval, %", draw, ["with", "without", "ratio"], draws)


def agreement(draws: int) -> None:
    """Weak, middling and strong agreement. A figure without an interval counts in `printed` only."""
    for share in AGREEMENTS:
        true = {kind: true_agreement(kind, share) for kind in list(KINDS)[:2]}

        def draw(
            random: np.random.Generator,
            cluster_N: np.ndarray,
            correlation: float,
            share: float = share,
            true: Any = true,
        ) -> Iterable[float]:
            for kind, values in true.items():
                found = agreements(*two_raters(random, cluster_N, correlation, kind, share), cluster_N)
                for name, value in values.items():
                    yield from (inside(found[name], value), found[name].low is not None)

        names = [f"{name}{end}, {kind}" for kind in true for name in true[kind] for end in ("", " printed")]
        title = f"Agreement, {share:.0%} of the variance is the answer's: coverage where there is an interval, %"
        grid(title, draw, names, draws, (0.0, 0.5))


def two_raters(
    random: np.random.Generator, cluster_N: np.ndarray, correlation: float, kind: str, share: float
) -> list[np.ndarray]:
    """Two raters' scores: this share of the variance is the answer's, which correlates within its cluster."""
    cuts, shared = stats.norm.ppf(KINDS[kind]), latent(random, cluster_N, correlation)
    own = [random.normal(size=len(cluster_N)) for _ in range(2)]
    return [1.0 + np.searchsorted(cuts, math.sqrt(share) * shared + math.sqrt(1 - share) * each) for each in own]


def true_agreement(kind: str, share: float) -> dict[str, float]:
    """Agreement of very many answers."""
    one_cluster = np.zeros(400_000, dtype=int)
    pair = two_raters(np.random.default_rng(0), np.arange(len(one_cluster)), 0.0, kind, share)
    return {name: float(found.value or 0.0) for name, found in agreements(*pair, one_cluster).items()}


def agreements(a: np.ndarray, b: np.ndarray, cluster_N: np.ndarray) -> dict[str, estimates.Estimate]:
    """Pearson's r (without the other correlations, which take long), quadratic kappa and ordinal alpha."""
    clusters = list(cluster_N)

    def pearson(rows: np.ndarray) -> Part:
        return ratio(a[rows] - a[rows].mean(), b[rows] - b[rows].mean())

    return {
        "r": jackknifed(pearson, np.stack([a, b]), clusters, 0),
        "kappa": quadratic_kappa(a, b, clusters),
        "alpha": krippendorff_alpha([a, b], clusters=clusters),
    }


def family(draws: int) -> None:
    """Models of one quality on 30 notes with four tasks; the page's own comparisons of the main judge."""
    rows = []
    for models in (3, 6, 10):
        random, unadjusted, adjusted = np.random.default_rng(models), 0, 0
        for _ in range(draws):
            p_values = one_family(random, models)
            unadjusted += min(p_values) < 0.05
            adjusted += min(p for p in by_holm(dict(enumerate(p_values))).values() if p is not None) < 0.05
        rows.append([models, 5 * (models - 1), percent(unadjusted / draws), percent(adjusted / draws)])
    table("Equal models: something significant, % of draws", ["models", "tests", "unadjusted", "Holm"], rows)


def one_family(random: np.random.Generator, models: int) -> list[float]:
    """p values of every model against the first, over all questions and over each of four tasks."""
    cluster_N = np.repeat(np.arange(30), 4)
    shared = latent(random, cluster_N, 0.5)  # hard questions are hard for every model
    cuts = stats.norm.ppf(KINDS["spread"])
    scored = [
        1.0 + np.searchsorted(cuts, math.sqrt(0.5) * (shared + latent(random, cluster_N, 0.3))) for _ in range(models)
    ]
    p_values = []
    for other in scored[1:]:
        for rows in (slice(None), *(slice(task, None, 4) for task in range(4))):
            p_values.append(compare(other[rows], scored[0][rows], list(cluster_N[rows])).sign_flip.p or 1.0)
    return p_values


def votes(draws: int) -> None:
    rows = []
    for name, join in (("mean, as in the report", mean_score), ("lower median", lower_median)):
        random, wrong, gaps = np.random.default_rng(0), 0, []
        for _ in range(draws):
            first, second, clusters = with_lost_votes(random, join)
            found = compare(first, second, clusters)
            wrong += (found.sign_flip.p or 1.0) < 0.05
            gaps.append(found.difference.value)
        rows.append([name, f"{np.mean(gaps):+.3f}", percent(wrong / draws)])
    table("Two equal models, one loses 30 % of its votes", ["joined by", "mean difference", "significant, %"], rows)


def with_lost_votes(random: np.random.Generator, join: Callable[[list[float]], float]) -> tuple[list, list, list]:
    """Joined scores of two equal models on 100 questions of 50 notes; the second loses 30 % of its three votes each."""
    columns = []
    for lost in (0.0, 0.3):
        true = random.normal(size=100)
        noisy = math.sqrt(0.6) * true[:, None] + math.sqrt(0.4) * random.normal(size=(100, 3))
        given = np.where(random.random((100, 3)) < lost, 0, 1 + np.searchsorted(stats.norm.ppf(KINDS["spread"]), noisy))
        columns.append([join(list(row)) for row in given.astype(float)])
    return columns[0], columns[1], [number // 2 for number in range(100)]


def lower_median(scores: list[float]) -> float:
    present = sorted(score for score in scores if score)
    return present[(len(present) - 1) // 2] if present else math.nan


def power_table(draws: int) -> None:
    rows = []
    for design in DESIGNS:
        found = planned_detectable(COMPONENTS, design)
        random = np.random.default_rng([design.patients, design.raters, design.random_raters])
        hits = np.mean([detected(random, found, design) for _ in range(draws)])
        each = design.raters_per_patient or design.raters
        about = "raters like these" if design.random_raters else "these raters"
        rows.append([design.patients, f"{each} of {design.raters}", about, f"{found:.2f}", percent(float(hits))])
    head = ["patients", "raters per patient", "conclusion about", "detectable, points", "power found, %"]
    table(f"Detectable differences at 80 % power; standard deviations {COMPONENTS}", head, rows)


def detected(random: np.random.Generator, difference: float, design: Design) -> bool:
    """True if one drawn study finds this difference."""
    patients, raters = design.patients, design.raters
    each = design.raters_per_patient or raters
    residual = random.normal(0, COMPONENTS.residual, (patients, raters))
    rater = random.normal(0, COMPONENTS.rater, raters)
    if not design.random_raters:
        rater -= rater.mean()  # the true difference is that of these raters
    table_PR = difference + random.normal(0, COMPONENTS.patient, (patients, 1)) + rater + residual
    if design.random_raters:
        return two_way_p(table_PR) < 0.05
    seen = [table_PR[patient, random.permutation(raters)[:each]].mean() for patient in range(patients)]
    return (compare(seen, np.zeros(patients), range(patients)).sign_flip.p or 1.0) < 0.05


def two_way_p(table_PR: np.ndarray) -> float:
    """p value of the mean with random patients and random raters (Hillis 2007), from its mean squares."""
    patients, raters = table_PR.shape
    by_patient, by_rater, grand = table_PR.mean(1), table_PR.mean(0), table_PR.mean()
    patient, rater = raters * by_patient.var(ddof=1), patients * by_rater.var(ddof=1)
    rest = table_PR - by_patient[:, None] - by_rater + grand
    residual = float((rest**2).sum()) / (patients - 1) / (raters - 1)
    total = max(patient + rater - residual, rater)
    freedom = total**2 / (rater**2 / (raters - 1))
    return float(2 * stats.t.sf(abs(grand) / math.sqrt(total / patients / raters), freedom))


SECTIONS: dict[str, Callable[[int], None]] = {
    "means": means, "differences": differences, "shares": shares, "ratios": ratios, "times": times,
    "agreement": agreement, "family": family, "votes": votes, "power": power_table,
}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.draws)
