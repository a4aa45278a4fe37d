"""Pairs of a faithful answer and the same answer with one planted error.

The classes are those with which the gate is measured: of single facts (`planted/mutations.py`) and of meaning
(`planted/meaning.py`). Of several places and words that a class offers, those are taken that change the answer's length
least, so that length does not give the wrong answer away.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import (
    Places,
    cited,
    has_citation,
    numbered_sentences,
    without_citations,
)
from data_prep.contract.records import Example, Generation, Pair, Reject, seeded_fraction
from data_prep.faithfulness.certificate import certify
from data_prep.faithfulness.places import plain
from data_prep.synthesize.planted.mutations import Planted, is_true_elsewhere
from data_prep.synthesize.planted.rules import neighbours
from data_prep.synthesize.second_reader.calibration import NAMES, PLANTERS

TRIES = 8  # draws of a place and of new words per answer and class
FEWEST_TRIES = 3  # without a place, after which there is none: some classes choose between two patterns first
AROUND = 12  # characters on either side of a change in which a pattern of NO_ERROR is looked for
# Changes that are no errors, or no language: "had no presented", "no neither", "between 20 % and 15 %".
NO_ERROR = {
    "negation added": re.compile(
        r"\bhad no (?:\w+(?:ed|en|wn)|gone|undergone|become|begun|had|felt|lost|made|come|sought|brought|found)\b|"
        r"\bno (?:neither|nor|un\w+|score|body mass|index|chief)\b"
    ),
    "value exchanged": re.compile(r"\bbetween \S+ ?\S* and\b"),
}


@dataclass(frozen=True)
class Change:
    """The words of a text from `start` on, `was`, which another text has as `new`."""

    start: int
    was: str
    new: str

    @property
    def end(self) -> int:
        return self.start + len(self.was)

    def applied(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]

    def as_json(self) -> str:
        fields = {"start": self.start, "end": self.end, "was": self.was, "new": self.new}
        return json.dumps(fields, ensure_ascii=False)


def change_between(one: str, other: str) -> Change:
    """The shortest change, in whole words, that makes one text of the other."""
    start = shared_length(one, other)
    tail = shared_length(one[start:][::-1], other[start:][::-1])
    while start > 0 and one[start - 1].isalnum() and inside_word(one, other, start):
        start -= 1
    while tail and one[len(one) - tail].isalnum() and inside_word(one[::-1], other[::-1], tail):
        tail -= 1
    return Change(start, one[start : len(one) - tail], other[start : len(other) - tail])


def shared_length(one: str, other: str) -> int:
    """The number of characters with which both texts begin."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def inside_word(one: str, other: str, place: int) -> bool:
    return one[place : place + 1].isalnum() or other[place : place + 1].isalnum()


# ---------------------------------------------------------------- planting


def classes_without(names: Sequence[str]) -> tuple[str, ...]:
    """The classes of errors but for those that begin with one of these names: "dose" names "dose x10" too.

    Raises UserError for a name that no class begins with, and if no class is left.
    """
    left_out = set()
    for name in names:
        words = " ".join(name.lower().replace("-", " ").split())
        found = {error for error in PLANTERS if f"{error} ".startswith(f"{words} ")}
        if not words or not found:
            raise UserError(f"--without {name}: no such class of errors; known: {', '.join(PLANTERS)}")
        left_out |= found
    classes = tuple(error for error in PLANTERS if error not in left_out)
    if not classes:
        raise UserError(f"--without {' '.join(names)} leaves no class of errors: name fewer")
    return classes


def corrupted(example: Example, error: str, seed: int) -> str | None:
    """The answer with an error of this class; None if it has no place for one.

    The markers of citations are not words to change: both answers have the same, at the end of the same sentences.
    """
    if not has_citation(example.answer):
        return corrupted_words(example, error, seed)
    words = replace(example, answer=without_citations(example.answer))
    text = corrupted_words(words, error, seed)
    return None if text is None else with_markers_of(example.answer, words.answer, text)


def with_markers_of(answer: str, plain: str, text: str) -> str | None:
    """The markers of an answer in a corrupted text; None if a sentence was added or left out, or if one is in between.

    `plain` is the answer without its markers, of which `text` was made.
    """
    change, place = change_between(plain, text), Places(answer)
    # Right after the character before it: new words go before a marker, not after it.
    start = place(change.start - 1) + 1 if change.start else 0
    end = place(change.end - 1) + 1 if change.was else start
    made = answer[:start] + change.new + answer[end:]
    kept = [cited(s.text) for s in numbered_sentences(made)] == [cited(s.text) for s in numbered_sentences(answer)]
    return made if kept and without_citations(made) == text else None


def corrupted_words(example: Example, error: str, seed: int) -> str | None:
    found: list[str] = []
    places = 0
    for attempt in range(TRIES):
        # The empty lines make planters, which skip the title of a note, look at the whole answer.
        planted = PLANTERS[error](f"\n\n{example.answer}", Random(f"{seed} {error} {example.id} {attempt}"))
        if planted:
            places += 1
            text = tidied(example.answer, planted.text[2:])
            if is_wrong(text, planted, example, error):
                found.append(text)
        if not places and attempt + 1 == FEWEST_TRIES:
            break
    return min(found, key=lambda text: abs(len(text) - len(example.answer)), default=None)


