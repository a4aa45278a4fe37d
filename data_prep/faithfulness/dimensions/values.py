"""The values of dimensions that a sentence states, each with the words that it qualifies.

values_of("Echo showed mild mitral regurgitation.")
-> Value("severity", "mild", ..., about={"mitral": ..., "regurgitation": ...})
"""

import re
from functools import lru_cache
from typing import NamedTuple

from data_prep.clinical_text.statuses.scopes import is_denied_before
from data_prep.clinical_text.synonyms import LONG_FORMS
from data_prep.clinical_text.words import EMPTY
from data_prep.faithfulness.dimensions.roots import NUMBERS, root
from data_prep.faithfulness.dimensions.tables import DIMENSIONS

TOKEN = re.compile(r"[A-Za-zÀ-ÿα-ωµ]+(?:[-'’.][A-Za-z]+)*|\d+(?:[.,/]\d+)*|[↑↓;:,()]|\+ve|-ve|[+−-](?=[\s).,;]|$)")
DENYING = frozenset(("no", "not", "without", "never"))
NAMED_BY_SIZE = frozenset(("bowel", "intestin", "cell", "vessel", "fiber", "airway", "toe", "vein", "volum"))
WIDTH = 7  # words to either side of a value that may say what it is about
LISTING = frozenset(("including", "namely", ":", "("))
MOST_LISTED = 24  # words
HEADS = 3  # content words after an adjective that it may qualify
STOP = frozenset(("and", "or", "but", "with", "which", "that", "who", "while", "because", "due", "after", "before"))
LINKING = frozenset(("was", "were", "is", "are", "be", "been", "became", "remained", "felt", "appeared", "looked"))


class Word(NamedTuple):
    text: str  # in lower case
    root: str
    start: int
    end: int
    content: bool
    roots: tuple[str, ...]  # its own, and those of the words that an abbreviation stands for


class Value(NamedTuple):
    dimension: str
    value: str
    negated: bool
    start: int
    end: int
    first: int  # of the sentence's words
    last: int
    about: dict[str, float]  # roots of the words that it may qualify -> weight by distance


def _phrases() -> dict[str, list[tuple[tuple[str, ...], str, str]]]:
    """First word -> the phrases that begin with it, longest first, with dimension and value."""
    found: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
    for name, dimension in DIMENSIONS.items():
        for value, words in dimension.values.items():
            for phrase in words:
                parts = tuple(match[0].lower().rstrip(".") for match in TOKEN.finditer(phrase)) or (phrase,)
                found.setdefault(parts[0].removesuffix("*"), []).append((parts, name, value))
    return {first: sorted(phrases, key=lambda p: -len(p[0])) for first, phrases in found.items()}


PHRASES = _phrases()


@lru_cache(maxsize=16384)
def words_of(sentence: str) -> tuple[Word, ...]:
    return tuple(word_at(match[0], match.start(), match.end()) for match in TOKEN.finditer(sentence))


def word_at(text: str, start: int, end: int) -> Word:
    low, own, content, roots = facts_of(text)
    return Word(low, own, start, end, content, roots)


@lru_cache(maxsize=65536)
def facts_of(text: str) -> tuple[str, str, bool, tuple[str, ...]]:
    low = text.lower().rstrip(".")
    content = (low not in EMPTY or low in NUMBERS) and low[0].isalnum()
    own = root(low)
    parts = tuple(root(part) for part in low.split("-") if len(part) > 3) if "-" in low else ()
    return low, own, content, (own, *parts, *long_roots(text)) if content else (own,)


@lru_cache(maxsize=16384)
def long_roots(short: str) -> tuple[str, ...]:
    """The roots of the words that a listed abbreviation stands for, in its first two senses."""
    longs = LONG_FORMS.get(short, ())[:2]
    return tuple(dict.fromkeys(root(word) for long in longs for word in long if word not in EMPTY))


