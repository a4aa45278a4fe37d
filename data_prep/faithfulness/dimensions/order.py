"""The order of events: which of two things that a sentence names came first.

orders("Fever preceded the joint pain by a week.")        -> Order(first={"fever"}, then={"joint", "pain"})
orders("First joint pain, a week later fever.")           -> Order(first={"joint", "pain"}, then={"fever"})
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from data_prep.faithfulness.dimensions.comparison import Compared, Statements
from data_prep.faithfulness.dimensions.values import words_of

# A connective between two events, and whether the event on its left is the earlier one.
BETWEEN: tuple[tuple[re.Pattern[str], bool], ...] = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), left_first)
    for words, left_first in (
        (r"preced(?:ed|es|ing)|led to|resulted in|followed by|before|prior to|until|and then|then|(?:and )?subsequently"
         r"|(?:and )?thereafter|(?:and )?afterwards?|(?:(?:an?|\w+|and a half) )?(?:hours?|days?|weeks?|months?|years?)"
         r" later|and later"
         r"|(?:was|were|came|happened|appeared|occurred)(?: \w+ed)? first[,;]?(?: and| but)?(?: then| the)?"
         r"|and next|and only then|and finally|was complicated by|preliminary to", True),
        (r"(?:which )?follow(?:ed|s)(?! by)(?:-up)?|after|following|since|was preceded by|preceded by|upon|once"
         r"|as a result of|secondary to|caused by|subsequent to", False),
    )
)  # fmt: skip
# "After X, Y", "First X, then Y": the connective opens the sentence and a comma divides the events.
OPENING = re.compile(
    r"^\W*(?P<after>after|following|once|upon|since|first|initially)\b|^\W*(?P<before>before|prior to|until)\b", re.I
)
NOT = re.compile(r"\b(?:not|never|only)\b|n['’]t\b", re.IGNORECASE)
REACH = 60  # characters to either side
LEAST = 0.5  # share of an event's words that another event must have to be the same one
GENERIC = frozenset(
    ("patient", "start", "begun", "begin", "develop", "appear", "occur", "came", "come", "got", "receiv")
)


class Order(NamedTuple):
    first: frozenset[str]
    then: frozenset[str]
    start: int
    end: int


@lru_cache(maxsize=8192)
def orders(sentence: str) -> tuple[Order, ...]:
    return tuple(find_orders(sentence))


def find_orders(sentence: str) -> Iterator[Order]:
    opening = OPENING.match(sentence)
    comma = re.search(r", |; ", sentence[opening.end() :]) if opening else None
    if opening and comma:
        middle = opening.end() + comma.start()
        one = event(sentence, opening.end(), middle)
        other = event(sentence, middle, min(len(sentence), middle + REACH))
        if one and other:
            first, then = (one, other) if opening["after"] else (other, one)
            yield Order(first, then, opening.start(), opening.end())
            return
    for pattern, left_first in BETWEEN:
        for match in pattern.finditer(sentence):
            left = event(sentence, max(0, match.start() - REACH, boundary(sentence, match.start())), match.start())
            stop = re.search(r"[;.](?:\s|$)|, (?:and|but|which|who)\b", sentence[match.end() :])
            right = event(
                sentence, match.end(), min(match.end() + REACH, match.end() + stop.start() if stop else len(sentence))
            )
            if left and right and left != right:
                # "Was not begun until": what comes behind was first.
                straight = left_first != bool(
                    match[0].lower() == "until" and NOT.search(sentence, max(0, match.start() - REACH), match.start())
                )
                yield Order(*((left, right) if straight else (right, left)), match.start(), match.end())


def boundary(sentence: str, end: int) -> int:
    found = [match.end() for match in re.finditer(r"[;.]\s|, (?:and|but|which|who)\b", sentence[:end])]
    return found[-1] if found else 0


def event(sentence: str, start: int, end: int) -> frozenset[str]:
    """The roots of the content words of a part of a sentence, without numbers."""
    return frozenset(
        name
        for word in words_of(sentence)
        if start <= word.start
        and word.end <= end
        and word.content
        and not word.text[0].isdigit()
        and word.root not in GENERIC
        for name in word.roots
    )


def reversed_orders(sentence: str, source: Statements, known: list[tuple[int, Order]]) -> Iterator[Compared]:
    """The orders of a sentence that the source has the other way round, and nowhere this way."""
    for mine in orders(sentence):
        straight, crossed, number = 0.0, 0.0, -1
        for index, theirs in known:
            same = min(share(mine.first, theirs.first, source), share(mine.then, theirs.then, source))
            turned = min(share(mine.first, theirs.then, source), share(mine.then, theirs.first, source))
            straight = max(straight, same)
            if turned > crossed:
                crossed, number = turned, index
        if crossed >= LEAST and crossed > 1.5 * straight:
            reason = f"the source has the other order: “{source.sentences[number][:160]}”"
            yield Compared("order", "", mine.start, mine.end, reason, number)
        elif straight >= LEAST:
            yield Compared("order", "", mine.start, mine.end, "", number)


def share(mine: frozenset[str], theirs: frozenset[str], source: Statements) -> float:
    total = sum(source.weight(name) for name in mine if name in source.holding)
    return sum(source.weight(name) for name in mine & theirs) / total if total else 0.0
