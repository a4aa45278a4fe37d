r"""The numbers of a note's sentences, and the markers by which an answer cites them.

    number_note("ALLERGIES:\nNone. Seen by Dr. Adams.")  ->  "ALLERGIES:\n[1] None. [2] Seen by Dr. Adams."
    cited("Metformin was stopped for renal failure [4, 7].")  ->  (4, 7)

A numbered note is the note itself with numbers put in, nothing else changed. The rule reads lines and words, without
regular expressions, because the chat template of an exported folder numbers the plain note that a caller sends, in
Jinja: `NUMBERING_MACRO` and `number_note` are the same rule twice, and a test compares them.

- A line is one or more sentences, even a short one without a full stop: a sentence never goes beyond its line.
- Not numbered: an empty line, a heading alone on its line ("PLAN:"), and a title of letters alone ("DISCHARGE SUMMARY").
  A line that begins with a bracket always gets a number, so that no line of the note's own begins like a number of ours.
- Within a line, a sentence ends at a word that ends in . ? or ! if the next word begins with a capital or a digit, but
  not after an abbreviation, an initial, the number of a list item, or a unit before a digit.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

CLOSERS = "\"'”’)]}*_»"
OPENERS = "\"'“‘([{*_«<>≤≥~"
STOPS = (".", "?", "!")
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
    """Return True if a line, without spaces at its ends, gets no number. `is_title`: it is the first line of several."""
    if line[:1] in ("[", "("):
        return False
    few = len(line.split()) <= LONGEST_HEADING
    return few and (
        line.rstrip("*_ ").endswith(":") or (is_title and line.isupper() and line.replace(" ", "").isalpha())
    )


def begins_sentence(word: str, last: str, before: str, last_is_first: bool) -> bool:
    """Return True if a sentence begins at `word`.

    `last` is the word before it in its line, `before` the one before that, and `last_is_first` says that `last` is the
    first word of its sentence. Empty words are those that the line does not have.
    """
    if not last:
        return True
    stop, opening = last.rstrip(CLOSERS), word.lstrip(OPENERS)[:1]
    if stop[-1:] not in STOPS or not (opening.isupper() or opening.isdigit()):
        return False
    name = stop.rstrip(".").lstrip(OPENERS)
    if stop[-1:] != ".":
        return True
    return not (
        name.lower() in NEVER_END
        or (name.isdigit() and len(name) < 3 and (last_is_first or before.endswith(":")))
        or (len(name) == 1 and name.isupper() and word.rstrip(",") not in STARTERS)
        or (opening.isdigit() and name.lower() in UNITS)
    )


# The rule of `is_heading` and `begins_sentence` in Jinja.
NUMBERING_MACRO = (
    "{%- macro numbered(note) -%}"
    "{%- set now = namespace(number=0, last='', before='', first=true) -%}"
    "{%- for line in note.split('\\n') -%}"
    "{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    "{%- set bare = line.strip() -%}"
    "{%- set title = loop.first and not loop.last and bare.isupper() and bare.replace(' ', '').isalpha() -%}"
    f"{{%- if not bare or (bare[:1] not in ('[', '(') and bare.split() | length <= {LONGEST_HEADING} "
    "and (bare.rstrip('*_ ').endswith(':') or title)) -%}{{ line }}"
    "{%- else -%}{%- set now.last = '' -%}{%- set now.before = '' -%}"
    "{%- for word in line.split(' ') -%}"
    "{%- if not loop.first -%}{{ ' ' }}{%- endif -%}"
    "{%- if word.strip() -%}"
    f"{{%- set stop = now.last.rstrip({CLOSERS!r}) -%}}{{%- set opening = word.lstrip({OPENERS!r})[:1] -%}}"
    f"{{%- set begins = not now.last or (stop[-1:] in {STOPS!r} and (opening.isupper() or opening.isdigit())) -%}}"
    "{%- if begins and now.last and stop[-1:] == '.' -%}"
    f"{{%- set name = stop.rstrip('.').lstrip({OPENERS!r}) -%}}"
    f"{{%- set begins = not (name.lower() in {NEVER_END!r}"
    " or (name.isdigit() and name | length < 3 and (now.first or now.before.endswith(':')))"
    f" or (name | length == 1 and name.isupper() and word.rstrip(',') not in {STARTERS!r})"
    f" or (opening.isdigit() and name.lower() in {UNITS!r})) -%}}"
    "{%- endif -%}"
    "{%- if begins -%}{%- set now.number = now.number + 1 -%}{{ '[' ~ now.number ~ '] ' }}{%- endif -%}"
    "{%- set now.first = begins -%}"
    "{%- set now.before = now.last -%}{%- set now.last = word -%}"
    "{%- endif -%}{{ word }}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}{%- endmacro -%}"
)


def numbered_sentences(note: str) -> list[NumberedSentence]:
    """The numbered sentences of a note, each with its characters [start, end) and the heading above it.

    numbered_sentences("PLAN:\\nRest. No surgery.")[1]  ->  NumberedSentence(2, "No surgery.", 12, 23, "PLAN:")
    """
    found: list[NumberedSentence] = []
    heading = ""
    for line, place, is_text in lines_of(note):
        if not is_text:
            heading = line.strip() or heading
            continue
        starts = starts_in(line)
        for start, after in pairwise([*starts, len(line)]):
            text = line[start:after].strip()
            begin = place + line.index(text, start)
            found.append(NumberedSentence(len(found) + 1, text, begin, begin + len(text), heading))
    return found


def number_note(note: str) -> str:
    """The note as the prompt shows it: without space around it, and with "[1] ", "[2] ", ... before its sentences."""
    lines, number = [], 0
    for line, _, is_text in lines_of(note):
        starts = starts_in(line) if is_text else []
        pieces = [line[: starts[0]] if starts else line]
        for start, after in pairwise([*starts, len(line)]):
            number += 1
            pieces.append(f"[{number}] {line[start:after]}")
        lines.append("".join(pieces))
    return "\n".join(lines)


def lines_of(note: str) -> Iterator[tuple[str, int, bool]]:
    """The lines of a note without the space around it, each with its place and with False if it gets no number."""
    place = len(note) - len(note.lstrip())
    lines = note.strip().split("\n")
    for index, line in enumerate(lines):
        bare = line.strip()
        yield line, place, bool(bare) and not is_heading(bare, index == 0 and len(lines) > 1)
        place += len(line) + 1


def starts_in(line: str) -> list[int]:
    """The places in a line at which its sentences begin."""
    starts: list[int] = []
    last, before, last_is_first, place = "", "", True, 0
    for word in line.split(" "):
        if word.strip():
            begins = begins_sentence(word, last, before, last_is_first)
            if begins:
                starts.append(place)
            last, before, last_is_first = word, last, begins
        place += len(word) + 1
    return starts


# ---------------------------------------------------------------- markers in answers

# The form in which answers cite: " [4, 7]" before the final stop, or at the end of a line that has none.
MARKER = re.compile(r" \[([1-9]\d{0,3}(?:, [1-9]\d{0,3})*)\](?=[.?!]?$)")
# Anything that looks like a citation, in whatever form.
LIKE_MARKER = re.compile(r"[ \t]*\[\s*\d{1,4}(?:\s*(?:[,;&–-]|and)\s*\d{1,4})*\s*\]")
FINAL = re.compile(r"([.?!])?([\"'”’]*)$")


def cited(answer_sentence: str) -> tuple[int, ...]:
    """The numbers that a sentence of an answer cites at its end; () if it cites none, or not in this form."""
    found = MARKER.search(answer_sentence.rstrip())
    return tuple(map(int, found[1].split(", "))) if found else ()


def has_citation(text: str) -> bool:
    """Return True if a text has anything in it that looks like a citation."""
    return LIKE_MARKER.search(text) is not None


def without_citations(answer: str) -> str:
    """The answer without its markers: what its readers, people and rules, take as its words."""
    return LIKE_MARKER.sub("", answer)


def with_citation(answer_sentence: str, numbers: Iterable[int]) -> str:
    """The sentence with a marker in its place; a stop inside a final quotation moves out of it: “Fever” [4]."""
    text = answer_sentence.rstrip()
    shown = ", ".join(map(str, sorted(numbers)))
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