@lru_cache(maxsize=16384)
def values_of(sentence: str) -> tuple[Value, ...]:
    """The values that a sentence states, from left to right; where two of one dimension overlap, the longer."""
    words = words_of(sentence)
    found = []
    taken: dict[str, int] = {}
    for index, word in enumerate(words):
        phrases = PHRASES.get(word.text) or PHRASES.get(first_part(word.text)) or []
        if index + 1 < len(words) and words[index + 1].root in NAMED_BY_SIZE:
            phrases = []  # "small bowel"
        for parts, dimension, value in phrases:
            last = index + len(parts)
            same = tuple(w.text for w in words[index:last]) == parts or parts == (first_part(word.text),)
            if taken.get(dimension, 0) > index or not same:
                continue
            taken[dimension] = last
            start, end = word.start, words[last - 1].end
            # "No increase" denies no thing, but the change.
            negated = is_denied_before(sentence, start, end) or (index > 0 and words[index - 1].text in DENYING)
            # "Was not started until" it was.
            negated = negated and not any(word.text == "until" for word in words[last : last + WIDTH])
            if negated and DIMENSIONS[dimension].binary:
                value, negated = other(dimension, value), False
            found.append(
                Value(dimension, value, negated, start, end, index, last, about(words, index, last, dimension))
            )
    return tuple(value for value in found if not is_alternative(value, found, sentence))


OR = re.compile(r"\s(?:\w+\s)?or(?:\s(?:a|an))?\s$", re.IGNORECASE)


def is_alternative(value: Value, found: list[Value], sentence: str) -> bool:
    """Return True for one of two values joined by "or": "whether it was benign or malignant" states neither."""
    return any(
        other.dimension == value.dimension
        and other.value != value.value
        and (OR.match(sentence[value.end : other.start]) or OR.match(sentence[other.end : value.start]))
        for other in found
    )


def first_part(word: str) -> str:
    """ "moderate" of "moderate-sized"; "" for a word without such an ending."""
    first, _, rest = word.partition("-")
    return first if rest in ("sized", "size", "appearing", "looking", "sided") else ""


def other(dimension: str, value: str) -> str:
    return next(name for name in DIMENSIONS[dimension].values if name != value)


def about(words: tuple[Word, ...], first: int, last: int, dimension: str) -> dict[str, float]:
    if DIMENSIONS[dimension].beside:
        heads = qualified(words, first, last)
        if heads:
            return heads
    near: dict[str, float] = {}
    for step in (-1, 1):
        distance = 0
        index = first - 1 if step < 0 else last
        while 0 <= index < len(words) and distance < WIDTH and words[index].text != ";":
            word = words[index]
            distance += word.text not in (",", "(", ")")
            if word.content and word.text not in PHRASES:
                for name in word.roots:
                    near[name] = max(near.get(name, 0.0), 1 / (1 + distance) / len(word.roots))
            index += step
    return near


def listed_behind(words: tuple[Word, ...], last: int) -> list[Word]:
    """The things of a list behind a value: "all were normal, including amylase and lipase"."""
    opening = next((k for k in range(last, min(last + 3, len(words))) if words[k].text in LISTING), None)
    if opening is None:
        return []
    ending = next((k for k in range(opening + 1, len(words)) if words[k].text in ";)"), len(words))
    return [word for word in words[opening + 1 : ending][:MOST_LISTED] if word.content and word.text not in PHRASES]


def qualified(words: tuple[Word, ...], first: int, last: int) -> dict[str, float]:
    """The words that an adjective qualifies: those behind it, or the subject if it ends its clause."""
    heads: dict[str, float] = {}
    for word in words[last : last + HEADS + 3]:
        if not word.text[0].isalnum() or word.text in STOP or word.text in LINKING or len(heads) == HEADS:
            break
        if word.content and word.text not in PHRASES:
            heads |= dict.fromkeys(word.roots, 1 / len(word.roots))
    if heads and not (first and words[first - 1].text in LINKING):
        return heads
    for word in listed_behind(words, last):
        heads |= dict.fromkeys(word.roots, 1 / len(word.roots))
    for word in reversed(words[max(0, first - WIDTH) : first]):
        if word.text in ";," or (word.text in STOP and word.text not in ("and", "or")) or len(heads) == 2 * HEADS:
            break
        if word.content and word.text not in PHRASES:
            heads = dict.fromkeys(word.roots, 1 / len(word.roots)) | heads
    return heads
