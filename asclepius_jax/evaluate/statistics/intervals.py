"""One method for every interval of a mean, a share, a ratio and a difference of rows that come in clusters.

The variance is CR2 (Bell and McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage
samples", 2002), which for a mean has a closed form. Its degrees of freedom are Satterthwaite's (Imbens and Kolesár,
"Robust standard errors in small samples", 2016; Pustejovsky and Tipton, 2018), or those that the observed fourth
moments give, if these are fewer: few clusters with an event tell little about the variance, however many have none.

A statistic with a scale (a score from 1 to 4, a share) gets Wilson's interval on its effective sample size, with the
quantile of that t distribution: the form of Korn and Graubard (1998) with Wilson's formula, which stays on the scale
and has an upper bound for 0 of n. A statistic without a scale, and a difference, gets value ± t x error.
`docs/statistics.md` lists the coverage.
"""
# G clusters, N rows.

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
FEWEST_CLUSTERS = 5  # below, no method covers and none is shown
MARKED_BELOW = 20  # clusters up to which an interval is marked: plain methods do not cover there
DOMINANT = 1 / 3  # share of the rows from which one cluster is named
# Rows at the end of the scale that the spread of scores counts in addition, in effective clusters. Where nearly all
# scores are 4, the few others may by chance all be 3, which makes the observed spread far too small.
PSEUDO_ROWS = 0.1
TINY = float(np.finfo(float).tiny)
NOTHING = 1e-12  # variance relative to the scale below which clusters do not vary

T = "CR2, t"
WILSON = "CR2, Wilson with t"


@dataclass(frozen=True)
class Spread:
    """How a ratio of sums varies between clusters."""

    value: float
    variance: float  # CR2, of the value
    freedom: float
    clusters: int
    effective_clusters: float  # Kish (1965): fewer than clusters if their sizes differ
    largest: float  # share of the largest cluster
    row_variance: float  # of the rows' own ratios, weighted

    @property
    def error(self) -> float:
        return math.sqrt(self.variance)

    @property
    def mark(self) -> str:
        """Reason to doubt the interval; empty if there is none."""
        return mark_of(self.clusters, self.largest)


def mark_of(clusters: int, largest: float) -> str:
    """Reason to doubt an interval: few clusters, or one with a large share of the rows."""
    dominated = f", one with {largest:.0%} of the rows" if largest > DOMINANT else ""
    return f"{clusters} clusters{dominated}" if clusters < MARKED_BELOW or dominated else ""


def fewer_degrees(freedom: float, parts_G: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a variance that is the sum of these parts: `freedom`, or fewer if few parts make it up.

    Satterthwaite's 2 E² / Var with the observed variance of the sum, which is about that of freedom for normal data.
    Sums are over the last axis."""
    weight_G = parts_G / np.maximum(parts_G.sum(-1, keepdims=True), TINY)
    excess = (weight_G**2).sum(-1) - 1 / parts_G.shape[-1]
    return np.minimum(freedom, np.maximum(1.0, 2 / np.maximum(excess, TINY)))


def spread_of(above_N: np.ndarray, below_N: np.ndarray, cluster_N: np.ndarray) -> Spread:
    """Spread of sum(above) / sum(below), in which `below` is 1 for a mean.

    cluster: number of each row's cluster. The ratio is linearised: cluster g deviates by above_g - value x below_g.
    Rows whose `below` is 0 carry nothing and are left out; the sum of the others must not be 0.
    """
    kept = below_N != 0
    above_N, below_N = above_N[kept], below_N[kept]
    _, index_N = np.unique(cluster_N[kept], return_inverse=True)
    above_G, below_G = np.bincount(index_N, above_N), np.bincount(index_N, below_N)
    total = float(below_G.sum())
    value, share_G = float(above_G.sum()) / total, below_G / total
    clusters = len(share_G)
    effective, largest = float(1 / (share_G**2).sum()), float(share_G.max())
    row_variance = float((below_N * (above_N / below_N - value) ** 2).sum() / total)
    if clusters == 1:
        return Spread(value, 0.0, 0.0, 1, 1.0, 1.0, row_variance)
    # A cluster's residual is too small by 1 - share, because the cluster itself pulled the value towards it.
    parts_G = ((above_G - value * below_G) / total) ** 2 / (1 - share_G)
    variance, pull_G = float(parts_G.sum()), share_G**2 / (1 - share_G)
    freedom = float(1 / ((share_G**2).sum() + pull_G.sum() ** 2 - (pull_G**2).sum()))
    if variance > 0:
        freedom = float(fewer_degrees(freedom, parts_G))
    return Spread(value, variance, freedom, clusters, effective, largest, row_variance)


def quantile(freedom: float, confidence: float) -> float:
    from scipy import stats

    return float(stats.t.isf((1 - confidence) / 2, freedom))


def t_interval(
    spread: Spread, confidence: float = CONFIDENCE, scale: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """Value ± t x error, cut at the ends of the scale."""
    reach = quantile(spread.freedom, confidence) * spread.error
    return max(scale[0], spread.value - reach), min(scale[1], spread.value + reach)


def wilson_interval(spread: Spread, scale: tuple[float, float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of the value's place on the scale, on the effective sample size.

    The effective sample size is place x (1 - place) / variance. If clusters do not vary, it is their effective number,
    as if all rows of a cluster were always alike.
    """
    width = scale[1] - scale[0]
    place = min(1.0, max(0.0, (spread.value - scale[0]) / width))
    most = place * (1 - place)  # the variance of rows that lie at both ends of the scale only
    rows = spread.effective_clusters * most
    observed = spread.row_variance / width**2 / most if most > NOTHING else 1.0
    filled = (rows * observed + PSEUDO_ROWS) / (rows + PSEUDO_ROWS)  # of that variance
    variance = spread.variance / width**2
    if variance > NOTHING and observed > NOTHING:
        size = most / (variance * filled / observed)
    else:
        size = spread.effective_clusters / filled
    t = quantile(spread.freedom, confidence)
    centre = (place + t * t / 2 / size) / (1 + t * t / size)
    reach = t / (1 + t * t / size) * math.sqrt(most / size + (t / 2 / size) ** 2)
    return scale[0] + width * max(0.0, centre - reach), scale[0] + width * min(1.0, centre + reach)
