"""Roots of words: one for the forms and the synonyms of a word, to tell whether two texts speak of the same thing.

root("regurgitant") == root("regurgitation")        root("thrombocytes") == root("platelet")
"""

import re
from functools import lru_cache

from data_prep.clinical_text.number_words import ONE_TO_NINETEEN, ORDINALS
from data_prep.clinical_text.synonyms import SYNONYMS
from data_prep.clinical_text.words import stem

# Longest first. What is left must have four letters, or the words differ in more than their ending.
ENDINGS = re.compile(
    r"(?:iasis|osis|isation|ization|ations?|itions?|ically|ication|ements?|ments?|ances?|ences?|ities|ating|ated|ates?|ative"
    r"|ility|ional|ness|ingly|ings?|edly|ants?|ents?|ives?|ical|ions?|ally|ably|ible|able|eous|ious|ious|ous|ies|ied"
    r"|ity|ism|ist|ial|ary|ory|ure|ers?|ing|ed|es|al|ic|ly|y|e|a|s)$"
)
# "fixed" and "fixation"
SHORT_ROOTS = frozenset(("ation", "ed", "ing"))
NUMBERS = {word: str(number) for number, word in enumerate(ONE_TO_NINETEEN, start=1)} | {
    word: str(number) for word, number in ORDINALS.items()
}
ORDINAL = re.compile(r"^(\d+)(?:st|nd|rd|th)$")


def strip(word: str) -> str:
    match = ENDINGS.search(word) if len(word) > 4 else None
    if match and match.start() >= (3 if match[0] in SHORT_ROOTS else 4):
        return word[: match.start()]
    return word


def _same() -> dict[str, str]:
    """Root -> the root of the first word of its group of synonyms, for words that stand in one group alone."""
    seen: dict[str, set[str]] = {}
    for group in SYNONYMS:
        singles = [name for name in group if " " not in name]
        for name in singles:
            seen.setdefault(strip(stem(name)), set()).add(strip(stem(singles[0])))
    return {name: firsts.pop() for name, firsts in seen.items() if len(firsts) == 1}


SAME = _same()


@lru_cache(maxsize=65536)
def root(word: str) -> str:
    word = word.lower()
    if word in NUMBERS:
        return NUMBERS[word]
    if word[0].isdigit():
        match = ORDINAL.match(word)
        return match[1] if match else word
    own = strip(stem(word))
    return SAME.get(own, own)
