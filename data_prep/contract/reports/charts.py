"""Charts of a training run: each function returns one `<svg>` element for a page.

matplotlib draws on a bare Figure, without pyplot, a display or global state, and is imported when it draws, so that a
trainer starts without it. Text stays text, in the fonts of the page.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

INK, QUIET, GRID, LINE, PALE, SECOND = "#1f2933", "#52606d", "#dfe3e8", "#1d4ed8", "#a9c0f5", "#b45309"
PARTS = ("#1d4ed8", "#7aa2f7", "#d3d9e0")  # darkest for tokens with loss, palest for padding
WIDTH_INCHES = 5.2  # about 375 units of the viewBox, so that 10-point text is still 9 pixels high on a phone
LOG_FROM = 20.0  # ratio of largest to smallest value from which a linear axis would hide the end of the curve
SMOOTH_FROM = 60  # number of steps; shorter curves are readable without a mean

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#7b8794",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

Values = Sequence[float]

MODEL_COLOURS = ("#2f5fb3", "#b2552b", "#6b7f3a", "#7a5195", "#9a8c5c", "#5aa0a8")


def draw(
    name: str, description: str, paint: Callable[[Any], None], height: float = 2.7, width: float = WIDTH_INCHES
) -> str:
    """The SVG element of what `paint` draws on fresh axes, in inches; `name` makes its ids unique in the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.subplots())
        buffer = io.StringIO()
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()  # drop XML declaration and DOCTYPE, which only a separate file needs
    for reference in (' id="', 'href="#', "url(#"):
        svg = svg.replace(reference, f"{reference}{name}-")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def loss_chart(steps: Values, loss: Values, eval_steps: Values, eval_loss: Values) -> str:
    def paint(axes: Any) -> None:
        course(axes, steps, loss)
        if len(eval_steps):
            axes.plot(eval_steps, eval_loss, "o-", color=SECOND, markersize=4.5, lw=1, label="held out", gid="held-out")
        axes.set_ylabel("loss (nats per token)")
        logarithmic(axes, [*loss, *eval_loss])
        legend(axes)

    return draw("loss", "Training and held-out loss over steps", paint)


