"""Extraction of sides and directions, each with the words that it qualifies.

find_sides("swelling of the left lower leg") -> side ("across", "left") of leg; side ("along", "lower") of leg
"""

import re
from collections.abc import Iterator, Sequence

from data_prep.clinical_text.words import EMPTY, stem
from data_prep.faithfulness.atoms.kinds import Atom, Token

AXES = {
    "left": ("across", "left"), "right": ("across", "right"), "bilateral": ("across", "both"),
    "bilaterally": ("across", "both"), "lt": ("across", "left"), "rt": ("across", "right"),
    "upper": ("along", "upper"), "lower": ("along", "lower"), "superior": ("along", "upper"), "inferior": ("along",
    "lower"),
    "anterior": ("through", "front"), "posterior": ("through", "back"), "ventral": ("through", "front"),
    "dorsal": ("through", "back"), "medial": ("inward", "inner"), "lateral": ("inward", "outer"),
    "proximal": ("limb", "near"), "distal": ("limb", "far"),
}  # fmt: skip
SIDE = re.compile(
    r"\b(" + "|".join(sorted(AXES, key=len, reverse=True)) + r")(?:-sided|[- ]side|-hand)?\b(?!\s?-?\s?old)",
    re.IGNORECASE,
)
# Uses of the words that name no side: "left the ward", "was left in place", "right after", "lower than".
NO_SIDE_AFTER = re.compile(
    r"^\s(?:the|a|an|in (?:place|situ)|with|without|untreated|alone|hospital|home|against|his|her|for|to|by|after"
    r"|before|away|now|than|"
    r"limit|open|behind|as|until)\b",
    re.IGNORECASE,
)
LEFT_VERB = re.compile(r"\b(?:was|were|been|be|had|has|he|she|patient|who|they|and)\s$", re.IGNORECASE)
STOP = frozenset(
    "and or with which that was were is are but who showed revealed had than while from through after".split()
)
SKIPPED = EMPTY - STOP
REACH = 4
# Words that name no part of the body by themselves.
NO_HEAD = frozenset("side sided aspect part region area wall portion hand".split())


EYE = re.compile(r"\b(OD|OS|OU)\b(?! overdose)")
EYES = {"OD": ("across", "right"), "OS": ("across", "left"), "OU": ("across", "both")}


def find_sides(sentence: str, words: Sequence[Token]) -> Iterator[Atom]:
    for match in EYE.finditer(sentence):
        yield Atom("side", match[0], match.start(), match.end(), EYES[match[1]], ("eye",))
    for match in SIDE.finditer(sentence):
        name = match[1].lower()
        if (
            name in ("left", "right", "lower", "both", "upper")
            and match.end(1) == match.end()
            and NO_SIDE_AFTER.match(sentence[match.end() :])
        ):
            continue
        if (
            name == "left"
            and LEFT_VERB.search(sentence[: match.start()])
            and not heads_after(sentence, words, match.end())
        ):
            continue
        heads = heads_after(sentence, words, match.end())
        # "no tumor left"
        if (
            name == "left"
            and not heads
            and not re.search(r"\b(?:the|on|to|his|her|and|or|of)\s$", sentence[: match.start()])
        ):
            continue
        # "pain on the left": the side qualifies the words before it.
        heads = heads or heads_before(sentence, words, match.start())
        if heads:
            yield Atom("side", match[0], match.start(), match.end(), AXES[name], tuple(dict.fromkeys(heads)))


def heads_after(sentence: str, words: Sequence[Token], end: int) -> list[str]:
    """The content words after `end`, up to a punctuation mark or a word of STOP."""
    found: list[str] = []
    for index, (word, start, last) in enumerate(words):
        if start < end:
            continue
        # "left and right calves": both sides qualify the calves.
        paired = word in ("and", "or", "to") and index + 1 < len(words) and words[index + 1][0] in AXES and not found
        if re.search(r"[.,;:()]", sentence[end:start]) or (word in STOP and not paired) or len(found) == REACH:
            break
        end = last
        if names(word):
            found.append(word)
    return found


def heads_before(sentence: str, words: Sequence[Token], start: int) -> list[str]:
    found: list[str] = []
    for word, first, last in reversed(words):
        if last > start:
            continue
        if re.search(r"[.;:]", sentence[last:start]) or word in STOP or len(found) == REACH:
            break
        start = first
        if names(word):
            found.append(word)
    return found


def names(word: str) -> bool:
    return word not in SKIPPED and word not in AXES and stem(word) not in NO_HEAD and not word[0].isdigit()
