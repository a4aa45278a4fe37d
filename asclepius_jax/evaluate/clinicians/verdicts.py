"""A rater's draft verdict on one answer, and the changes to it that a web or paper form makes."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from asclepius_jax.evaluate.judge.rubric import OMISSIONS, SCORES, Verdict, score
from data_prep.contract.errors import UserError

# The third question offers one choice for two fields: (answerable from the note, recognised by the answer).
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
    """Hallucinated characters [start, end) of an answer."""

    start: int
    end: int
    type: str
    severity: str


@dataclasses.dataclass(frozen=True)
class Draft:
    """Incomplete verdict; None marks a question that is not answered yet."""

    incorrect: bool | None = None
    omitted: str | None = None
    treatment: str | None = None
    cannot_judge: bool = False
    comment: str = ""
    spans: tuple[Span, ...] = ()


def settled_score(draft: Draft) -> int | None:
    """Score, as soon as no open question can change it; 0 for "cannot judge", None while undecided."""
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
    # If the note does not contain the answer, nothing can be omitted.
    return draft.omitted is not None or not answerable


def score_text(score: int | None) -> str:
    if score is None:
        return "not yet scored"
    # Without the number: on the page, numbers are the keys of the options.
    return SCORES[score] if score else "cannot judge"


def changed(draft: Draft, answer: str, form: Mapping[str, str]) -> Draft:
    """Draft updated with a form's fields; absent or empty fields keep their value. Raises UserError if invalid."""
    updates: dict[str, object] = {}
    for name, choices in (("incorrect", ("no", "yes")), ("omitted", OMISSIONS), ("treatment", tuple(TREATMENTS))):
        if value := form.get(name, ""):
            check_choice(name, value, choices)
            updates[name] = value == "yes" if name == "incorrect" else value
    if value := form.get("cannot_judge", ""):
        check_choice("cannot_judge", value, ("no", "yes"))
        updates["cannot_judge"] = value == "yes"
    if "comment" in form:
        comment = form["comment"].replace("\r\n", "\n")  # browsers send CRLF
        if len(comment) > LONGEST_COMMENT:
            raise UserError(f"the comment has {len(comment):,} characters: at most {LONGEST_COMMENT:,} are allowed")
        updates["comment"] = comment
    spans = {(span.start, span.end): span for span in draft.spans}
    if removed := form.get("unmark", ""):
        spans.pop(place_of(removed, answer), None)
    if form.get("quote", "") or form.get("place", ""):
        span = span_of(form, answer)
        spans[span.start, span.end] = span
    return dataclasses.replace(draft, **updates, spans=tuple(sorted(spans.values())))  # type: ignore[arg-type]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} {value[:40]!r}: must be one of {', '.join(choices)}")


def span_of(form: Mapping[str, str], answer: str) -> Span:
    """Span that a form marks, either by its place ("12-40", from the page's script) or by quoting the answer."""
    kind, severity, quote = form.get("type", ""), form.get("severity", ""), form.get("quote", "").strip()
    check_choice("type", kind, tuple(SPAN_TYPES))
    check_choice("severity", severity, tuple(SEVERITIES))
    if place := form.get("place", ""):
        return Span(*place_of(place, answer), kind, severity)
    start = answer.find(quote)
    if start < 0:
        raise UserError("the quoted words are not in the answer: copy them exactly")
    return Span(start, start + len(quote), kind, severity)


def place_of(text: str, answer: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(text) < 20):
        raise UserError(f"place {text[:40]!r}: must be START-END")
    start, end = int(first), int(last)
    if not start < end <= len(answer):
        raise UserError(f"place {text}: the answer has {len(answer)} characters")
    return start, end


def pieces(
    answer: str, spans: tuple[Span, ...], citations: Sequence[tuple[int, int, int]] = ()
) -> list[tuple[list[tuple[str, int]], tuple[Span, ...]]]:
    """The answer, split where a span begins or ends. Each piece comes with the spans that cover it.

    citations: (number, start, end) of each. A piece is a list of texts, each with the number that it cites or 0."""
    places = [*((span.start, span.end) for span in spans), *((start, end) for _, start, end in citations)]
    cuts = itertools.pairwise(sorted({0, len(answer), *itertools.chain(*places)}))

    def covering(cut: tuple[int, int]) -> tuple[Span, ...]:
        return tuple(span for span in spans if span.start <= cut[0] and cut[1] <= span.end)

    def cited(cut: tuple[int, int]) -> int:
        return next((number for number, start, end in citations if start <= cut[0] and cut[1] <= end), 0)

    return [
        ([(answer[slice(*cut)], cited(cut)) for cut in group], covered)
        for covered, group in itertools.groupby(cuts, covering)
    ]
