"""Figures of the report that only some runs have: losses by source and by held-out set, pairs, and coming rates."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from asclepius_jax.config import LoraConfig, OptimizerConfig
from asclepius_jax.train.optimizer import learning_rate
from data_prep.contract.reports import charts
from data_prep.contract.reports.pages import figure

Rows = list[dict[str, Any]]
POINTS = 200  # of the dashed line of coming rates


def losses_by_name(steps: Rows, evals: Rows) -> Iterable[str]:
    """The losses of the sources of a mixture, and those of several held-out sets."""
    for rows, prefix, title, caption in (
        (
            steps, "loss/", "Loss by source",
            "Of the rows of each source. Look for: all of them falling. A source that is repeated often falls lower, "
            "because the model has seen its rows before.",
        ),
        (
            evals, "eval_loss/", "Held-out loss by set",
            "Look for: a set of general text that stays level while the clinical ones fall. If it rises, the model "
            "forgets what it knew: mix more general text in, lower the learning rate, or merge the result with the "
            "model that training started from.",
        ),
    ):  # fmt: skip
        names = sorted({name for row in rows for name in row if name.startswith(prefix)})
        lines = {name.removeprefix(prefix): course(rows, name) for name in names}
        if names and all(len(steps) for steps, _ in lines.values()):
            yield figure(title, charts.lines_chart(prefix.strip("/").replace("_", "-"), title, lines), caption)


def course(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """(steps, values) of a measure, where it is a number."""
    known = [row for row in rows if math.isfinite(row.get(name, math.nan))]
    return [row["step"] for row in known], [row[name] for row in known]


def pairs_figures(steps: Rows, evals: Rows) -> Iterable[str]:
    """Share of pairs with the better answer ahead, and their margin, in a run that tunes on preferences."""
    if not any("preference_accuracy" in row for row in steps):
        return
    lines = {"training": course(steps, "preference_accuracy")}
    if any("eval_accuracy" in row for row in evals):
        lines["held out"] = course(evals, "eval_accuracy")
    title = "Pairs ordered right"
    yield figure(
        title,
        charts.lines_chart("accuracy", title, lines, "share of pairs"),
        "Pairs whose better answer has gained more probability than the worse one, compared with the reference. Look "
        "for: above one half, and held-out pairs near those of training.",
    )
    title = "Margin and loss of better answers"
    lines = {"margin": course(steps, "preference_margin"), "loss of better answers": course(steps, "chosen_loss")}
    yield figure(
        title,
        charts.lines_chart("margin", title, lines, "margin; nats per token"),
        "Look for: a margin that grows while the loss of better answers stays level. If that loss rises, better "
        "answers lose probability too: set --preference.anchor-weight, or a lower learning rate.",
    )


def coming_rates(config: dict[str, Any], last: int, summary: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(steps, learning rates) from the last step of an unfinished run to its end, by its settings; empty if unknown."""
    total = summary.get("total_steps", 0)
    if not config or last >= total:
        return [], []
    # A page of an older run lacks the settings that have come since.
    known = {field.name for field in dataclasses.fields(OptimizerConfig)}
    settings = OptimizerConfig(**{name: value for name, value in config["optimizer"].items() if name in known})
    rate = learning_rate(settings, total, LoraConfig(rank=config.get("lora", {}).get("rank", 0)))
    steps = sorted({round(last + (total - last) * place / POINTS) for place in range(POINTS + 1)})
    return list(map(float, steps)), [float(rate(step - 1)) for step in steps]
