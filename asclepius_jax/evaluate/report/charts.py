"""Charts of an evaluation's report. Each function returns one `<svg>` element in the page's colours."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH = 720
LABEL = 190  # width of the names at the left
ROW = 30
# From unacceptable to excellent; distinguishable without telling red from green.
SCORE_COLOURS = {"1": "#b2552b", "2": "#e3b07c", "3": "#9db7e0", "4": "#2f5fb3"}
INK, QUIET, LINE = "#1f2933", "#52606d", "#c5ccd4"


def svg(height: float, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {WIDTH} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg" font-size="13" fill="{INK}">' + "".join(parts) + "</svg>"
    )


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(content)}</text>'


def shortened(name: str, longest: int = 26) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def distributions(models: Mapping[str, Mapping[str, int]]) -> str:
    """One bar per model, divided by the share of its answers with each score."""
    parts, width = [], WIDTH - LABEL - 60
    for row, (model, counts) in enumerate(models.items()):
        y, x, total = row * ROW + 6, float(LABEL), sum(counts.values())
        parts.append(text(LABEL - 10, y + 15, shortened(model), "end"))
        for name, colour in SCORE_COLOURS.items():
            share = counts[name] / total if total else 0.0
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{share * width:.1f}" height="22" fill="{colour}"/>')
            if share > 0.07:
                dark = name in ("1", "4")
                parts.append(text(x + share * width / 2, y + 15, f"{share:.0%}", "middle", "#fff" if dark else INK))
            x += share * width
        parts.append(text(WIDTH - 52, y + 15, f"n {total}", colour=QUIET))
    height = len(models) * ROW + 34
    x = float(LABEL)
    for name, label in (("1", "unacceptable"), ("2", "poor"), ("3", "satisfactory"), ("4", "excellent")):
        parts.append(f'<rect x="{x}" y="{height - 20}" width="12" height="12" fill="{SCORE_COLOURS[name]}"/>')
        parts.append(text(x + 17, height - 9, f"{name} {label}", colour=QUIET))
        x += 122
    return svg(height, "Share of answers with each score, by model", parts)


def forest(rows: Mapping[str, Mapping[str, Any]], margin: float, baseline: str) -> str:
    """Differences of mean scores with their intervals; the band marks the equivalence margin."""
    shown = {name: row for name, row in rows.items() if row["value"] is not None}
    ends = [row[key] for row in shown.values() for key in ("low", "high", "value") if row[key] is not None]
    reach = max([margin * 1.3, *(abs(end) for end in ends)]) * 1.08
    left, right = LABEL, WIDTH - 130

    def at(value: float) -> float:
        return left + (value + reach) / (2 * reach) * (right - left)

    height = len(shown) * ROW + 44
    bottom = height - 36
    parts = [
        f'<rect x="{at(-margin):.1f}" y="0" width="{at(margin) - at(-margin):.1f}" height="{bottom}" fill="#eef1f5"/>',
        f'<line x1="{at(0):.1f}" y1="0" x2="{at(0):.1f}" y2="{bottom}" stroke="{LINE}"/>',
    ]
    for number, (name, row) in enumerate(shown.items()):
        y = number * ROW + ROW / 2
        parts.append(text(LABEL - 10, y + 5, shortened(name), "end"))
        if row["low"] is not None:
            parts.append(
                f'<line x1="{at(row["low"]):.1f}" y1="{y}" x2="{at(row["high"]):.1f}" y2="{y}" stroke="#2f5fb3" '
                'stroke-width="2"/>'
            )
        parts.append(f'<circle cx="{at(row["value"]):.1f}" cy="{y}" r="5" fill="#2f5fb3"/>')
        label = f"{row['value']:+.2f}" + ("" if row["low"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]")
        parts.append(text(WIDTH - 4, y + 5, label, "end", QUIET))
    for value in (-margin, 0, margin):
        parts.append(text(at(value), bottom + 16, f"{value:+g}" if value else "0", "middle", QUIET))
    parts.append(text(at(0), bottom + 33, f"worse than {baseline}  ←  →  better", "middle", QUIET))
    return svg(height, f"Differences of mean score from {baseline} with 95 % intervals", parts)


def bars(rows: Mapping[str, Mapping[str, Any]], description: str) -> str:
    """Shares from 0 to 1 with their intervals."""
    parts, left, right = [], LABEL, WIDTH - 150
    for number, (name, row) in enumerate(rows.items()):
        y = number * ROW + 5
        parts.append(text(LABEL - 10, y + 15, shortened(name), "end"))
        if row["value"] is None:
            parts.append(text(left, y + 15, "not defined", colour=QUIET))
            continue
        width = row["value"] * (right - left)
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="16" fill="#9db7e0"/>')
        if row["low"] is not None:
            low, high = (left + row[key] * (right - left) for key in ("low", "high"))
            parts.append(f'<line x1="{low:.1f}" y1="{y + 11}" x2="{high:.1f}" y2="{y + 11}" stroke="{INK}"/>')
        label = f"{row['value']:.1%}" + ("" if row["low"] is None else f" [{row['low']:.0%}, {row['high']:.0%}]")
        parts.append(text(WIDTH - 4, y + 15, label, "end", QUIET))
    return svg(len(rows) * ROW + 8, description, parts)


def intervals(rows: Mapping[str, Mapping[str, Any]], description: str) -> str:
    """Values of any scale with their intervals, on an axis that starts at 0."""
    parts, left, right = [], LABEL, WIDTH - 190
    most = max([row[key] or 0.0 for row in rows.values() for key in ("value", "high")], default=0.0) or 1.0
    for number, (name, row) in enumerate(rows.items()):
        y = number * ROW + ROW / 2
        parts.append(text(LABEL - 10, y + 5, shortened(name), "end"))
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#eef1f5"/>')
        if row["value"] is None:
            parts.append(text(left, y + 5, "not defined", colour=QUIET))
            continue
        label = f"{row['value']:.2f}"
        if row["low"] is not None:
            low, high = (left + row[key] / most * (right - left) for key in ("low", "high"))
            parts.append(f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="#2f5fb3" stroke-width="2"/>')
            label += f" [{row['low']:.2f}, {row['high']:.2f}]"
        parts.append(f'<circle cx="{left + row["value"] / most * (right - left):.1f}" cy="{y}" r="5" fill="#2f5fb3"/>')
        parts.append(text(WIDTH - 4, y + 5, label, "end", QUIET))
    return svg(len(rows) * ROW + 8, description, parts)


def matrix(names: Sequence[str], values: Mapping[tuple[str, str], float | None]) -> str:
    """Matrix of correlations, from white at 0 to dark at 1; unknown ones are shown as a dash."""
    size = min(70, (WIDTH - LABEL) // max(1, len(names)))
    parts = []
    for row, name in enumerate(names):
        parts.append(text(LABEL - 10, row * size + size / 2 + 5, shortened(name), "end"))
        parts.append(text(LABEL + row * size + size / 2, len(names) * size + 18, shortened(name, 10), "middle", QUIET))
        for column, other in enumerate(names):
            value = 1.0 if name == other else values.get((name, other), values.get((other, name)))
            depth = 0.0 if value is None else max(0.0, value)
            x, y = LABEL + column * size, row * size
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" fill="#2f5fb3" '
                f'fill-opacity="{0.08 + 0.85 * depth:.2f}"/>'
            )
            colour = "#fff" if depth > 0.55 else INK
            label = "–" if value is None else f"{value:.2f}"
            parts.append(text(x + size / 2 - 1, y + size / 2 + 4, label, "middle", colour))
    return svg(len(names) * size + 28, "Rank correlation (Spearman) of judges with clinicians", parts)


def class_bars(models: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """Share of each model's facts that are unsupported, one bar per class of fact and model."""
    colours = ("#2f5fb3", "#b2552b", "#6b7f3a", "#7a5195", "#9a8c5c", "#5aa0a8")
    bar, gap = 13, 12
    block = bar * len(models) + gap
    left, right = LABEL, WIDTH - 110
    parts: list[str] = []
    for number, kind in enumerate(kinds):
        y = number * block
        parts.append(text(LABEL - 10, y + block / 2, kind, "end"))
        for row, figures in enumerate(models.values()):
            counts = figures["kinds"].get(kind)
            top = y + row * bar
            if not counts:
                parts.append(text(left + 2, top + 11, "none stated", colour=QUIET))
                continue
            share = counts["unsupported"] / counts["atoms"]
            parts.append(
                f'<rect x="{left}" y="{top}" width="{max(1.0, share * (right - left)):.1f}" height="{bar - 2}" '
                f'fill="{colours[row % len(colours)]}"/>'
            )
            label = f"{counts['unsupported']} of {counts['atoms']}"
            parts.append(text(left + share * (right - left) + 6, top + 11, label, colour=QUIET))
    height = len(kinds) * block + 26
    x = float(LABEL)
    for row, model in enumerate(models):
        parts.append(f'<rect x="{x}" y="{height - 16}" width="12" height="12" fill="{colours[row % len(colours)]}"/>')
        parts.append(text(x + 17, height - 5, shortened(model, 20), colour=QUIET))
        x += 40 + 8 * min(20, len(model))
    return svg(height, "Share of each model's facts that are unsupported, by class", parts)
