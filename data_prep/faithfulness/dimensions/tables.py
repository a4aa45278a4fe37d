"""The dimensions of a statement, read from dimensions.txt."""

import re
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"^(?P<name>[a-z][a-z ]*?)(?: \((?P<properties>[a-z, ]+)\))?$")
VALUE = re.compile(r"^  (?! )(?P<value>[a-z][a-z -]*): (?P<words>.*)$")


@dataclass(frozen=True)
class Dimension:
    """The values and properties of a dimension, as dimensions.txt says them."""

    values: dict[str, list[str]]
    binary: bool = False
    beside: bool = False
    copies: bool = False


def read_dimensions(text: str) -> dict[str, Dimension]:
    found: dict[str, Dimension] = {}
    words: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if match := NAME.match(line):
            properties = split(match["properties"] or "")
            dimension = Dimension({}, "binary" in properties, "beside" in properties, "copies" in properties)
            found[match["name"]] = dimension
        elif match := VALUE.match(line):
            value = match["value"]
            words[value] = match["words"]
            dimension.values[value] = split(words[value])
        else:
            words[value] += " " + line.strip()
            dimension.values[value] = split(words[value])
    return found


def split(words: str) -> list[str]:
    return [word for part in words.split(",") if (word := " ".join(part.split()))]


DIMENSIONS = read_dimensions(Path(__file__).with_name("dimensions.txt").read_text(encoding="utf-8"))

# Dimension -> the kind under which its statements are counted; all others are a quality of a thing.
KINDS = {
    "trend": "trend", "course": "trend", "growth": "trend", "severity": "severity", "size": "severity",
    "level": "result", "normality": "result", "result": "result", "value": "result", "presence": "result",
    "given": "treatment", "done": "treatment", "execution": "treatment", "route": "treatment", "purpose": "treatment",
    "dose size": "treatment", "order": "order", "occasion": "order", "timing": "order", "rank": "order",
    "outcome": "outcome", "success": "outcome", "airway": "outcome", "place": "outcome", "certainty": "certainty",
    "status": "certainty", "sex": "person", "relative": "person", "habit": "person",
}  # fmt: skip


def kind_of(dimension: str) -> str:
    return KINDS.get(dimension, "quality")
