"""What a rater has said so far about one answer, and how a change to it is read: from the page or from paper."""

import dataclasses
import itertools
from collections.abc import Mapping

from asclepius_jax.evaluate.judge.rubric import OMISSIONS, SCORES, Verdict, score
from data_prep.contract.errors import UserError

# The third question is one choice: (answerable from the note, recognised by the answer).
TREATMENTS = {
    "answered": (True, True),
    "wrongly declined": (True, False),
    "rightly declined": (False, True),
    "answered regardless": (False, False),
}
SPAN_TYPES = {
    "fabrication": "not in the note at all",
    "negation": "denied where the note affirms, or the reverse",
    "cause": "a cause or purpose that the note does not give",
    "context": "wrong person, time, side, dose or place",
}
SEVERITIES = {"minor": "would change no decision", "major": "could change care"}
LONGEST_COMMENT = 4_000


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """Characters [start, end) of an answer that are hallucinated."""

    start: int
    end: int
    type: str
    severity: str


@dataclasses.dataclass(frozen=True)
class Draft:
    """A verdict in the making; None is a question that was not answered yet."""

    incorrect: bool | None = None
    omitted: str | None = None
    treatment: str | None = None
    cannot_judge: bool = False
    comment: str = ""
    spans: tuple[Span, ...] = ()


def settled_score(draft: Draft) -> int | None:
    """The score as soon as no open question can change it; 0 for "cannot judge"."""
    if draft.cannot_judge:
        return 0
    scores = {
        score(Verdict(incorrect, omitted, *TREATMENTS[treatment]))
        for incorrect, omitted, treatment in itertools.product(
            (False, True) if draft.incorrect is None else (draft.incorrect,),
            OMISSIONS if draft.omitted is None else (draft.omitted,),
            TREATMENTS if draft.treatment is None else (draft.treatment,),
        )
    }
    return scores.pop() if len(scores) == 1 else None


def is_complete(draft: Draft) -> bool:
    if draft.cannot_judge:
        return True
    if draft.incorrect is None or draft.treatment is None:
        return False
    answerable, _ = TREATMENTS[draft.treatment]
    # Of what the note does not hold, nothing can be left out.
    return draft.omitted is not None or not answerable


def score_text(score: int | None) -> str:
    if score is None:
        return "not yet scored"
    return f"{score} {SCORES[score]}" if score else "cannot judge"


def changed(draft: Draft, answer: str, form: Mapping[str, str]) -> Draft:
    """The draft with what a form says; fields that are absent or empty stay. UserError for what cannot be."""
    updates: dict[str, object] = {}
    for name, choices in (("incorrect", ("no", "yes")), ("omitted", OMISSIONS), ("treatment", tuple(TREATMENTS))):
        if value := form.get(name, ""):
            one_of(name, value, choices)
            updates[name] = value == "yes" if name == "incorrect" else value
    if value := form.get("cannot_judge", ""):
        one_of("cannot_judge", value, ("no", "yes"))
        updates["cannot_judge"] = value == "yes"
    if "comment" in form:
        comment = form["comment"].replace("\r\n", "\n")  # as browsers send it
        if len(comment) > LONGEST_COMMENT:
            raise UserError(f"the comment has {len(comment):,} characters: at most {LONGEST_COMMENT:,}")
        updates["comment"] = comment
    spans = {(span.start, span.end): span for span in draft.spans}
    if removed := form.get("unmark", ""):
        spans.pop(place_of(removed, answer), None)
    if form.get("quote", "") or form.get("place", ""):
        span = span_of(form, answer)
        spans[span.start, span.end] = span
    return dataclasses.replace(draft, **updates, spans=tuple(sorted(spans.values())))  # type: ignore[arg-type]


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} {value[:40]!r}: it must be one of {', '.join(choices)}")


def span_of(form: Mapping[str, str], answer: str) -> Span:
    """The span that a form marks: by its place ("12-40", from the page's script), or by quoting the answer."""
    kind, severity, quote = form.get("type", ""), form.get("severity", ""), form.get("quote", "").strip()
    one_of("type", kind, tuple(SPAN_TYPES))
    one_of("severity", severity, tuple(SEVERITIES))
    if place := form.get("place", ""):
        return Span(*place_of(place, answer), kind, severity)
    start = answer.find(quote)
    if start < 0:
        raise UserError("the quoted words are not in the answer: copy them from it exactly")
    return Span(start, start + len(quote), kind, severity)


def place_of(text: str, answer: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(text) < 20):
        raise UserError(f"place {text[:40]!r}: it must be START-END")
    start, end = int(first), int(last)
    if not start < end <= len(answer):
        raise UserError(f"place {text}: the answer has {len(answer)} characters")
    return start, end


def pieces(answer: str, spans: tuple[Span, ...]) -> list[tuple[str, tuple[Span, ...]]]:
    """The answer cut where a span begins or ends, each piece with the spans that cover it."""
    cuts = sorted({0, len(answer), *(place for span in spans for place in (span.start, span.end))})
    return [
        (answer[start:end], tuple(span for span in spans if span.start <= start and end <= span.end))
        for start, end in itertools.pairwise(cuts)
    ]
