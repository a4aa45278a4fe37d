"""How far the order of what a judge sees decides its verdicts, measured on the verdicts of a usual run.

Orders are balanced over questions and votes, so a judge that heeds content takes the first of k options in 1/k of its
verdicts, whatever the answers are worth, and gives a model the same mean score in every position.
"""

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asclepius_jax.evaluate.judge.asking.orders import NO, YES
from asclepius_jax.evaluate.records import Judgement
from asclepius_jax.evaluate.statistics.estimates import mean

# Share of verdicts that the order decides (0 none, 1 all), and shift of a mean score, from which on a judge is named.
MOST_DECIDED = 0.1
MOST_SHIFT = 0.1
Units = Mapping[str, Hashable]


def position_bias(judgements: Sequence[Judgement], units: Units | None = None) -> dict[str, Any]:
    """Figures of position bias of one judge, and `warning`, empty if there is none.

    units: cluster of each question, see `Question.cluster`. Pointwise: `first_option` has for each question of the
    rubric the share of verdicts that take the first option, its expected value, and `decided`, the share of verdicts
    that the order decides, negative if the last option is favoured. Listwise: `places` has the mean score by position,
    less the mean of the same models' scores. Empty for judgements without an order.
    """
    read = [judgement for judgement in judgements if judgement.score and judgement.order]
    orders = [json.loads(judgement.order) for judgement in read]
    clusters = [(units or {}).get(judgement.question_id, judgement.question_id) for judgement in read]
    if not read:
        return {"warning": ""}
    if isinstance(orders[0], dict):
        figures: dict[str, Any] = {"first_option": option_figures(read, orders, clusters)}
        beyond = [row for row in figures["first_option"].values() if row["exceeds"]]
        is_biased = bool(beyond)
        decided = max((abs(row["decided"]) for row in beyond), default=0.0)
        text = f"the order of options decides {decided:.0%} of its verdicts"
    else:
        figures = {"places": place_figures(read, orders, clusters)}
        shift = figures["places"][0]
        is_biased = exceeds(shift, 0, MOST_SHIFT)
        text = f"the answer that it sees first scores {shift['value'] or 0:+.2f} more than the same models elsewhere"
    return figures | {"warning": f"{read[0].judge} is biased by position: {text}" if is_biased else ""}


def option_figures(
    judgements: Sequence[Judgement], orders: Sequence[Mapping[str, Sequence[str]]], clusters: Sequence[Hashable]
) -> dict[str, Any]:
    figures = {}
    for name, options in orders[0].items():
        # A verdict without an answer to this question, such as one of a prompt that did not ask for harm, says nothing.
        firsts = [
            float(option_of(j, name) == order[name][0]) if option_of(j, name) in options else None
            for j, order in zip(judgements, orders, strict=True)
        ]
        share, expected = asdict(mean(firsts, clusters, (0.0, 1.0))), 1 / len(options)
        if share["value"] is None:
            continue
        decided = (share["value"] - expected) / (1 - expected if share["value"] > expected else expected)
        margin = MOST_DECIDED * (1 - expected if share["value"] > expected else expected)
        figures[name] = {**share, "expected": expected, "decided": decided}
        figures[name]["exceeds"] = exceeds(share, expected, margin)
    return figures


def option_of(judgement: Judgement, name: str) -> str:
    value = getattr(judgement, name)
    return str({True: YES, False: NO}[value] if isinstance(value, bool) else value)


def place_figures(
    judgements: Sequence[Judgement], orders: Sequence[Sequence[str]], clusters: Sequence[Hashable]
) -> list[dict[str, Any]]:
    """Mean difference of a score from the mean score of its model, by position, from the first."""
    by_model: dict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        by_model[judgement.model].append(judgement.score)
    usual = {model: sum(scores) / len(scores) for model, scores in by_model.items()}
    places = [order.index(judgement.model) for judgement, order in zip(judgements, orders, strict=True)]
    shifts = [judgement.score - usual[judgement.model] for judgement in judgements]
    figures = []
    for place in sorted(set(places)):
        rows = [row for row, found in enumerate(places) if found == place]
        figures.append(asdict(mean([shifts[row] for row in rows], [clusters[row] for row in rows])))
    return figures


def exceeds(estimate: Mapping[str, Any], expected: float, margin: float) -> bool:
    """Report whether a value is beyond its margin and its interval excludes the expected value.

    No interval means no variation (a judge that always takes the first option) or one question, which shows nothing.
    """
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or abs(value - expected) <= margin:
        return False
    if low is None:
        return int(estimate["clusters"]) >= math.ceil(1 / MOST_DECIDED)
    return bool(low > expected or high < expected)
