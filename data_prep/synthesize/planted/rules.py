"""Plant one error of meaning: trend, route, order, certainty, subject and the like, beside those of `mutations.py`.

A class is a tuple of rules, each a pattern and the words to put in its place. One place of one rule is changed. The
patterns accept only contexts in which the change is an error for the whole report: "rose to 9", but not "increased
intracranial pressure".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from data_prep.synthesize.planted.mutations import Planted

Words = str | tuple[str, ...] | Callable[[re.Match[str], Random], str]


@dataclass(frozen=True)
class Rule:
    pattern: re.Pattern[str]
    new: Words  # template for `Match.expand`, several to choose from, or a function

    def replacement(self, match: re.Match[str], random: Random) -> str:
        if callable(self.new):
            return self.new(match, random)
        return match.expand(self.new if isinstance(self.new, str) else random.choice(self.new))


def rule(pattern: str, new: Words, flags: int = 0) -> Rule:
    return Rule(re.compile(pattern, flags), new)


def swaps(template: str, pairs: str) -> tuple[Rule, ...]:
    """Rules in both directions: `template` holds one `{}` for the word; `pairs` is "rose:fell, climbed:sank"."""
    table: dict[str, list[str]] = {}
    for pair in pairs.split(","):
        one, other = (word.strip() for word in pair.split(":"))
        table.setdefault(one, []).append(other)
        table.setdefault(other, []).append(one)
    words = "|".join(sorted(map(re.escape, table), key=len, reverse=True))

    def other_word(match: re.Match[str], random: Random) -> str:
        start, end = match.start("word") - match.start(), match.end("word") - match.start()
        new = random.choice(table[match["word"].lower()])
        new = new[0].upper() + new[1:] if match["word"][0].isupper() else new
        return match[0][:start] + new + match[0][end:]

    return (rule(template.replace("{}", f"(?P<word>{words})"), other_word, re.IGNORECASE),)


STOP = re.compile(r"[.;!?](?=\s)|\n")


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    first = max((stop.end() for stop in STOP.finditer(text, 0, start)), default=0)
    last = STOP.search(text, end)
    return first + (len(text[first:]) - len(text[first:].lstrip())), last.start() if last else len(text)


def neighbours(text: str, start: int, end: int) -> str:
    """The characters [start, end) with one more word on either side."""
    before = re.search(r"\S+\s*\S*$", text[:start])
    after = re.match(r"\S*\s*\S+", text[end:])
    return (before[0] if before else "") + text[start:end] + (after[0] if after else "")


def planted_at(note: str, start: int, end: int, new: str) -> Planted:
    """The error covers its whole sentence: a checker may name the verb, the value or the finding as wrong."""
    text = note[:start] + new + note[end:]
    first, last = sentence_around(text, start, start + len(new))
    return Planted(text, first, last, note[start:end], neighbours(text, start, start + len(new)))


NEGATED = re.compile(
    r"\b(?:no|not|nor|neither|never|without|denie[sd]|denying|negative|absence|absent|unremarkable|rule out|presenting|"
    r"\w+n't)\b",
    re.I,
)
SETTLED = re.compile(r"\b(?:confirm|prove|definit|establish|diagnos)", re.IGNORECASE)


def is_error(match: re.Match[str], note: str) -> bool:
    """Report whether the change is one for this note, by the names of the pattern's groups.

    `stated` must not be negated in its sentence; `what`, a finding whose certainty is changed, must not be settled
    in the same sentence, or mentioned in another one, which could make it as certain as the error does.
    """
    first, last = sentence_around(note, match.start(), match.end())
    if "stated" in match.re.groupindex and NEGATED.search(note, first, match.start()):
        return False
    if "what" not in match.re.groupindex:
        return True
    rest = (note[:first] + " " + note[last:]).lower()
    mentioned = any(word[:7] in rest for word in re.findall(r"[a-z]{5,}", match["what"].lower()))
    return not mentioned and not SETTLED.search(note[first : match.start()] + note[match.end() : last])


def places_of(rules: tuple[Rule, ...], note: str, random: Random) -> Iterator[tuple[Rule, re.Match[str]]]:
    """Every place of every rule in random order, rare rules as early as frequent ones."""
    for chosen in random.sample(rules, len(rules)):
        found = list(chosen.pattern.finditer(note))
        yield from ((chosen, match) for match in random.sample(found, len(found)))


def planter(*rules: Rule) -> Callable[[str, Random], Planted | None]:
    def plant(note: str, random: Random) -> Planted | None:
        body = note.find("\n\n") + 1  # skip the title
        for chosen, match in places_of(rules, note, random):
            if match.start() < body or not is_error(match, note):
                continue
            new = chosen.replacement(match, random)
            planted = planted_at(note, match.start(), match.end(), new)
            if new and new != match[0] and planted.phrase.lower() not in note.lower():
                return planted
        return None

    return plant
