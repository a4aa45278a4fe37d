"""The statuses, the scope of a cue, and the patterns of the cues in cues.txt."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ABSENT, SUSPECTED, SOFT, PLANNED = "absent", "suspected", "soft", "planned"
CONDITIONAL, ALLERGY = "conditional", "allergy"
SUBJECT = "of:"  # "of:father", "of:donor"


class Scope(NamedTuple):
    """The characters [start, end) of a sentence that a cue qualifies; `cue` is the offset of the cue's nearer end."""

    status: str
    start: int
    end: int
    cue: int


def read_tables(text: str) -> dict[str, dict[str, list[str]]]:
    """ "before" and "after" -> status -> its cues, with the lists that they name put in."""
    lists: dict[str, str] = {}
    tables: dict[str, dict[str, list[str]]] = {"before": {}, "after": {}}
    cues: list[str] = []
    name = ""
    for line in lines_of(text):
        if line.endswith(" ="):
            name = line.removesuffix(" =")
        elif line.startswith("[") and line.endswith((" before]", " after]")):
            status, place = line[1:-1].split()
            name, cues = "", tables[place].setdefault(status, [])
        elif name:
            more = (word.strip() for word in line.split("|"))
            lists[name] = "|".join(filter(None, (lists.get(name, ""), *more)))
        else:
            for listed, words in lists.items():
                line = line.replace(f"{{{listed}}}", f"(?:{words})")
            cues.append(line)
    return tables


def lines_of(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip() and not line.startswith("# "))


def pattern_of(table: dict[str, list[str]]) -> str:
    """One pattern for all cues, by their first letter, which halves the time, and then by their status.

    The name of a cue's group is its status and a number.
    """
    letters: dict[str, dict[str, list[str]]] = {}
    for status, cues in table.items():
        for cue in sorted(cues, key=len, reverse=True):
            letter = cue[0] if cue[0].isalpha() and cue[1:2] not in "?*{" else ""
            letters.setdefault(letter, {}).setdefault(status, []).append(cue.removeprefix(letter))
    parts: list[str] = []
    for letter, statuses in letters.items():
        groups = (f"(?P<{status}_{len(parts)}>{'|'.join(rests)})" for status, rests in statuses.items())
        parts.append(f"{letter}(?:{'|'.join(groups)})")
    return "|".join(parts)


def status_of(cue: re.Match[str]) -> str:
    return str(cue.lastgroup).split("_")[0]


TABLES = read_tables(Path(__file__).with_name("cues.txt").read_text(encoding="utf-8"))
FORWARD = re.compile(rf"(?<![\w-])(?:{pattern_of(TABLES['before'])})(?:(?<=[\s?])|(?![\w-]))", re.IGNORECASE)
BACKWARD = re.compile(rf"(?:(?<![\w])|(?=[\s(\[:=?-]))(?:{pattern_of(TABLES['after'])})(?!\w)", re.IGNORECASE)
