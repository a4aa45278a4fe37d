r"""The numbers of a note's sentences, and the markers by which an answer cites them.

    number_note("ALLERGIES:\nNone. Seen by Dr. Adams.")  ->  "ALLERGIES:\n[1] None. [2] Seen by Dr. Adams."
    cited("Metformin was stopped for renal failure [4, 7].")  ->  (4, 7)

A numbered note is the note itself with numbers put in, nothing else changed. The rule reads lines and words, without
regular expressions, because the chat template of an exported folder numbers the plain note that a caller sends, in
Jinja: `NUMBERING_MACRO` and `number_note` are the same rule twice, and a test compares them.

- A line is one or more sentences, even a short one without a full stop. A sentence goes on in the next line only where
  that begins with a small letter and the line does not end in . ? ! : or ; as in text with hard line breaks.
- Not numbered: an empty line, a heading alone on its line ("PLAN:"), and a first line of capital letters alone
  ("DISCHARGE SUMMARY"). A line that begins with a bracket always gets a number, so that none begins like one of ours.
- Within a line, a sentence ends at a word that ends in . ? or ! if the next word begins with a capital or a digit, but
  not after an abbreviation, an initial, the number of a list item, or a unit before a digit.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest

CLOSERS = "\"'”’)]}*_»"
OPENERS = "\"'“‘([{*_«<>≤≥~"
STOPS = (".", "?", "!")
ENDS_OF_LINES = (*STOPS, ":", ";")
LONGEST_HEADING = 6  # words of a heading alone on its line
# Abbreviations whose full stop never ends a sentence.
NEVER_END = (
    "dr", "mr", "mrs", "ms", "prof", "st", "fig", "figs", "eq", "ref", "refs", "vs", "approx", "ca", "cf", "resp",
    "viz", "eg", "ie", "e.g", "i.e", "et", "al", "spp", "dept", "vol", "no", "nos",
)  # fmt: skip
# "10 mg. 3 times a day": a full stop after these ends a sentence unless a digit follows.
UNITS = ("mg", "g", "kg", "ml", "l", "mcg", "cm", "mm", "h", "hr", "hrs", "min", "sec", "d", "wk", "yr", "tab", "tabs")
# Words that begin a sentence after a capital letter ("vitamin D. The ..."); before others, it is an initial.
STARTERS = (
    "The", "A", "An", "He", "She", "It", "His", "Her", "They", "There", "This", "That", "These", "Those", "We", "In",
    "On", "At", "After", "Before", "During", "With", "No", "Both", "All", "By", "For", "From", "To", "As", "Following",
    "However", "Then", "Thus", "Therefore", "When", "While", "Although", "Since", "Despite", "Initially", "Patient",
    "Subsequently", "Physical", "Laboratory", "Blood", "Serum", "Chest", "Abdominal", "CT", "MRI", "Given", "Due",
)  # fmt: skip


@dataclass(frozen=True)
class NumberedSentence:
    """A sentence of a note: its number from 1, its text, its place, and the heading that it stands under."""

    number: int
    text: str
    start: int
    end: int
    heading: str = ""


def is_heading(line: str, is_title: bool) -> bool:
    """Return True if a line, without space at its ends, gets no number. `is_title`: it is the first line of several."""
    if line[:1] in ("[", "("):
        return False
    few = len(line.split()) <= LONGEST_HEADING
    return few and (
        line.rstrip("*_ ").endswith(":") or (is_title and line.isupper() and line.replace(" ", "").isalpha())
    )


def begins_sentence(word: str, last: str, before: str, last_is_first: bool) -> bool:
    """Return True if a sentence begins at a word inside a line.

    `last` is the word before it, `before` the one before that, and `last_is_first` says that `last` is the first word
    of its sentence.
    """
    stop, opening = last.rstrip(CLOSERS), word.lstrip(OPENERS)[:1]
    if stop[-1:] not in STOPS or not (opening.isupper() or opening.isdigit()):
        return False
    name = stop.rstrip(".").lstrip(OPENERS)
    return stop[-1:] != "." or not (
        name.lower() in NEVER_END
        or (name.isdigit() and len(name) < 3 and (last_is_first or before.endswith(":")))
        or (len(name) == 1 and name.isupper() and word.rstrip(",") not in STARTERS)
        or (opening.isdigit() and name.lower() in UNITS)
    )


def continues(word: str, above: str) -> bool:
    """Return True if a line that begins with `word` goes on with the line above, whose last word is `above`."""
    stop = above.rstrip(CLOSERS)
    return bool(stop) and word.lstrip(OPENERS)[:1].islower() and stop[-1:] not in ENDS_OF_LINES


# The rule of `is_heading`, `begins_sentence` and `continues` in Jinja.
NUMBERING_MACRO = (
    "{%- macro numbered(note) -%}"
    "{%- set now = namespace(number=0, last='', before='', first=true, fresh=true) -%}"
    "{%- for line in note.split('\\n') -%}"
    "{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    "{%- set bare = line.strip() -%}"
    "{%- set title = loop.first and not loop.last and bare.isupper() and bare.replace(' ', '').isalpha() -%}"
    f"{{%- if not bare or (bare[:1] not in ('[', '(') and bare.split() | length <= {LONGEST_HEADING} "
    "and (bare.rstrip('*_ ').endswith(':') or title)) -%}{{ line }}{%- set now.last = '' -%}"
    "{%- else -%}{%- set now.fresh = true -%}"
    "{%- for word in line.split(' ') -%}"
    "{%- if not loop.first -%}{{ ' ' }}{%- endif -%}"
    "{%- if word.strip() -%}"
    f"{{%- set stop = now.last.rstrip({CLOSERS!r}) -%}}{{%- set opening = word.lstrip({OPENERS!r})[:1] -%}}"
    "{%- if now.fresh -%}"
    f"{{%- set begins = not (stop and opening.islower() and stop[-1:] not in {ENDS_OF_LINES!r}) -%}}"
    "{%- else -%}"
    f"{{%- set begins = stop[-1:] in {STOPS!r} and (opening.isupper() or opening.isdigit()) -%}}"
    "{%- if begins and stop[-1:] == '.' -%}"
    f"{{%- set name = stop.rstrip('.').lstrip({OPENERS!r}) -%}}"
    f"{{%- set begins = not (name.lower() in {NEVER_END!r}"
    " or (name.isdigit() and name | length < 3 and (now.first or now.before.endswith(':')))"
    f" or (name | length == 1 and name.isupper() and word.rstrip(',') not in {STARTERS!r})"
    f" or (opening.isdigit() and name.lower() in {UNITS!r})) -%}}"
    "{%- endif -%}{%- endif -%}"
    "{%- if begins -%}{%- set now.number = now.number + 1 -%}{{ '[' ~ now.number ~ '] ' }}{%- endif -%}"
    "{%- set now.first = begins -%}{%- set now.fresh = false -%}"
    "{%- set now.before = now.last -%}{%- set now.last = word -%}"
    "{%- endif -%}{{ word }}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}{%- endmacro -%}"
)


def numbered_sentences(note: str) -> list[NumberedSentence]:
    """The numbered sentences of a note, each with its characters [start, end) and the heading above it.

    numbered_sentences("PLAN:\\nRest. No surgery.")[1]  ->  NumberedSentence(2, "No surgery.", 12, 23, "PLAN:")
    """
    starts = starts_of(note)
    found = []
    for number, ((start, limit, heading), after) in enumerate(zip_longest(starts, starts[1:]), 1):
        text = note[start : min(limit, after[0]) if after else limit]
        start += len(text) - len(text.lstrip())
        text = text.strip()
        found.append(NumberedSentence(number, text, start, start + len(text), heading))
    return found


def number_note(note: str) -> str:
    """The note as the prompt shows it: without space around it, and with "[1] ", "[2] ", ... before its sentences."""
    starts = [start for start, _, _ in starts_of(note)]
    done = len(note) - len(note.lstrip())
    pieces = [note[done : starts[0] if starts else None]]
    for number, (start, after) in enumerate(pairwise([*starts, len(note)]), 1):
        pieces.append(f"[{number}] {note[start:after]}")
    return "".join(pieces).rstrip()


def starts_of(note: str) -> list[tuple[int, int, str]]:
    """The place of each sentence, the place that it cannot go beyond, and the heading above it."""
    found: list[tuple[int, int, str]] = []
    place = len(note) - len(note.lstrip())
    heading, above = "", ""
    lines = note.strip().split("\n")
    for index, line in enumerate(lines):
        bare, end = line.strip(), place + len(line)
        if not bare or is_heading(bare, index == 0 and len(lines) > 1):
            heading, above = bare or heading, ""
        else:
            goes_on, (starts, above) = above, starts_in(line, above)
            if goes_on and found:
                found[-1] = (found[-1][0], end, found[-1][2])  # perhaps: the next start ends it otherwise
            found += [(place + start, end, heading) for start in starts]
        place = end + 1
    return found


def starts_in(line: str, above: str) -> tuple[list[int], str]:
    """The places in a line at which sentences begin, and its last word; `above` is that of the line above, or empty."""
    starts: list[int] = []
    last, before, last_is_first, place, fresh = above, "", True, 0, True
    for word in line.split(" "):
        if word.strip():
            begins = not continues(word, last) if fresh else begins_sentence(word, last, before, last_is_first)
            if begins:
                starts.append(place)
            last, before, last_is_first, fresh = word, last, begins, False
        place += len(word) + 1
    return starts, last


# ---------------------------------------------------------------- markers in answers

# The form in which answers cite: " [4, 7]" before the final stop, or at the end of a line that has none.
SEPARATOR = ", "
MARKER = re.compile(rf" \[([1-9]\d{{0,3}}(?:{SEPARATOR}[1-9]\d{{0,3}})*)\](?=[.?!]?$)")
# Anything that looks like a citation, in whatever form.
LIKE_MARKER = re.compile(r"[ \t]*\[\s*\d{1,4}(?:\s*(?:[,;&–-]|and)\s*\d{1,4})*\s*\]")
FINAL = re.compile(r"([.?!])?([\"'”’]*)$")


def cited(answer_sentence: str) -> tuple[int, ...]:
    """The numbers that a sentence of an answer cites at its end; () if it cites none, or not in this form."""
    found = MARKER.search(answer_sentence.rstrip())
    return tuple(map(int, found[1].split(SEPARATOR))) if found else ()


def places_of_citations(answer: str) -> Iterator[tuple[int, int, int]]:
    """Each number that a sentence of an answer cites, as `cited` reads it, with its characters [start, end).

    places_of_citations("Metformin was stopped [4, 7].")  ->  (4, 23, 24), (7, 26, 27)
    """
    for sentence in answer_sentences(answer):
        if found := MARKER.search(sentence.text):
            end = sentence.start + found.start(1) - len(SEPARATOR)
            for number in found[1].split(SEPARATOR):
                start = end + len(SEPARATOR)
                end = start + len(number)
                yield int(number), start, end


def has_citation(text: str) -> bool:
    """Return True if a text has anything in it that looks like a citation."""
    return LIKE_MARKER.search(text) is not None


def without_citations(answer: str) -> str:
    """The answer without its markers: what its readers, people and rules, take as its words."""
    return LIKE_MARKER.sub("", answer)


def with_citation(answer_sentence: str, numbers: Iterable[int]) -> str:
    """The sentence with a marker in its place; a stop inside a final quotation moves out of it: “Fever” [4]."""
    text = answer_sentence.rstrip()
    shown = SEPARATOR.join(map(str, sorted(numbers)))
    if not shown:
        return text
    final = FINAL.search(text)
    assert final is not None
    return f"{text[: final.start()]}{final[2]} [{shown}]{final[1] or ''}"


class Places:
    """Maps places in an answer without its markers to places in the answer with them."""

    def __init__(self, answer: str):
        self.removed = [match.span() for match in LIKE_MARKER.finditer(answer)]

    def __call__(self, place: int) -> int:
        for start, end in self.removed:
            if start > place:
                break
            place += end - start
        return place


def answer_sentences(answer: str) -> list[NumberedSentence]:
    """The sentences of an answer, with their markers, split by the same rule as those of a note."""
    return numbered_sentences(answer)