def is_wrong(text: str, planted: Planted, example: Example, error: str) -> bool:
    """Report whether the change makes the answer wrong, as far as its words tell.

    Neither the note nor the answer may have the new words between the same neighbors, nor the note a new name anywhere.
    """
    change = change_between(example.answer, text)
    if plain(change.was) == plain(change.new) or (error in NAMES and is_true_elsewhere(planted, example.note)):
        return False
    end = change.start + len(change.new)
    if error in NO_ERROR and NO_ERROR[error].search(text[max(0, change.start - AROUND) : end + AROUND]):
        return False
    words = plain(neighbours(text, change.start, end))
    return words not in plain(example.note) and words not in plain(example.answer)


ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)
ARTICLE_LOST = re.compile(r"an? [a-z]")
DETERMINED = re.compile(r"(?:an?|the|no|several|clear)\b", re.IGNORECASE)
SENTENCE_START = re.compile(r"(?:^|[.!?:\n]\s+|[-•*] )$")


def tidied(answer: str, text: str) -> str:
    """The corrupted text with the article and the capital letter that its new words need, and without double spaces."""
    change = change_between(answer, text)
    before, new, after = answer[: change.start], change.new, answer[change.end :]
    if before[-1:] in ("", " ", "\n") and not new and after[:1] == " ":
        after = after[1:]
    if new and ARTICLE_LOST.match(change.was) and not DETERMINED.match(new):
        new = f"a{'n' * opens_with_vowel(new)} {new}"
    following = new or after
    if SENTENCE_START.search(before) and change.was[:1].isupper() and following[:1].islower():
        new, after = (new[0].upper() + new[1:], after) if new else ("", after[0].upper() + after[1:])
    if (article := ARTICLE.search(before)) and opens_with_vowel(change.was or after) != opens_with_vowel(new or after):
        right = article[1][0] + ("n" if opens_with_vowel(new or after) else "")
        before = before[: article.start()] + right + " "
    return before + new + after


def opens_with_vowel(text: str) -> bool:
    return bool(re.match(r"(?!uni|one|eu|use|once)[aeiou]|hour|8|11\b|18\b", text, re.IGNORECASE))


# ---------------------------------------------------------------- the work on one example


@dataclass(frozen=True)
class Offer:
    """The classes of errors that an answer has places for."""

    id: str
    errors: tuple[str, ...]


@dataclass(frozen=True)
class FindPlaces:
    """The first pass: which classes an answer has places for, if it is faithful to its note."""

    classes: tuple[str, ...]
    seed: int

    async def __call__(self, example: Example, _: Any) -> list[Offer | Reject]:
        certificate = certify(example.answer, example.note)
        if certificate.unsupported:
            return [Reject.of(example, "unsupported", f"the gate finds {certificate.unsupported} in the answer")]
        errors = tuple(error for error in self.classes if corrupted(example, error, self.seed) is not None)
        if not errors:
            return [Reject.of(example, "no_place", "the answer has no place for an error of these classes")]
        return [Offer(example.id, errors)]


@dataclass(frozen=True)
class Planned:
    """An example, and the classes of errors that it is to have one pair each of."""

    id: str
    example: Example
    errors: tuple[str, ...]


@dataclass(frozen=True)
class PlantErrors:
    """The second pass: the pairs of an example."""

    seed: int

    async def __call__(self, planned: Planned, _: Any) -> list[Pair]:
        return [pair_of(planned.example, error, self.seed) for error in planned.errors]


def pair_of(example: Example, error: str, seed: int) -> Pair:
    text = corrupted(example, error, seed)
    assert text is not None, "the first pass found a place"
    wrong = certify(text, example.note)
    return Pair(
        id=f"{example.id} {error}",
        note_id=example.note_id,
        report_id=example.report_id,
        task=example.task,
        note=example.note,
        question=example.question,
        chosen=example.answer,
        rejected=text,
        error=error,
        change=change_between(example.answer, text).as_json(),
        flagged=wrong.unsupported > 0,
        source=example.source,
        licence=example.licence,
        article=example.article,
        chosen_generation=example.answer_generation,
        rejected_generation=Generation("planted", error, "", seed, "stop"),
        chosen_certificate=certify(example.answer, example.note),
        rejected_certificate=wrong,
        restricted=example.restricted,
        note_type=example.note_type,
        cites=example.cites,
    )


# ---------------------------------------------------------------- balance


def balanced(
    offers: Mapping[str, tuple[str, ...]], per_example: int, per_class: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """The classes of each example, as evenly used as the offers allow.

    Examples with the fewest classes choose first, each the class used least so far.

    Args:
        offers: id of an example -> classes that it has places for.
        per_example: most classes of an example, which differ.
        per_class: most examples of a class; 0 for no limit.
        seed: decides between examples that offer equally many classes.
    """
    used: Counter[str] = Counter()
    chosen: dict[str, tuple[str, ...]] = dict.fromkeys(offers, ())
    order = sorted(offers, key=lambda name: (len(offers[name]), seeded_fraction(seed, "pairs", name)))
    for _ in range(per_example):
        for name in order:
            free = [e for e in offers[name] if e not in chosen[name] and (not per_class or used[e] < per_class)]
            if free:
                least = min(free, key=lambda error: used[error])
                used[least] += 1
                chosen[name] = (*chosen[name], least)
    return chosen
