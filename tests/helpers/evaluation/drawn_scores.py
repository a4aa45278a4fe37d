"""Drawn rubric scores with a known truth, in clusters of unequal size."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

# Share of the answers that score 1, at most 2, at most 3.
KINDS = {
    "spread": (0.1, 0.25, 0.55),
    "mostly 4": (0.05, 0.1, 0.2),
    "mostly 1": (0.7, 0.85, 0.95),
}
DOMINANT = 40  # questions on the note that dominates


def sizes(random: np.random.Generator, clusters: int, dominated: bool) -> np.ndarray:
    """Questions on each note: one to six, or one to three and one note with 40."""
    if not dominated:
        return random.integers(1, 7, clusters)
    return np.concatenate([[DOMINANT], random.integers(1, 4, clusters - 1)])


def latent(random: np.random.Generator, cluster_N: np.ndarray, correlation: float) -> np.ndarray:
    """Standard normal values that correlate within a cluster."""
    shared = random.normal(size=int(cluster_N.max()) + 1)[cluster_N]
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * random.normal(size=len(cluster_N))


def clusters_of(random: np.random.Generator, clusters: int, dominated: bool) -> np.ndarray:
    return np.repeat(np.arange(clusters), sizes(random, clusters, dominated))


def drawn(
    random: np.random.Generator, cluster_N: np.ndarray, correlation: float, cumulative: Sequence[float]
) -> np.ndarray:
    """Scores 1 to 4, of which these cumulative shares score 1, 2 and 3."""
    return 1.0 + np.searchsorted(stats.norm.ppf(cumulative), latent(random, cluster_N, correlation))


def truth(cumulative: Sequence[float]) -> float:
    """Mean of the population that `drawn` draws from."""
    return 1 + sum(1 - share for share in cumulative)


def events(random: np.random.Generator, cluster_N: np.ndarray, correlation: float, share: float) -> np.ndarray:
    """1 with this probability, otherwise 0."""
    return (latent(random, cluster_N, correlation) < stats.norm.ppf(share)).astype(float)
