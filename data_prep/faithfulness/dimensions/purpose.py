"""The purpose of a drug or procedure: "valproate for seizures", "because of pain he was given morphine".

A purpose contradicts the source if the source gives the drug for something else, and this purpose for another drug.
"""

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache

from data_prep.clinical_text.entities import find_entities
from data_prep.clinical_text.synonyms import other_names
from data_prep.clinical_text.words import stems
from data_prep.faithfulness.dimensions.comparison import Compared, Statements

GIVEN = ("drug", "procedure")
FOR = re.compile(
    r"(?:[\w\s,()-]{0,40}?\s)?(?:for|against|because of|due to|owing to"
    r"|to (?:treat|control|relieve|prevent))\s(?:\w+\s){0,3}$",
    re.IGNORECASE,
)
Names = frozenset[tuple[str, ...]]


@lru_cache(maxsize=8192)
def purposes(sentence: str) -> tuple[tuple[Names, Names, int, int], ...]:
    """(names of what was given, names of the problem, offsets of the problem)."""
    entities = find_entities(sentence)
    found = []
    for given, problem in itertools.pairwise(entities):
        if given.kind in GIVEN and problem.kind == "problem" and FOR.match(sentence[given.end : problem.start]):
            found.append((names(given.term), names(problem.term), problem.start, problem.end))
    return tuple(found)


@lru_cache(maxsize=8192)
def names(term: str) -> Names:
    own = tuple(stems(term))
    return frozenset((own, *(name for _, name in other_names(own))))


def exchanged(sentence: str, source: Statements, known: list[tuple[int, Names, Names]]) -> Iterator[Compared]:
    for given, problem, start, end in purposes(sentence):
        of_given = [(number, why) for number, what, why in known if what & given]
        if not of_given or any(why & problem for _, why in of_given):
            continue
        if any(why & problem for _, _, why in known):
            number = of_given[0][0]
            yield Compared("purpose", "", start, end, "the source says it was for something else", number)
