"""Agreement equals worked examples and independent computations; one rater agrees with nobody."""

import itertools
import math

import krippendorff
import numpy as np
import pytest
from scipy import stats

from asclepius_jax.evaluate.statistics.agreement import (
    JACKKNIFE,
    PSEUDO_CLUSTERS,
    by_chance,
    correlations,
    krippendorff_alpha,
    quadratic_kappa,
)
from data_prep.contract.errors import UserError
from tests.helpers.evaluation.drawn_scores import KINDS, clusters_of, latent

CLOSE = 1e-6
N = None
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): four observers, twelve units, missing values.
WORKED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
JUDGE = [4, 3, 4, 2, 4, 1, 3, 4, 1, 2, 3, 3, 2, 4, 1, 3]
CLINICIANS = [3.5, 3, 4, 2.5, 4, 1, 2, 3, 1.5, 1, 3, 4, 2, 3.5, 2, 3]


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_the_worked_example(level: str, published: float):
    result = krippendorff_alpha(WORKED, level)
    array = np.asarray([[math.nan if v is N else v for v in row] for row in WORKED], dtype=float)
    assert result.value == pytest.approx(published, abs=5e-4)
    assert result.value == pytest.approx(krippendorff.alpha(array, level_of_measurement=level), abs=CLOSE)
    assert (result.n, result.missing) == (11, 1)  # the last unit has one observer
    if level == "interval":  # one item holds a third of the disagreement by chance
        assert (result.low, result.undefined) == (None, "no interval: the scores exclude no value")
    else:
        assert result.low < result.value < result.high <= 1


def test_alpha_by_its_definition():
    def disagreement(pairs: list[tuple[float, float, float]]) -> float:
        return sum(weight * (a - b) ** 2 for a, b, weight in pairs)

    units = [[row[u] for row in WORKED if row[u] is not N] for u in range(12)]
    units = [unit for unit in units if len(unit) > 1]
    within = [(a, b, 1 / (len(unit) - 1)) for unit in units for a, b in itertools.permutations(unit, 2)]
    values = [value for unit in units for value in unit]
    across = [(a, b, 1 / (len(values) - 1)) for a, b in itertools.permutations(values, 2)]
    expected = 1 - disagreement(within) / disagreement(across)
    assert krippendorff_alpha(WORKED, "interval").value == pytest.approx(expected, abs=CLOSE)


def test_the_interval_of_alpha_widens_with_clusters():
    random = np.random.default_rng(5)
    truth = np.repeat(random.integers(1, 5, 12), 5)
    raters = [np.clip(truth + random.integers(-1, 2, 60), 1, 4) for _ in range(2)]
    items = krippendorff_alpha(raters)
    notes = krippendorff_alpha(raters, clusters=np.repeat(np.arange(12), 5).tolist())
    assert (items.clusters, notes.clusters, items.value) == (60, 12, notes.value)
    assert notes.high - notes.low > items.high - items.low


def test_kappa_by_its_definition():
    first, second = [1, 2, 3, 4, 4, 2, 1, 3, 0], [1, 3, 3, 4, 2, 2, 2, 4, 1]
    a, b = np.asarray(first[:8]), np.asarray(second[:8])
    observed = np.mean((a - b) ** 2)
    expected = np.mean((a[:, None] - b[None]) ** 2)
    result = quadratic_kappa(first, second)
    assert result.value == pytest.approx(1 - observed / expected, abs=CLOSE)
    assert (result.n, result.missing) == (8, 1)