def lines_chart(
    name: str, description: str, lines: Mapping[str, tuple[Values, Values]], unit: str = "loss (nats per token)"
) -> str:
    """Values over steps, one line per name, such as the losses of the sources of a mixture."""

    def paint(axes: Any) -> None:
        for (label, (steps, values)), colour in zip(lines.items(), itertools.cycle(MODEL_COLOURS), strict=False):
            marker = "o" if len(steps) <= 30 else ""
            smooth = values if len(steps) < SMOOTH_FROM else moving_mean(values, len(steps) // 25)
            axes.plot(steps, smooth, color=colour, marker=marker, markersize=3.5, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        logarithmic(axes, [value for _, values in lines.values() for value in values])
        legend(axes)

    return draw(name, description, paint)


def learning_rate_chart(steps: Values, rates: Values, coming_steps: Values = (), coming: Values = ()) -> str:
    """The rates so far, and as a dashed line those of the coming steps."""
    highest = max([*rates, *coming])
    power = math.floor(math.log10(highest)) if highest > 0 else 0

    def paint(axes: Any) -> None:
        course(axes, steps, [rate / 10.0**power for rate in rates], smooth=False)
        if len(coming_steps):
            axes.plot(coming_steps, [rate / 10.0**power for rate in coming], color=SECOND, ls="--", label="to come")
            axes.set_xlim(left=min(steps[0], coming_steps[0]), right=coming_steps[-1])
            legend(axes)
        axes.set_ylabel("learning rate" + (f" (× 10{superscript(power)})" if power else ""))
        axes.set_ylim(bottom=0)

    return draw("learning-rate", "Learning rate over steps", paint)


def gradient_chart(steps: Values, norms: Values, clip_norm: float | None) -> str:
    def paint(axes: Any) -> None:
        course(axes, steps, norms)
        axes.set_ylabel("gradient norm")
        if not logarithmic(axes, norms):
            axes.set_ylim(0, 1.15 * max([norm for norm in norms if math.isfinite(norm)], default=1.0) or 1.0)
        # A line far above the curve would only flatten it.
        if clip_norm is not None and clip_norm < 2 * axes.get_ylim()[1]:
            axes.axhline(clip_norm, color=SECOND, ls="--", lw=1.2, label=f"clipped above {clip_norm:g}")
        legend(axes)

    return draw("gradient", "Norm of the gradient over steps", paint)


def throughput_chart(steps: Values, speeds: Values, mfu: Values) -> str:
    """Tokens per second, with a second scale on the right in percent of the hardware's peak, if known."""
    thousands = max(speeds) >= 10_000

    def paint(axes: Any) -> None:
        scale = 1000.0 if thousands else 1.0
        course(axes, steps, [speed / scale for speed in speeds], smooth=False)
        axes.set_ylabel("thousand tokens per second" if thousands else "tokens per second")
        axes.set_ylim(bottom=0, top=1.15 * max(speeds) / scale)
        if len(mfu) == len(speeds):
            # The two scales differ by a constant factor as long as the run used the same devices.
            percent = 100 * mfu[-1] / (speeds[-1] / scale)
            right = axes.secondary_yaxis("right", functions=(lambda x: x * percent, lambda x: x / percent))
            right.set_ylabel("MFU (%)")

    return draw("throughput", "Tokens per second over steps", paint)


def time_chart(seconds: dict[str, float]) -> str:
    longest, total = max(seconds.values()), sum(seconds.values())
    size, unit = (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 7200 else (3600.0, "hours")

    def paint(axes: Any) -> None:
        bars = axes.barh(list(seconds), [value / size for value in seconds.values()], color=LINE, height=0.62)
        labels = [f"{duration(value)} · {value / total:.1%}" for value in seconds.values()]
        axes.bar_label(bars, labels, padding=5)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.45 * longest / size)  # room for the labels
        axes.set_xlabel(unit)

    return draw("time", "Seconds in each part of the run", paint, height=0.9 + 0.3 * len(seconds))


def token_chart(parts: dict[str, int]) -> str:
    """One bar of all slots of the packed rows, split into `parts`."""
    total = sum(parts.values())

    def paint(axes: Any) -> None:
        start = 0.0
        for (name, count), colour in zip(parts.items(), PARTS, strict=True):
            share = 100 * count / total
            axes.barh(0, share, left=start, color=colour, height=0.9, label=f"{name}: {count:,} ({share:.1f}%)")
            start += share
        axes.set_xlim(0, 100)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.set_xlabel("% of all slots in the rows")
        legend(axes, columns=1, handlelength=1.0, handleheight=1.0)

    return draw("tokens", "Share of the packed rows that carries loss, is read, and is padding", paint, height=2.1)


def course(axes: Any, steps: Values, values: Values, smooth: bool = True) -> None:
    """Plot values over steps as one line, or for many noisy steps as a pale line with its moving mean on top."""
    from matplotlib.ticker import MaxNLocator

    if smooth and len(steps) >= SMOOTH_FROM:
        axes.plot(steps, values, color=PALE, lw=0.9, label="each step", gid="raw")
        axes.plot(steps, moving_mean(values, len(steps) // 25), color=LINE, label="mean")
    else:
        marker = "o" if len(steps) <= 30 else ""
        axes.plot(steps, values, color=LINE, marker=marker, markersize=3.5, label="each step", gid="raw")
    if steps[-1] - steps[0] < 4:
        axes.set_xlim(max(0, steps[0] - 2), steps[-1] + 2)  # wide enough for ticks at whole steps
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))


def legend(axes: Any, columns: int = 3, **shape: float) -> None:
    """Draw a legend above the axes, where it covers no spike. A single line gets none."""
    if len(axes.get_legend_handles_labels()[0]) > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.5, "borderpad": 0}
        axes.legend(**place, ncols=columns, **{"handlelength": 1.4, "columnspacing": 1.4, **shape})


def moving_mean(values: Values, window: int) -> np.ndarray:
    """Centred mean of the finite values in a window; NaN where the value itself is not finite.

    The window is shortened at both ends.
    """
    array, kernel = np.asarray(values, dtype=float), np.ones(min(window | 1, len(values)))
    finite = np.isfinite(array)
    total = np.convolve(np.where(finite, array, 0.0), kernel, "same")
    return np.where(finite, total / np.maximum(np.convolve(finite, kernel, "same"), 1), np.nan)


def logarithmic(axes: Any, values: Values) -> bool:
    """Make the y axis logarithmic if the values span too much for a linear one. Returns whether it did."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) / min(finite) < LOG_FROM:
        return False
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(finite) / min(finite) < 1000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(axes.get_ylabel().removesuffix(")") + (", log)" if "(" in axes.get_ylabel() else " (log)"))
    return True


def superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def duration(seconds: float) -> str:
    if seconds < 180:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
