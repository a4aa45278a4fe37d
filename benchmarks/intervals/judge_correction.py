"""Coverage of the intervals in `evaluate.judge.correction`, as a markdown table; about half a minute for 1,000 draws.

    python benchmarks/intervals/judge_correction.py [--draws N]

Answers come in clusters of one to five, or one cluster has a third or more of them, and answers of a cluster resemble
each other. Clinicians rate the clusters of each row's number, and the judge scores four times as many more. The true
value is known, so that the share of intervals that contain it should be 95 %.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from asclepius_jax.evaluate.judge.correction import (
    prediction_powered,
    prediction_powered_share,
    rogan_gladen,
)
from asclepius_jax.evaluate.statistics.estimates import rate

SENSITIVITY, SPECIFICITY, KNOWN = 0.8, 0.9, 80  # of the judge, and the number of planted errors and of right answers
Bounds = tuple[float, float, float]  # value, low, high


def clusters_of(random: np.random.Generator, count: int, dominated: bool) -> np.ndarray:
    sizes = random.integers(1, 6, count)
    if dominated:
        sizes[0] = 5 * count // 2
    rated = np.repeat(np.arange(count), sizes)
    return np.concatenate([rated, count + np.repeat(np.arange(4 * count), 3)])


def flags(random: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return (random.random(len(truth)) < np.where(truth, SENSITIVITY, 1 - SPECIFICITY)).astype(float)


def mean_score(random: np.random.Generator, clusters: np.ndarray, count: int, true: float) -> Bounds:
    truth = true + random.normal(0, 0.5, 5 * count)[clusters] + random.normal(0, 0.6, len(clusters))
    judge = 0.8 * truth + random.normal(0, 0.4, len(clusters))
    found = prediction_powered(judge, np.where(clusters < count, truth, math.nan), clusters)
    return found.value, found.low, found.high


def events(random: np.random.Generator, clusters: np.ndarray, count: int, true: float) -> np.ndarray:
    return random.random(len(clusters)) < random.beta(4 * true, 4 * (1 - true), 5 * count)[clusters]


def powered_share(random: np.random.Generator, clusters: np.ndarray, count: int, true: float) -> Bounds:
    truth = events(random, clusters, count, true)
    found = prediction_powered_share(flags(random, truth), np.where(clusters < count, truth, math.nan), clusters)
    return found.value, found.low, found.high


def plain_share(random: np.random.Generator, clusters: np.ndarray, count: int, true: float) -> Bounds:
    rated = clusters < count
    found = rate(events(random, clusters, count, true)[rated], clusters[rated])
    return found.value, found.low, found.high


def corrected_share(random: np.random.Generator, clusters: np.ndarray, count: int, true: float) -> Bounds:
    rated = clusters < count
    judged = flags(random, events(random, clusters, count, true)[rated])
    wrong, right = flags(random, np.ones(KNOWN, bool)), flags(random, np.zeros(KNOWN, bool))
    found = rogan_gladen(
        rate(judged, clusters[rated]),
        rate(wrong, range(KNOWN)),
        rate(1 - right, range(KNOWN)),
    )
    return found["value"], found["low"], found["high"]


CASES: tuple[tuple[str, Callable[..., Bounds], float], ...] = (
    ("prediction-powered mean", mean_score, 2.5),
    ("prediction-powered share", powered_share, 0.1),
    ("prediction-powered share", powered_share, 0.3),
    ("clustered share", plain_share, 0.1),
    ("clustered share", plain_share, 0.3),
    ("Rogan and Gladen", corrected_share, 0.1),
    ("Rogan and Gladen", corrected_share, 0.3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print(
        "| interval | true value | clusters | one dominates | mean estimate | coverage |\n|---|---:|---:|---|---:|---:|"
    )
    for name, draw, true in CASES:
        for count in (5, 8, 20, 100):
            for dominated in (False, True):
                random = np.random.default_rng(0)
                found = [draw(random, clusters_of(random, count, dominated), count, true) for _ in range(draws)]
                inside = sum(low <= true <= high for _, low, high in found)
                mean = sum(value for value, _, _ in found) / draws
                dominates = "yes" if dominated else "no"
                print(f"| {name} | {true} | {count} | {dominates} | {mean:.3f} | {inside / draws:.1%} |", flush=True)


if __name__ == "__main__":
    main()
