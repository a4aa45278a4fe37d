"""Which method computed the intervals and tests of each part of the page."""

from collections.abc import Iterator, Mapping
from typing import Any

from asclepius_jax.evaluate.judge.correction import POWERED, POWERED_SHARE, ROGAN_GLADEN
from asclepius_jax.evaluate.judge.fairness import LENGTH
from asclepius_jax.evaluate.statistics.agreement import JACKKNIFE
from asclepius_jax.evaluate.statistics.comparisons import TWO_GROUPS
from asclepius_jax.evaluate.statistics.estimates import INDEPENDENT, WOODRUFF
from asclepius_jax.evaluate.statistics.intervals import WILSON, T
from asclepius_jax.evaluate.statistics.mixed_model import MIXED
from asclepius_jax.evaluate.statistics.power import METHOD

EXPLAINED = {
    WILSON: "Wilson's interval on the effective sample size that the clustered variance (CR2) implies, with a quantile "
    "of t. Means of scores, shares and F1.",
    T: "Value ± t × clustered standard error (CR2), with Satterthwaite's degrees of freedom. Differences and figures "
    "without a scale.",
    WOODRUFF: "The quantiles at both ends of the first method's interval of the share below the median (Woodruff). "
    "Medians.",
    JACKKNIFE: "One cluster is left out at a time; all coefficients that a t test does not reject (Fieller). Alpha, "
    "kappa and correlations.",
    INDEPENDENT: "Wilson's interval of independent events: too narrow where answers share a note.",
    ROGAN_GLADEN: "The judge's share, corrected for its sensitivity and specificity on planted errors, with the "
    "uncertainty of all three.",
    POWERED: "Clinicians' mean of a random part, with the judge's scores of the rest (PPI++).",
    POWERED_SHARE: "The same for shares, on the scale from 0 to 1.",
    LENGTH: "Score on model and log of length within questions; clustered errors, t with clusters - 1 degrees of "
    "freedom. Too narrow below 20 clusters.",
    TWO_GROUPS: "Difference of two groups' mean differences, both with clustered errors (CR2); t with the degrees of "
    "freedom of the group that has fewer.",
    MIXED: "Crossed random effects of raters and items; conservative for few raters.",
    METHOD: "Power of a t test with the observed clustered standard error.",
    "identical": "All pairs are equal, so nothing is estimated.",
}


def methods_of(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Methods with the number of figures that each computed, by part of the figures."""
    counts: dict[str, dict[str, int]] = {}
    for part, value in figures.items():
        for method in named_in(value):
            by_part = counts.setdefault(method, {})
            by_part[part] = by_part.get(part, 0) + 1
    return [
        {"name": name, "text": EXPLAINED.get(name, ""), "parts": counts[name]}
        for name in sorted(counts, key=lambda name: (list(EXPLAINED).index(name) if name in EXPLAINED else 99, name))
    ]


def named_in(value: Any) -> Iterator[str]:
    """Every `method` in nested figures."""
    if isinstance(value, Mapping):
        if isinstance(value.get("method"), str) and value["method"]:
            yield value["method"]
        for part in value.values():
            yield from named_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from named_in(part)


def reasons_of(figures: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Why figures have no value or no interval: number of figures by reason and part."""
    counts: dict[str, dict[str, int]] = {}
    for part, value in figures.items():
        for reason in undefined_in(value):
            by_part = counts.setdefault(reason, {})
            by_part[part] = by_part.get(part, 0) + 1
    return dict(sorted(counts.items()))


def undefined_in(value: Any) -> Iterator[str]:
    """Every reason of a figure without a value or an interval."""
    if isinstance(value, Mapping):
        reason = value.get("undefined")
        if isinstance(reason, str) and reason and value.get("low") is None:
            yield reason
        for part in value.values():
            yield from undefined_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from undefined_in(part)