def test_correlations_equal_scipy_and_their_definitions():
    result = correlations([*JUDGE, N], [*CLINICIANS, 2])
    for estimate, statistic in (
        (result.pearson, np.corrcoef(JUDGE, CLINICIANS)[0, 1]),
        (result.spearman, np.corrcoef(stats.rankdata(JUDGE), stats.rankdata(CLINICIANS))[0, 1]),
        (result.kendall, stats.kendalltau(JUDGE, CLINICIANS, variant="b").statistic),
    ):
        assert estimate.value == pytest.approx(statistic, abs=CLOSE)
        assert (estimate.n, estimate.missing) == (16, 1)
        assert estimate.low < estimate.value < estimate.high
    rated = list(zip(JUDGE, CLINICIANS, strict=True))
    signs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(rated, 2)]
    concordant = sum(x * y for x, y in signs)
    ties = math.prod(sum(s[i] != 0 for s in signs) for i in (0, 1))
    assert result.kendall.value == pytest.approx(concordant / math.sqrt(ties), abs=CLOSE)


def test_one_rater_is_refused():
    for ratings in ([[1, 2, 3]], [[1, 2, 3], [N, N, N]], []):
        with pytest.raises(UserError, match="at least two raters"):
            krippendorff_alpha(ratings)
    with pytest.raises(UserError, match="items that both have scored"):
        quadratic_kappa([1, 2], [0, 0])
    with pytest.raises(UserError, match="items that both have scored"):
        correlations([1, N], [N, 2])


def test_what_never_varies_has_no_agreement():
    assert krippendorff_alpha([[4, 4, 4], [4, 4, 4]]).value is None
    assert quadratic_kappa([4, 4], [4, 4]).value is None
    assert correlations([4, 4, 4], [1, 2, 3]).pearson.value is None
    assert correlations([1, 2], [2, 1]).kendall.value is None
    assert krippendorff_alpha([[1, N], [N, 2]]).value is None  # no item has two ratings
    assert quadratic_kappa([], []).undefined


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(UserError, match="3 of rater 0, 2 of rater 1"):
        krippendorff_alpha([[1, 2, 3], [1, 2]])
    with pytest.raises(UserError, match="level 'rank'"):
        krippendorff_alpha(WORKED, "rank")
    with pytest.raises(UserError, match="the scale is 1 to 4"):
        quadratic_kappa([1, 9], [1, 2])
    with pytest.raises(UserError, match="2 first, 3 second"):
        correlations([1, 2], [1, 2, 3])


def test_kappa_is_cohens_where_scores_are_whole_and_takes_joined_ones():
    from statsmodels.stats.inter_rater import cohens_kappa

    random = np.random.default_rng(1)
    truth = random.integers(1, 5, 60)
    first, second = (np.clip(truth + random.integers(-1, 2, 60), 1, 4) for _ in range(2))
    table = np.zeros((4, 4))
    np.add.at(table, (first - 1, second - 1), 1)
    assert quadratic_kappa(first, second).value == pytest.approx(
        cohens_kappa(table, wt="quadratic", return_results=False), abs=CLOSE
    )
    assert quadratic_kappa(first - 0.5 * (first > 1), second).value < 1


