"""Parse the list in a model's answer, whether it is JSON, bullets, numbered lines or "type: words" lines.

    - **Drug:** aspirin, heparin        [{"type": "drug", "text": "aspirin"}]        Drugs:
    1. aspirin (drug)                   {"drugs": ["aspirin"]}                         * aspirin

A readable answer that names nothing gives an empty list. An unreadable answer gives None, which is counted separately.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MARKS = re.compile(r"^\s*(?:[-*•–·>#]+\s+|\(?\d{1,3}[.):]\s*|\[\d{1,3}\]\s*|\(?[a-z][.)]\s+)+", re.IGNORECASE)
# A citation behind a mention: "aspirin [3]".
CITATION = re.compile(r"\s*\[\s*\d{1,3}(?:\s*[-–,;]\s*\d{1,3})*\s*\]")
SEPARATOR = re.compile(r"\s*(?:->|→|=>|⇒|\t|\||\s=\s|:\s|:$|\s[-–—]\s)\s*")
IN_BRACKETS = re.compile(r"^(.+?)\s*\(([^()]+)\)$")
DENIAL = re.compile(
    r"\W*(?:none|nothing|n/?a|no\s[\w\s]+|(?:the|this) note (?:has|names|mentions|holds|contains|states) no\b.*"
    r"|there (?:is|are) no(?:ne)?\b.*|(?:the|this) note does(?: not|n't) .*)\W*",
    re.IGNORECASE,
)
# Introductions that models write before a list, which are not headings.
INTRODUCTION = re.compile(
    r"(?:sure|certainly|here|below|answer|these|(?:the|this) (?:note|following|list))\b", re.IGNORECASE
)
# A longer line without a label is a sentence about the note, not a mention.
LONGEST_MENTION = 15
MOST_BRACKETS = 200  # of an answer, of which any may open the JSON
LABEL_KEYS = ("type", "label", "category", "kind", "entity_type", "first", "source", "head", "arg1")
TEXT_KEYS = ("text", "span", "entity", "mention", "words", "value", "name", "second", "target", "tail", "arg2")


class Item(NamedTuple):
    label: str  # text before the separator, or the heading; empty if there is neither
    text: str


def items(answer: str) -> list[Item] | None:
    """Items that the answer lists, in order; None if it is empty or only prose."""
    text = re.sub(r"\*\*|__|`(?!``)", "", answer).strip()
    if not text:
        return None
    if DENIAL.fullmatch(text):
        return []
    value = json_value(answer)
    if value is not None:
        return list(from_json(value))
    return list(from_lines(text)) or None


def json_value(answer: str) -> Any:
    """Longest JSON list or object in the answer, even inside a code fence or after an introduction; None if none.

    A list of numbers, such as the citation in "aspirin [1]", is none."""
    decoder = json.JSONDecoder()
    best, longest, inside = None, 0, 0
    for place in [match.start() for match in re.finditer(r"[\[{]", answer)][:MOST_BRACKETS]:
        if place < inside:
            continue
        try:
            value, end = decoder.raw_decode(answer, place)
        except (ValueError, RecursionError):
            continue
        inside = end
        if end - place > longest and not is_citation(value):
            best, longest = value, end - place
    return best


def is_citation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, int | float) for part in value)


def from_json(value: Any, label: str = "") -> Iterator[Item]:
    if isinstance(value, str | int | float):
        if str(value).strip():
            yield Item(label, str(value).strip())
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, list) and len(part) == 2 and all(isinstance(word, str) for word in part):
                yield Item(part[0], part[1])
            else:
                yield from from_json(part, label)
    elif isinstance(value, dict):
        by_key = {str(key).casefold(): part for key, part in value.items()}
        text = next((by_key[key] for key in TEXT_KEYS if isinstance(by_key.get(key), str)), None)
        if text is not None and len(by_key) > 1:
            own = next((by_key[key] for key in LABEL_KEYS if isinstance(by_key.get(key), str)), label)
            yield Item(own, text)
            return
        for key, part in value.items():
            yield from from_json(part, str(key))


def from_lines(text: str) -> Iterator[Item]:
    heading = ""
    for line in text.splitlines():
        words = MARKS.sub("", line).strip()
        if not words or words.startswith("```"):
            heading = heading if words else ""
            continue
        label, separator, rest = split(words)
        if separator and not rest:
            heading = "" if INTRODUCTION.match(label) else label
            continue
        if len(label.split()) > LONGEST_MENTION:
            continue
        if not separator and len(words.split()) > LONGEST_MENTION and "," not in words and ";" not in words:
            continue
        parts = pieces(rest if separator else words)
        if not separator and any(len(part.split()) > LONGEST_MENTION for part in parts):
            continue
        yield from (Item(label if separator else heading, part) for part in parts)


def split(words: str) -> tuple[str, str, str]:
    """Text before the first separator, the separator, and the text after it."""
    match = SEPARATOR.search(words)
    if not match:
        return "", "", words
    return words[: match.start()].strip(" \"'"), match[0], words[match.end() :].strip()


def pieces(words: str) -> list[str]:
    """Parts of a line, split at semicolons, or otherwise at commas outside of brackets and numbers."""
    words = CITATION.sub("", words)
    found = words.split(";") if ";" in words else re.split(r",\s+(?![^()]*\))", words)
    return [part for piece in found if (part := re.sub(r"^and\s", "", piece.strip()).strip(" \"'."))]


def typed(found: list[Item], types: list[str]) -> list[Item]:
    """Items whose label contains one of the types, in singular or plural, labelled with the type's own name.

    "aspirin: drug" and "aspirin (drug)" are read as well. Without types, every item is kept without its label."""
    if not types:
        return [Item("", text) for _, text in found]
    kept = []
    for label, text in found:
        bracket = IN_BRACKETS.match(text)
        if known := type_of(label, types):
            kept.append(Item(known, text))
        elif known := type_of(text, types, whole=True):
            kept.append(Item(known, label))
        elif bracket and (known := type_of(bracket[2], types)):
            kept.append(Item(known, bracket[1]))
    return [item for item in kept if item.text]


# Words that models and clinicians use for a type.
SYNONYMS = {
    "symptom": ("sign", "symptom", "finding", "complaint"),
    "disease": ("disease", "disorder", "diagnosis", "diagnoses", "condition"),
    "drug": ("drug", "medication", "medicine"),
    "test": ("test", "diagnostic", "laboratory", "imaging", "examination"),
    "treatment": ("treatment", "therapeutic", "therapy", "therapies", "surgery", "operation"),
    "problem": ("problem", "disease", "symptom", "diagnosis", "diagnoses"),
}


def type_of(label: str, types: list[str], whole: bool = False) -> str:
    """Type that a label means, or "". whole: the label must be a single word."""
    words = re.findall(r"[a-z]+", label.casefold())
    if not words or len(words) > (1 if whole else 4):
        return ""
    for word in words:
        for name in types:
            if any(word == known or word == known + "s" for known in (name, *SYNONYMS.get(name, ()))):
                return name
    return ""
