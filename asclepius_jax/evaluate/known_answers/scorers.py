"""Read answers and score them against references, with one row of SCORERS per kind of reference.

Every figure is a ratio of two sums over questions, such as F1 = 2 tp / (2 tp + fp + fn). A question contributes two
numbers to each figure, and one function computes all intervals (`statistics.estimates.ratio_of_sums`).
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from asclepius_jax.evaluate.known_answers import parse
from asclepius_jax.evaluate.known_answers.parse import Item
from asclepius_jax.evaluate.questions.datasets.annotated_spans import find_words
from asclepius_jax.evaluate.questions.datasets.references import normal

Reference = dict[str, Any]
Sums = dict[str, tuple[float, float]]  # contribution to numerator and denominator, by figure


class Span(NamedTuple):
    type: str
    start: int  # -1 if the words do not occur in the note
    end: int


class Scorer(NamedTuple):
    read: Callable[[str, Reference, str], Any]  # takes answer, reference, note; None if the answer cannot be read
    sums: Callable[[Any, Reference], Sums]
    empty: Any  # result of `read` for an answer that names nothing
    known: Callable[[Reference], Any]  # result of `read` for an answer that repeats the reference


# ---------------------------------------------------------------- entities


def read_entities(answer: str, reference: Reference, note: str) -> list[Span] | None:
    found = parse.items(answer)
    if found is None:
        return None
    kept = parse.typed(found, reference["types"] if len(reference["types"]) > 1 else [])
    if found and not kept:
        return None
    only = reference["types"][0] if len(reference["types"]) == 1 else ""
    return placed([Item(only or item.label, item.text) for item in kept], reference, note)


def placed(items: list[Item], reference: Reference, note: str) -> list[Span]:
    """Spans of the items in the note.

    An item is placed at the known mention with the same words, preferably of the same type, otherwise at the first
    occurrence in the note. The same words of one type count once, because the question asks for each once."""
    known: dict[tuple[str, str], tuple[int, int]] = {}
    for kind, start, end, text in reference["gold"]:
        known.setdefault((kind, normal(text)), (start, end))
        known.setdefault(("", normal(text)), (start, end))
    spans: dict[tuple[str, str], Span] = {}
    for kind, text in items:
        words = normal(text)
        if words and (kind, words) not in spans:
            place = known.get((kind, words)) or known.get(("", words)) or find_words(words, note)
            spans[kind, words] = Span(kind, *place)
    return list(spans.values())


def matches(predicted: Iterable[Span], gold: Iterable[Span], relaxed: bool = False) -> int:
    """Number of predictions matched to a known span of their own, which is equal or, if relaxed, overlaps.

    Relaxed matching follows "ent_type" of `nervaluate` within a type: predictions are taken in order of position, and
    each is matched to the free span with the nearest boundaries. A prediction that is not in the note matches nothing.
    """
    free, count = list(dict.fromkeys(gold)), 0
    for span in sorted(dict.fromkeys(predicted), key=lambda span: (span.start, span.end)):
        if relaxed:
            candidates = [g for g in free if g.type == span.type and span.start < g.end and g.start < span.end]
        else:
            candidates = [g for g in free if g == span]
        if candidates and span.start >= 0:
            nearest = min(candidates, key=lambda g: abs(g.start - span.start) + abs(g.end - span.end))
            free.remove(nearest)
            count += 1
    return count


def entity_sums(predicted: list[Span], reference: Reference) -> Sums:
    gold = known_spans(reference)
    strict, relaxed = matches(predicted, gold), matches(predicted, gold, relaxed=True)
    return {
        **overlap_sums("strict", strict, len(predicted), len(gold)),
        **overlap_sums("relaxed", relaxed, len(predicted), len(gold)),
        "not in the note": (float(sum(span.start < 0 for span in predicted)), float(len(predicted))),
    }


def overlap_sums(name: str, both: int, predicted: int, gold: int) -> Sums:
    return {
        f"{name} precision": (float(both), float(predicted)),
        f"{name} recall": (float(both), float(gold)),
        f"{name} F1": (2.0 * both, float(predicted + gold)),
    }


# ---------------------------------------------------------------- pairs


def read_pairs(answer: str, reference: Reference, note: str) -> list[tuple[str, str]] | None:
    found = parse.items(answer)
    if found is None:
        return None
    pairs = dict.fromkeys((normal(item.label), normal(item.text)) for item in found)
    kept = [pair for pair in pairs if all(pair)]
    return None if found and not kept else kept


def pair_sums(predicted: list[tuple[str, str]], reference: Reference) -> Sums:
    """Strict: both sides have the same words. Relaxed: on both sides, one text contains the other."""
    free = list(dict.fromkeys((normal(first), normal(second)) for first, second in reference["gold"]))
    total = len(free)
    strict = len(set(free) & set(predicted))
    relaxed = 0
    # Exact matches first, so that a relaxed match does not take their place.
    for pair in sorted(predicted, key=lambda pair: pair not in free):
        candidates = [gold for gold in free if gold == pair] or [
            gold for gold in free if all(either_contains(a, b) for a, b in zip(pair, gold, strict=True))
        ]
        if candidates:
            free.remove(candidates[0])
            relaxed += 1
    return {
        **overlap_sums("strict", strict, len(predicted), total),
        **overlap_sums("relaxed", relaxed, len(predicted), total),
    }


def either_contains(first: str, second: str) -> bool:
    """Report whether one of the texts contains the other as whole words."""
    short, long = sorted((first, second), key=len)
    return f" {short} " in f" {long} "


# ---------------------------------------------------------------- labels


def read_labels(answer: str, reference: Reference, note: str) -> dict[int, str] | None:
    """Labels by number from 1. Lines without numbers are read in order if there is one for every number."""
    choice = re.compile(r"\b(" + "|".join(map(re.escape, reference["options"])) + r")(?:s|ped|ping)?\b", re.IGNORECASE)
    value = parse.json_value(answer)
    if isinstance(value, dict):
        answer = "\n".join(f"{key}. {label}" for key, label in value.items())
    elif isinstance(value, list):
        answer = "\n".join(str(label) for label in value)
    found: dict[int, str] = {}
    plain: list[str] = []
    for line in answer.splitlines():
        # The last option counts, because the words before it may repeat the question.
        if options := choice.findall(line):
            number = re.match(r"\W*(?:pair\s+)?(\d{1,3})\b", line, re.IGNORECASE)
            if number:
                found.setdefault(int(number[1]), options[-1].casefold())
            plain.append(options[-1].casefold())
    count = len(reference["gold"])
    if not found and len(plain) == count:
        found = dict(enumerate(plain, 1))
    return {number: label for number, label in found.items() if 1 <= number <= count} or None


def label_sums(labels: dict[int, str], reference: Reference) -> Sums:
    gold = dict(enumerate(reference["gold"], 1))
    right = sum(labels.get(number) == label for number, label in gold.items())
    sums = {"accuracy": (float(right), float(len(gold))), "answered": (float(len(labels)), float(len(gold)))}
    for option in reference["options"]:
        numbers = [number for number, label in gold.items() if label == option]
        sums[f"recall of {option}"] = (float(sum(labels.get(n) == option for n in numbers)), float(len(numbers)))
    return sums


# ---------------------------------------------------------------- forms


def read_form(answer: str, reference: Reference, note: str) -> str | None:
    words = " ".join(re.findall(r"\w+", answer.casefold()))
    return words or None


def form_sums(answer: str, reference: Reference) -> Sums:
    """Accuracy: the answer contains a right form and no form that is right elsewhere.

    Listing everything that an abbreviation can mean is therefore wrong."""

    def contains(form: str) -> bool:
        words = " ".join(re.findall(r"\w+", form.casefold()))
        return bool(words) and f" {words} " in f" {answer} "

    # A form that is part of a right one is not wrong.
    inside = " ".join(re.findall(r"\w+", " ".join(reference["gold"]).casefold()))
    others = [other for other in reference["others"] if " ".join(re.findall(r"\w+", other.casefold())) not in inside]
    right = any(map(contains, reference["gold"])) and not any(map(contains, others))
    return {"accuracy": (float(right), 1.0)}


# ---------------------------------------------------------------- errors


class Found(NamedTuple):
    sentence: int | None
    corrected: str


# A sentence number stands alone, unlike the numbers in "24-year-old" and "106/min".
NUMBER = r"\W*(?:sentence\W*)?(?:number\W*|no\W+|id\W*)?(\d{1,3})(?![\w/%-])[\s:.)\-–—>|]*(.*)"
NUMBERED = re.compile(rf"(?:^|\bsentence){NUMBER}", re.IGNORECASE | re.DOTALL)
ERROR = r"(?:errors?|mistakes?|inaccurac\w+|inconsistenc\w+|contradictions?)"
# "No doubt an error" and "not without an error" state an error; "no further errors" says nothing of the first one.
NO_ERROR = re.compile(
    rf"(?<!not )\b(?:no|not any|without(?: any)?|free of|zero)\s(?:(?!doubt|question|denying|other|further|more"
    rf"|additional)[\w-]+\s){{0,3}}{ERROR}\b"
    rf"|(?:not|n['’]t)\s(?:see|find|contain|have|detect|identify|spot|appear)\b(?! only)[^.]{{0,30}}\b{ERROR}\b"
    r"|nothing (?:is )?(?:wrong|incorrect)|\berror-free\b|\bno correction",
    re.IGNORECASE,
)
ALL_RIGHT = re.compile(
    r"\W*none\b|\W*(?:correct|ok|okay)\W*$|[^.\d]{0,60}\b(?:all|every|each|everything|the (?:whole )?(?:note|text))"
    r"\b[^.\d]{0,40}\b(?:correct|right|accurate|consistent)\b(?! (?:but|except))",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(
    r"[.;!?\n]+(?=\s|$)|,? (?:but|however|although|except|other than|apart from|whereas|while)\b", re.IGNORECASE
)


def read_error(answer: str, reference: Reference, note: str) -> Found | None:
    value = parse.json_value(answer)
    if isinstance(value, dict):
        parts = [part for part in value.values() if isinstance(part, str | int) and not isinstance(part, bool)]
        answer = " ".join(map(str, parts)) or "none"
    # A clause that names a sentence and does not clear it, before one that clears the note: "no error in 1 and 2, but
    # sentence 5 is wrong".
    if ALL_RIGHT.match(answer):
        return Found(None, "")
    cleared, start = False, 0
    for end in [*(match.end() for match in CLAUSE_END.finditer(answer)), len(answer)]:
        if NO_ERROR.search(answer, start, end):
            cleared = True
        elif found := numbered(answer, start, end, note):
            return found
        start = end
    return Found(None, "") if cleared else None


def numbered(answer: str, start: int, end: int, note: str) -> Found | None:
    """The number of a sentence of the note in answer[start:end], with the rest of the answer as its correction."""
    match = NUMBERED.search(answer[start:])
    if match is None or start + match.start(1) >= end or not re.search(rf"^{match[1]}\b", note, re.MULTILINE):
        return None
    return Found(int(match[1]), match[2].strip())


def error_sums(found: Found | None, reference: Reference) -> Sums:
    """Detection and correction figures. `found` is None for no answer, which is wrong with and without an error."""
    wrong = reference["sentence"] is not None
    flagged = found is not None and (found.sentence is not None) == wrong
    sums = {"flag accuracy": (float(flagged), 1.0)}
    sums["sensitivity"] = (float(flagged and wrong), float(wrong))
    sums["specificity"] = (float(flagged and not wrong), float(not wrong))
    placed = found is not None and wrong and found.sentence == reference["sentence"]
    sums["sentence found"] = (float(placed), float(wrong))
    corrected = found.corrected if found is not None and placed else ""
    sums["correction ROUGE-1"] = (rouge(corrected, reference["corrected"])["ROUGE-1"] if wrong else 0.0, float(wrong))
    return sums


# ---------------------------------------------------------------- texts
# Only ROUGE: measures such as BERTScore need a model of their own, which would have to be downloaded.


@functools.cache
def rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)


def rouge(text: str, reference: str) -> dict[str, float]:
    """F-measures of rouge_score with stemming. ROUGE-L takes the whole text, ROUGE-Lsum line by line."""
    found = rouge_scorer().score(reference, text)
    return {
        name: float(found[key].fmeasure)
        for name, key in (
            ("ROUGE-1", "rouge1"),
            ("ROUGE-2", "rouge2"),
            ("ROUGE-L", "rougeL"),
            ("ROUGE-Lsum", "rougeLsum"),
        )
    }


def read_text(answer: str, reference: Reference, note: str) -> str | None:
    return answer.strip() or None


def text_sums(text: str, reference: Reference) -> Sums:
    figures = rouge(text, reference["gold"])
    # A reference of one word has no word pair, so ROUGE-2 would score every answer 0.
    if len(re.findall(r"[a-z0-9]+", reference["gold"].lower())) < 2:
        del figures["ROUGE-2"]
    return {name: (value, 1.0) for name, value in figures.items()}


def known_spans(reference: Reference) -> list[Span]:
    return [Span(kind, start, end) for kind, start, end, _ in reference["gold"]]


SCORERS = {
    "entities": Scorer(read_entities, entity_sums, [], known_spans),
    "pairs": Scorer(read_pairs, pair_sums, [], lambda known: [(normal(a), normal(b)) for a, b in known["gold"]]),
    "labels": Scorer(read_labels, label_sums, {}, lambda known: dict(enumerate(known["gold"], 1))),
    "form": Scorer(read_form, form_sums, "", lambda known: read_form(known["gold"][0], known, "")),
    "error": Scorer(read_error, error_sums, None, lambda known: Found(known["sentence"], known["corrected"])),
    "text": Scorer(read_text, text_sums, "", lambda known: known["gold"]),
}