def test_agreement_has_no_interval_below_five_notes_and_a_mark_below_twenty():
    items = [number // 4 for number in range(16)]
    few = correlations(JUDGE, CLINICIANS, items).pearson
    assert few.low is None
    assert "4 clusters only" in few.undefined
    marked = correlations(JUDGE, CLINICIANS, [number // 2 for number in range(16)]).pearson
    assert (marked.mark, marked.method) == ("8 clusters", JACKKNIFE)


def rated_twice(random: np.random.Generator, cluster_N: np.ndarray, kind: str) -> list[np.ndarray]:
    cuts, shared = stats.norm.ppf(KINDS[kind]), latent(random, cluster_N, 0.3)
    own = (random.normal(size=len(cluster_N)) for _ in range(2))
    return [1.0 + np.searchsorted(cuts, math.sqrt(0.5) * (shared + each)) for each in own]


@pytest.mark.parametrize(
    ("clusters", "kind", "printed"), [(8, "spread", 0.9), (8, "mostly 4", 0.15), (20, "mostly 4", 0.9)]
)
def test_agreement_is_covered_where_it_has_an_interval(clusters: int, kind: str, printed: float):
    """If one cluster has nearly all answers, it has none."""
    random, inside = np.random.default_rng(2), []
    true = quadratic_kappa(*rated_twice(np.random.default_rng(0), np.arange(200_000), kind), ["all"] * 200_000).value
    for _ in range(300):
        cluster_N = clusters_of(random, clusters, dominated=False)
        found = quadratic_kappa(*rated_twice(random, cluster_N, kind), list(cluster_N))
        if found.low is not None:
            inside.append(found.low <= true <= found.high)
    assert len(inside) >= printed * 300
    assert np.mean(inside) >= 0.93  # standard errors of 1.3 to 2 points
    dominated = clusters_of(random, 8, dominated=True)
    assert quadratic_kappa(*rated_twice(random, dominated, kind), list(dominated)).low is None


def test_an_interval_ends_where_the_test_rejects():
    """Fieller's test, with the variance of numerator and denominator by leaving out one note."""
    random = np.random.default_rng(4)
    cluster_N = clusters_of(random, 12, dominated=False)
    rated = np.stack(rated_twice(random, cluster_N, "spread"))
    found = quadratic_kappa(*rated, list(cluster_N))

    def parts(table: np.ndarray) -> np.ndarray:
        by_chance = ((table[0][:, None] - table[1]) ** 2).mean()
        return np.array([by_chance - ((table[0] - table[1]) ** 2).mean(), by_chance])

    lost_GP = parts(rated) - np.array([parts(rated[:, cluster_N != cluster]) for cluster in range(12)])
    share_G = np.bincount(cluster_N) / len(cluster_N)
    for end in (found.low, found.high):
        squares_G = (lost_GP @ [1, -end]) ** 2 * 11 / 12
        excess = (squares_G**2).sum() / squares_G.sum() ** 2 - 1 / 12
        freedom = min(11, 1 / (share_G**2).sum(), 2 / excess)
        variance = squares_G.sum() + PSEUDO_CLUSTERS * ((1 - end) * np.abs(lost_GP[:, 1]).max()) ** 2
        statistic = abs(parts(rated) @ [1, -end]) / math.sqrt(variance)
        assert statistic == pytest.approx(stats.t.isf(0.025, freedom), rel=5e-3)


def test_the_denominators_are_disagreements_by_chance():
    values, counts = np.array([1.0, 2.0, 4.0]), np.array([5, 3, 2])
    drawn = np.repeat(values, counts)
    ranks = stats.rankdata(drawn) / 10
    for level, expected in (
        ("nominal", (drawn[:, None] != drawn).mean()),
        ("ordinal", ((ranks[:, None] - ranks) ** 2).mean()),
        ("interval", ((drawn[:, None] - drawn) ** 2).mean()),
        ("ratio", (((drawn[:, None] - drawn) / (drawn[:, None] + drawn)) ** 2).mean()),
    ):
        assert by_chance(counts, values, level) == pytest.approx(expected, abs=CLOSE)


def test_agreement_has_no_interval_where_nearly_all_scores_are_equal_or_on_one_note():
    first, second, notes = [4.0] * 40, [4.0] * 40, [row // 2 for row in range(40)]
    for row in (0, 2, 4):
        first[row], second[row] = 1.0, 1 + row / 4
    first[6] = 1.0
    kappa = quadratic_kappa(first, second, notes)
    assert kappa.value > 0.5
    assert (kappa.low, kappa.undefined) == (
        None,
        "no interval: two raters gave a score other than their most frequent in 3 clusters only",
    )
    first[6], second[6] = 2.0, 2.0
    assert "4 clusters only" in quadratic_kappa(first, second, notes).undefined, "the same four for both"
    first[8] = 2.0
    assert quadratic_kappa(first, second, notes).undefined == "no interval: the scores exclude no value"
    one_large = quadratic_kappa(JUDGE * 3, CLINICIANS * 3, [0] * 40 + [1, 2, 3, 4, 5, 6, 7, 8])
    assert (one_large.low, one_large.undefined) == (None, "no interval: one of 9 clusters has 83% of the rows")
