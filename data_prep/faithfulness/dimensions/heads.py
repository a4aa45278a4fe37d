"""The drug, test or finding that a verb is about: "warfarin" in "her warfarin was stopped" and "they stopped warfarin".

A value contradicts the source if the source says of the same thing another value alone. The words around a value tell
the same where a sentence is retold; the thing itself also where all other words differ.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

from data_prep.clinical_text.entities import find_entities
from data_prep.faithfulness.dimensions.comparison import CHANGES, UNCHANGED, Compared, Statements, named, said_of_it
from data_prep.faithfulness.dimensions.roots import root
from data_prep.faithfulness.dimensions.values import Value, values_of

# Dimensions whose values are verbs, or predicates such as "was normal".
OF_HEADS = frozenset(("given", "upkeep", "normality", "level", "trend", "course"))
KINDS = frozenset(("drug", "problem", "test", "procedure"))
BEFORE = re.compile(
    r"^(?:\s?\([^)]*\))?(?:\s(?:therapy|treatment|levels?|counts?|values?|concentrations?|was|were|is|are|has|have|had"
    r"|been|be|also|then|again|\w+ly|not|to|remained|stayed|became|continued))*\s?$",
    re.IGNORECASE,
)
BEHIND = re.compile(
    r"^(?:\s(?:in|of|on|with|to|the|a|an|his|her|their|oral|intravenous|iv|empiric\w*|serum|plasma|all|treatment|therapy"
    r"|receiving|taking))*\s$",
    re.IGNORECASE,
)
Said = dict[tuple[str, str], list[tuple[int, Value]]]  # dimension, head -> sentences with their values


@lru_cache(maxsize=8192)
def heads(sentence: str) -> tuple[tuple[str, Value], ...]:
    """Each value of a sentence whose head is found, with the root of the head."""
    entities = [entity for entity in find_entities(sentence) if entity.kind in KINDS]
    found = []
    for value in values_of(sentence) if entities else ():
        if value.dimension in OF_HEADS and (head := head_of(sentence, value, entities)):
            found.append((head, value))
    return tuple(found)


def head_of(sentence: str, value: Value, entities: list) -> str:
    before = [entity for entity in entities if entity.end <= value.start]
    if before and BEFORE.match(sentence[before[-1].end : value.start]):
        return name_of(before[-1].term)
    behind = next((entity for entity in entities if entity.start >= value.end), None)
    # The entity begins with its qualifiers: "normal liver function tests".
    if behind and (behind.start == value.end + 1 or BEHIND.match(sentence[value.end : behind.start])):
        return name_of(behind.term)
    return ""


def name_of(term: str) -> str:
    return " ".join(root(word) for word in term.split())


def said_of_heads(sentences: list[str]) -> Said:
    found: Said = defaultdict(list)
    for number, sentence in enumerate(sentences):
        for head, value in heads(sentence):
            found[value.dimension, head].append((number, value))
    return found


def clash(one: Value, other: Value) -> bool:
    """Return True if one of two values of "trend" and "course" is that nothing changed, and the other is not."""
    return (one.value == UNCHANGED) != (other.value == UNCHANGED)


def contradicted(sentence: str, known: Said, source: Statements) -> Iterator[Compared]:
    for head, value in heads(sentence):
        said = known.get((value.dimension, head), [])
        said = said + [one for one in known.get((CHANGES.get(value.dimension, ""), head), []) if clash(value, one[1])]
        if not said or value.negated or any(other.value == value.value for _, other in said):
            continue
        number, other = said[0]
        if all(not other.negated for _, other in said):
            yield Compared(*named(value), said_of_it(source.sentences[number], other), number)
