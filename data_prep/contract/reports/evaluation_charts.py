"""Charts of an evaluation: each function returns one `<svg>` element for a page, drawn as in `charts`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from data_prep.contract.reports.charts import INK, LINE, MODEL_COLOURS, QUIET, draw, legend

# A row of an evaluation's figures: value, low and high, the first None where it is undefined, the others where there is
# no interval.
Row = Mapping[str, Any]

# Scores from unacceptable to excellent; distinguishable without telling red from green.
SCORES = {"1": "unacceptable", "2": "poor", "3": "satisfactory", "4": "excellent"}
SCORE_COLOURS = {"1": "#b2552b", "2": "#e3b07c", "3": "#9db7e0", "4": "#2f5fb3"}
WIDE_INCHES, ROW_INCHES = 8.0, 0.36


def rows_chart(name: str, description: str, labels: Sequence[str], paint: Callable[[Any], None], extra: float) -> str:
    """A chart with one row per label, the first at the top; `extra` is the height in inches beside the rows."""

    def painted(axes: Any) -> None:
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        paint(axes)
        axes.set_yticks(range(len(labels)), [shortened(label) for label in labels])
        axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)

    return draw(name, description, painted, ROW_INCHES * max(1, len(labels)) + extra, WIDE_INCHES)


def distributions(models: Mapping[str, Mapping[str, int]], judge: str) -> str:
    """One bar per model, divided by the share of its answers with each score by this judge."""

    def paint(axes: Any) -> None:
        for row, counts in enumerate(models.values()):
            left, total = 0.0, sum(counts.values())
            for score, colour in SCORE_COLOURS.items():
                share = 100 * counts[score] / total if total else 0.0
                label = f"{score} {SCORES[score]}" if row == 0 else None
                axes.barh(row, share, left=left, color=colour, height=0.72, label=label)
                if share > 7:
                    ink = "white" if score in ("1", "4") else INK
                    axes.text(left + share / 2, row, f"{share:.0f}%", ha="center", va="center", color=ink)
                left += share
            axes.text(101, row, f"n {total:g}", va="center", color=QUIET)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of answers")
        legend(axes, columns=4, handlelength=1.0, handleheight=1.0)

    title = f"Share of answers with each score by {judge}, for each model"
    return rows_chart("scores", title, list(models), paint, 1.0)


def forest(rows: Mapping[str, Row], margin: float, baseline: str) -> str:
    """Differences of mean scores with their intervals; the band marks the equivalence margin."""
    shown = {name: row for name, row in rows.items() if row["value"] is not None}
    ends = [row[key] for row in shown.values() for key in ("low", "high", "value") if row[key] is not None]
    reach = 1.08 * max([1.3 * margin, *(abs(end) for end in ends)])

    def paint(axes: Any) -> None:
        axes.axvspan(-margin, margin, color="#eef1f5")
        axes.axvline(0, color=QUIET, lw=0.8)
        with_intervals(axes, shown.values(), reach, "+.2f")
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(f"worse than {baseline}  ←  difference of mean score  →  better")

    description = f"Differences of mean score from {baseline} with 95 % intervals"
    return rows_chart("forest", description, list(shown), paint, 0.7)


def intervals(rows: Mapping[str, Row], description: str) -> str:
    """Values of any scale with their intervals, on an axis that starts at 0."""
    most = max([row[key] or 0.0 for row in rows.values() for key in ("value", "high")], default=0.0) or 1.0

    def paint(axes: Any) -> None:
        with_intervals(axes, rows.values(), 1.05 * most, ".2f")
        axes.set_xlim(0, 1.05 * most)

    return rows_chart(slug(description), description, list(rows), paint, 0.45)


def with_intervals(axes: Any, rows: Iterable[Row], right: float, form: str) -> None:
    """A dot and a line per row, and its figures right of the axes."""
    for number, row in enumerate(rows):
        if row["value"] is None:
            axes.text(right, number, " not defined", va="center", color=QUIET)
            continue
        label = f"{row['value']:{form}}"
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [number, number], color=LINE, lw=2)
            label += f" [{row['low']:{form}}, {row['high']:{form}}]"
        axes.plot(row["value"], number, "o", color=LINE, markersize=6)
        axes.text(right, number, f" {label}", va="center", color=QUIET)


def bars(rows: Mapping[str, Row], description: str) -> str:
    """Shares from 0 to 1 with their intervals."""

    def paint(axes: Any) -> None:
        for number, row in enumerate(rows.values()):
            if row["value"] is None:
                axes.text(1, number, "not defined", va="center", color=QUIET)
                continue
            axes.barh(number, 100 * row["value"], color="#9db7e0", height=0.55)
            label = f"{row['value']:.1%}"
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [number, number], color=INK, lw=1)
                label += f" [{row['low']:.0%}, {row['high']:.0%}]"
            axes.text(101, number, label, va="center", color=QUIET)
        axes.set_xlim(0, 100)
        axes.set_xlabel("%")

    return rows_chart(slug(description), description, list(rows), paint, 0.6)


def matrix(names: Sequence[str], values: Mapping[tuple[str, str], float | None]) -> str:
    """Matrix of correlations, from white at 0 to dark at 1; unknown ones are shown as a dash."""

    def paint(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        axes.grid(visible=False)
        for row, name in enumerate(names):
            for column, other in enumerate(names):
                value = 1.0 if name == other else values.get((name, other), values.get((other, name)))
                depth = max(0.0, value or 0.0)
                corner = (column - 0.48, row - 0.48)
                axes.add_patch(Rectangle(corner, 0.96, 0.96, color="#2f5fb3", alpha=0.08 + 0.85 * depth))
                ink = "white" if depth > 0.55 else INK
                axes.text(column, row, "–" if value is None else f"{value:.2f}", ha="center", va="center", color=ink)
        axes.set_xticks(range(len(names)), [shortened(name, 10) for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)

    return rows_chart("correlations", "Rank correlation (Spearman) of judges with clinicians", names, paint, 0.45)


def class_bars(models: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """Share of each model's facts that are unsupported, one bar per class of fact and model."""
    thickness = 0.8 / max(1, len(models))

    def paint(axes: Any) -> None:
        most = 1.0
        for number, (model, figures) in enumerate(models.items()):
            shares = []
            for row, kind in enumerate(kinds):
                counts = figures["kinds"].get(kind)
                share = 100 * counts["unsupported"] / counts["atoms"] if counts else 0.0
                shares.append(share)
                label = f" {counts['unsupported']} of {counts['atoms']}" if counts else " none stated"
                axes.text(share, row + (number + 0.5) * thickness - 0.4, label, va="center", color=QUIET, size=8)
            most = max([most, *shares])
            places = [row + (number + 0.5) * thickness - 0.4 for row in range(len(kinds))]
            colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
            axes.barh(places, shares, height=0.9 * thickness, color=colour, label=shortened(model, 20))
        axes.set_xlim(0, min(112, 1.2 * most))
        axes.set_xlabel("% unsupported")
        legend(axes)

    description = "Share of each model's facts that are unsupported, by class"
    return rows_chart("classes", description, kinds, paint, 0.8 + 0.16 * len(kinds) * (len(models) - 1))


def shortened(name: str, longest: int = 26) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def slug(description: str) -> str:
    """An id for a chart from its description."""
    return "-".join("".join(c if c.isalnum() else " " for c in description.lower()).split())
