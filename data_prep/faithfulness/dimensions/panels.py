"""Panels, lists of markers or drugs under one result: "positive for CD10 but not for CD20", "resistant to isoniazid".

The value at the head of a list holds for each of its items. An item contradicts the source if the source has it under
the other value alone.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

from data_prep.clinical_text.words import EMPTY
from data_prep.faithfulness.dimensions.comparison import Compared, Statements
from data_prep.faithfulness.dimensions.roots import root

# Value -> what opens its list. Longer forms first: "did not express" holds "express".
OPENINGS = (
    ("negative", r"negativ(?:e|ely|ity) for|(?:did|does|do) not express|not express(?:ed|ing)?|non-?reactive for"
     r"|(?:lack(?:ed|s|ing)?|loss of|no|without|absent) (?:the )?expression of|not stain(?:ed|ing)? for"),
    ("positive", r"positiv(?:e|ely|ity) for|express(?:ed|es|ing)|expression of|(?:immuno)?reactiv(?:e|ity) (?:for|with)"
     r"|stain(?:ed|ing) (?:\w+ly )?(?:positive )?for"),
    ("resistant", r"resistan(?:t|ce) (?:to|against)|insensitive to"),
    ("susceptible", r"(?:susceptible|sensitive|susceptibility|sensitivity) to"),
)  # fmt: skip
OPENING = re.compile("|".join(rf"\b(?P<{value}>{words})\b" for value, words in OPENINGS), re.IGNORECASE)
OPPOSITE = {"positive": "negative", "negative": "positive", "resistant": "susceptible", "susceptible": "resistant"}
# "but not for CD20": the rest of the list has the other value.
TURN = re.compile(r"\b(?:but|and|though) (?:not|negative)\b", re.IGNORECASE)
END = re.compile(
    r"[.;](?=\s|$)|\b(?:whereas|while|although|which|indicating|suggesting|confirming|consistent|compatible|in favou?r"
    r"|but (?!not|negative)|was|were|is|are|showed|revealed)\b",
    re.IGNORECASE,
)
# Words of a list that name no item.
BESIDE = re.compile(
    r".*ly$|^(?:cell|tumor|tumour|marker|antigen|antibod|protein|drug|antibiotic|stain|and|also|only|other)"
)


# "CD10 and desmin were negative": the list before its value.
CLOSING = re.compile(
    r"\b(?:was|were|is|are|being|remained|stained|tested|came back|returned) (?:\w+ly |both |all |also )*"
    r"(?P<value>negative|positive|resistant|susceptible|sensitive)\b(?! (?:for|to|in|on|at|margin))",
    re.IGNORECASE,
)
# "S100 negative", "CD34-positive cells"
DIRECT = re.compile(
    r"\b([A-Za-zα-ω][\w’'/-]*\w)[ -](negative|positive)\b(?! (?:for|to|in|on|at|margin))", re.IGNORECASE
)
START = re.compile(
    r"[.;:]\s|\b(?:but|whereas|while|although|that|showed|revealed|was|were|is|are|with|for|of)\b", re.IGNORECASE
)
ITEM = re.compile(r"[A-Za-zα-ω][\w’'/-]*\w|[A-Z]")


@lru_cache(maxsize=8192)
def items(sentence: str) -> tuple[tuple[str, str, int, int], ...]:
    """(name of an item, value, start, end) of every list of a sentence."""
    return (*opened(sentence), *closed(sentence), *direct(sentence))


def opened(sentence: str) -> Iterator[tuple[str, str, int, int]]:
    openings = list(OPENING.finditer(sentence))
    for index, opening in enumerate(openings):
        limit = openings[index + 1].start() if index + 1 < len(openings) else len(sentence)
        end = END.search(sentence, opening.end(), limit)
        limit = end.start() if end else limit
        turn = TURN.search(sentence, opening.end(), limit)
        value = str(opening.lastgroup)
        for name, start, stop in named_within(sentence, opening.end(), limit):
            yield name, OPPOSITE[value] if turn and start > turn.start() else value, start, stop


def closed(sentence: str) -> Iterator[tuple[str, str, int, int]]:
    for closing in CLOSING.finditer(sentence):
        value = closing["value"].lower().replace("sensitive", "susceptible")
        starts = [match.end() for match in START.finditer(sentence, 0, closing.start())]
        for name, start, stop in named_within(sentence, starts[-1] if starts else 0, closing.start()):
            yield name, value, start, stop


def direct(sentence: str) -> Iterator[tuple[str, str, int, int]]:
    for match in DIRECT.finditer(sentence):
        for name, start, stop in named_within(sentence, match.start(1), match.end(1)):
            yield name, match[2].lower(), start, stop


def named_within(sentence: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """The names in a part of a sentence: "CD-10" is "cd10", other words are their roots."""
    for match in ITEM.finditer(sentence, start, end):
        word = match[0].lower()
        if word in EMPTY or BESIDE.match(word):
            continue
        name = word.replace("-", "") if any(letter.isdigit() for letter in word) else root(word)
        yield name, match.start(), match.end()


def values_by_item(sentences: list[str]) -> dict[str, dict[str, int]]:
    """Name of an item -> its values, each with the number of a sentence."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for number, sentence in enumerate(sentences):
        for name, value, _, _ in items(sentence):
            found[name].setdefault(value, number)
    return found


def misplaced(sentence: str, known: dict[str, dict[str, int]], source: Statements) -> Iterator[Compared]:
    for name, value, start, end in items(sentence):
        said = known.get(name, {})
        if value not in said and OPPOSITE[value] in said:
            number = said[OPPOSITE[value]]
            reason = f"the source says that it was {OPPOSITE[value]}: “{source.sentences[number][:160]}”"
            yield Compared("result", value, start, end, reason, number)
