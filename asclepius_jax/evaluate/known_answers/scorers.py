"""How an answer is read and scored against the known one: a row of SCORERS for each kind of reference.

Every figure is a ratio of two sums over questions, such as F1 = 2 tp / (2 tp + fp + fn), so that a question gives the
two numbers that it adds, and one interval serves them all (`statistics.estimate_of_sums`).
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from asclepius_jax.evaluate.known_answers import parse
from asclepius_jax.evaluate.known_answers.parse import Item
from asclepius_jax.evaluate.questions.datasets.references import normal

Reference = dict[str, Any]
Sums = dict[str, tuple[float, float]]  # by figure: what it adds above and below the line


class Span(NamedTuple):
    type: str
    start: int  # -1 where the words do not stand in the note
    end: int


class Scorer(NamedTuple):
    read: Callable[[str, Reference, str], Any]  # answer, reference, note; None where it cannot be read
    sums: Callable[[Any, Reference], Sums]
    empty: Any  # what was read, had nothing been answered
    known: Callable[[Reference], Any]  # what was read, had the reference itself been answered


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
    """Where the words stand: at the known mention of the same words if there is one, of the same type before others,
    else at the first place in the note. The same words of one type count once, as the question asks for."""
    known: dict[tuple[str, str], tuple[int, int]] = {}
    for kind, start, end, text in reference["gold"]:
        known.setdefault((kind, normal(text)), (start, end))
        known.setdefault(("", normal(text)), (start, end))
    spans: dict[tuple[str, str], Span] = {}
    for kind, text in items:
        words = normal(text)
        if words and (kind, words) not in spans:
            place = known.get((kind, words)) or known.get(("", words)) or find(words, note)
            spans[kind, words] = Span(kind, *place)
    return list(spans.values())


def find(words: str, note: str) -> tuple[int, int]:
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words.split())) + r"(?!\w)"
    match = re.search(pattern, note, re.IGNORECASE)
    return match.span() if match else (-1, -1)


def matches(predicted: Iterable[Span], gold: Iterable[Span], relaxed: bool = False) -> int:
    """How many predictions have a known span of their own: the same one, or, relaxed, one of their type that overlaps.

    Relaxed as `nervaluate` defines its "ent_type" within a type: predictions in order of place, each with the nearest
    boundaries that are still free. A prediction that is not in the note matches nothing.
    """
    free, count = list(dict.fromkeys(gold)), 0
    for span in sorted(dict.fromkeys(predicted), key=lambda span: (span.start, span.end)):
        if relaxed:
            overlapping = [g for g in free if g.type == span.type and span.start < g.end and g.start < span.end]
        else:
            overlapping = [g for g in free if g == span]
        if overlapping and span.start >= 0:
            nearest = min(overlapping, key=lambda g: abs(g.start - span.start) + abs(g.end - span.end))
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
    """Strict: both sides in the same words. Relaxed: on both sides one is part of the other."""
    free = list(dict.fromkeys((normal(first), normal(second)) for first, second in reference["gold"]))
    total = len(free)
    strict = len(set(free) & set(predicted))
    relaxed = 0
    # The same words first, so that no looser match takes their place.
    for pair in sorted(predicted, key=lambda pair: pair not in free):
        near = [gold for gold in free if gold == pair] or [
            gold for gold in free if all(part_of(ours, theirs) for ours, theirs in zip(pair, gold, strict=True))
        ]
        if near:
            free.remove(near[0])
            relaxed += 1
    return {
        **overlap_sums("strict", strict, len(predicted), total),
        **overlap_sums("relaxed", relaxed, len(predicted), total),
    }


def part_of(one: str, other: str) -> bool:
    """Whether the words of one stand within the other, in either direction."""
    short, long = sorted((one, other), key=len)
    return f" {short} " in f" {long} "


# ---------------------------------------------------------------- labels


def read_labels(answer: str, reference: Reference, note: str) -> dict[int, str] | None:
    """The label of each numbered thing, from 1; lines without numbers count if there are as many as things."""
    choice = re.compile(r"\b(" + "|".join(map(re.escape, reference["options"])) + r")(?:s|ped|ping)?\b", re.IGNORECASE)
    value = parse.json_value(answer)
    if isinstance(value, dict):
        answer = "\n".join(f"{key}. {label}" for key, label in value.items())
    elif isinstance(value, list):
        answer = "\n".join(str(label) for label in value)
    found: dict[int, str] = {}
    plain: list[str] = []
    for line in answer.splitlines():
        # The last: what comes before repeats the question.
        if said := choice.findall(line):
            number = re.match(r"\W*(?:pair\s+)?(\d{1,3})\b", line, re.IGNORECASE)
            if number:
                found.setdefault(int(number[1]), said[-1].casefold())
            plain.append(said[-1].casefold())
    count = len(reference["gold"])
    if not found and len(plain) == count:
        found = dict(enumerate(plain, 1))
    return {number: label for number, label in found.items() if 1 <= number <= count} or None


def label_sums(said: dict[int, str], reference: Reference) -> Sums:
    gold = dict(enumerate(reference["gold"], 1))
    right = sum(said.get(number) == label for number, label in gold.items())
    sums = {"accuracy": (float(right), float(len(gold))), "answered": (float(len(said)), float(len(gold)))}
    for option in reference["options"]:
        numbers = [number for number, label in gold.items() if label == option]
        sums[f"recall of {option}"] = (float(sum(said.get(n) == option for n in numbers)), float(len(numbers)))
    return sums


# ---------------------------------------------------------------- forms


def read_form(answer: str, reference: Reference, note: str) -> str | None:
    words = " ".join(re.findall(r"\w+", answer.casefold()))
    return words or None


def form_sums(said: str, reference: Reference) -> Sums:
    """Right where a known form stands in the answer and no form that would be right elsewhere does: listing all that
    an abbreviation can mean is no answer."""

    def stands(form: str) -> bool:
        words = " ".join(re.findall(r"\w+", form.casefold()))
        return bool(words) and f" {words} " in f" {said} "

    inside = " ".join(re.findall(r"\w+", " ".join(reference["gold"]).casefold()))
    others = [other for other in reference["others"] if " ".join(re.findall(r"\w+", other.casefold())) not in inside]
    right = any(map(stands, reference["gold"])) and not any(map(stands, others))
    return {"accuracy": (float(right), 1.0)}


# ---------------------------------------------------------------- errors


class Found(NamedTuple):
    sentence: int | None
    corrected: str


NO_ERROR = re.compile(
    r"\W*none\b|\W*(?:correct|ok)\W*$|[^.\d]{0,60}\b(?:no|not any|without)\b[^.\d]{0,40}\berrors?\b", re.IGNORECASE
)
# Not "24-year-old" and not "106/min": the number of a sentence stands alone.
NUMBERED = re.compile(
    r"(?:^|\bsentence)\W*(?:sentence\W*)?(?:number\W*|no\W+|id\W*)?(\d{1,3})(?![\w/%-])[\s:.)\-–—>|]*(.*)",
    re.IGNORECASE | re.DOTALL,
)


def read_error(answer: str, reference: Reference, note: str) -> Found | None:
    value = parse.json_value(answer)
    if isinstance(value, dict):
        parts = [part for part in value.values() if isinstance(part, str | int) and not isinstance(part, bool)]
        answer = " ".join(map(str, parts)) or "none"
    if NO_ERROR.match(answer):
        return Found(None, "")
    match = NUMBERED.search(answer)
    if match is None or not re.search(rf"^{match[1]}\b", note, re.MULTILINE):
        return None
    return Found(int(match[1]), match[2].strip())


def error_sums(found: Found | None, reference: Reference) -> Sums:
    """`found` None: nothing was answered, which is wrong either way."""
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
# ROUGE alone: measures of BERTScore's kind need a model of their own, which would have to be downloaded.


@functools.cache
def rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)


def rouge(text: str, reference: str) -> dict[str, float]:
    """F-measures of rouge_score, stemmed; L is its summary form, by lines."""
    found = rouge_scorer().score(reference, text)
    return {
        name: float(found[key].fmeasure)
        for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeLsum"))
    }


def read_text(answer: str, reference: Reference, note: str) -> str | None:
    return answer.strip() or None


def text_sums(text: str, reference: Reference) -> Sums:
    figures = rouge(text, reference["gold"])
    # A reference of one word has no pair of words: ROUGE-2 would call every answer to it wrong.
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
