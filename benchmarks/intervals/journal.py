"""How well interactions, the rater-by-item model and within-model correlations hold, as markdown tables.

    python benchmarks/intervals/journal.py [interactions] [raters] [within] [--draws N]

About four minutes for 1,000 draws (the rater-by-item model takes a fifth of the draws). Scores are rounded to 1 to 4.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from asclepius_jax.evaluate.statistics.agreement import within_groups
from asclepius_jax.evaluate.statistics.comparisons import interaction
from asclepius_jax.evaluate.statistics.mixed_model import rater_item_model

GROUPS = ((5, 5, 0), (5, 15, 0), (8, 30, 0), (20, 80, 0), (5, 30, 40), (20, 30, 40))
RATERS = ((3, 0.0), (3, 0.2), (4, 0.2), (6, 0.2))


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---:|' * len(head)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), flush=True)


def differences(random: np.random.Generator, clusters: int, largest: int) -> tuple[np.ndarray, list[int]]:
    """Differences of two models on clusters of one to six questions, or one of `largest`."""
    sizes = random.integers(1, 7, clusters)
    if largest:
        sizes[0] = largest
    cluster = np.repeat(np.arange(clusters), sizes)
    values = random.normal(0, 0.6, clusters)[cluster] + random.normal(0, 0.8, len(cluster))
    return np.clip(np.round(values), -3, 3), cluster.tolist()


def interactions(draws: int) -> None:
    rows = []
    for inside, rest, largest in GROUPS:
        random, false, covered = np.random.default_rng([inside, rest, largest]), 0, 0
        for _ in range(draws):
            a, b = differences(random, inside, largest), differences(random, rest, 0)
            found = interaction(*a, b[0], [1000 + cluster for cluster in b[1]])
            false += (found.test.p if found.test.p is not None else 1.0) < 0.05
            low, high = found.difference.low, found.difference.high
            covered += low is not None and low <= 0 <= high
        dominated = f"one of {largest}" if largest else "no"
        rows.append([str(inside), str(rest), dominated, f"{false / draws:.1%}", f"{covered / draws:.1%}"])
    head = ["clusters in the group", "in the rest", "one dominates", "significant", "coverage"]
    table("No interaction: significant at 5 %, and coverage of the 95 % interval", head, rows)


def raters(draws: int) -> None:
    rows = []
    for count, preference in RATERS:
        random, covered, made = np.random.default_rng([count, int(10 * preference)]), 0, 0
        for _ in range(draws // 5):
            values, *names = ratings(random, 20, 2, count, preference)
            found = rater_item_model(values, *names, names[2], "m0")
            if not found["undefined"]:
                made += 1
                covered += found["effects"]["m1"]["low"] <= 0.2 <= found["effects"]["m1"]["high"]
        rows.append([str(count), f"{preference:g}", f"{made / (draws // 5):.1%}", f"{covered / max(made, 1):.1%}"])
    head = ["raters", "SD of rater x model", "fitted", "coverage"]
    table(
        "Model effect of the rater-by-item model, 20 questions, two models: coverage of the 95 % interval", head, rows
    )


def ratings(
    random: np.random.Generator, questions: int, models: int, count: int, preference: float
) -> tuple[np.ndarray, list[str], list[str], list[str]]:
    of_question, of_answer = random.normal(0, 0.3, questions), random.normal(0, 0.2, (questions, models))
    of_rater, of_both = random.normal(0, 0.2, count), random.normal(0, preference, (count, models))
    index = [(q, m, r) for q in range(questions) for m in range(models) for r in range(count)]
    values = [2.5 + 0.2 * m + of_question[q] + of_answer[q, m] + of_rater[r] + of_both[r, m] for q, m, r in index]
    noisy = np.asarray(values) + random.normal(0, 0.3, len(index))
    names = [[f"{letter}{key[place]}" for key in index] for letter, place in (("r", 2), ("m", 1), ("q", 0))]
    return np.clip(np.round(noisy), 1, 4), names[0], names[1], names[2]


def within(draws: int) -> None:
    """A judge that knows only which of four models it reads, on 100 questions each."""
    random, pooled, inside, covered = np.random.default_rng(0), [], [], 0
    models, questions = np.repeat(np.arange(4), 100), np.tile(np.arange(100), 4)
    quality = 2.5 + np.linspace(-0.75, 0.75, 4)[models]
    for _ in range(draws):
        clinicians = np.clip(np.round(quality + random.normal(0, 0.65, 400)), 1, 4)
        judge = quality + random.normal(0, 0.3, 400)
        pooled.append(float(np.corrcoef(judge, clinicians)[0, 1]))
        found = within_groups(judge, clinicians, models, questions)["pearson"]
        inside.append(found.value)
        covered += found.low <= 0 <= found.high
    row = [f"{np.mean(pooled):.2f}", f"{np.mean(inside):+.3f}", f"{covered / draws:.1%}"]
    table("A judge that knows only the model", ["r over all answers", "r within models", "coverage of 0"], [row])


SECTIONS: dict[str, Callable[[int], None]] = {"interactions": interactions, "raters": raters, "within": within}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.draws)
