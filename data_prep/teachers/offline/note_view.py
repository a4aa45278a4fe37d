"""The parsed note that the tasks work on: its sections, sentences, abbreviations and the two header lines."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from data_prep.clinical_text.abbreviations import find_pairs, find_undefined
from data_prep.clinical_text.entities import Entity, find_entities
from data_prep.clinical_text.sentences import normalise, split_sentences

NOT_STATED = "This is not stated in the note."
HEADING = re.compile(r"^[#*\s]*([A-Z][A-Z ,/&()-]{2,60}?)[*\s]*:[*\s]*(.*)$")
TITLE = re.compile(r"^[#*\s]*[A-Z][A-Z ,/&()-]{3,60}[*\s]*$")
REPEATING = ("DIAGNOSES", "CONDITION AT DISCHARGE", "DISCHARGE MEDICATIONS")
HEADER_LINES = ("PATIENT", "CHIEF COMPLAINT")


# For functions of a note that several forms call: what they find is kept for the last few notes.
per_note = lru_cache(maxsize=64)


@dataclass(frozen=True)
class Sentence:
    text: str
    section: str
    index: int

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        return find_entities(self.text)


@dataclass(frozen=True, eq=False)
class NoteView:
    """A parsed note. Views are compared by identity, so that what is found in one can be cached."""

    text: str
    sentences: tuple[Sentence, ...]
    header: dict[str, str]
    abbreviations: dict[str, str]
    undefined: tuple[str, ...]

    @property
    def sections(self) -> list[str]:
        return list(dict.fromkeys(sentence.section for sentence in self.sentences))

    @cached_property
    def prose(self) -> list[Sentence]:
        """The sentences, without the lists that repeat their facts."""
        return [sentence for sentence in self.sentences if sentence.section not in REPEATING]

    def section(self, *names: str) -> list[Sentence]:
        return [sentence for sentence in self.sentences if sentence.section in names]

    def containing(self, phrase: str) -> list[Sentence]:
        """The sentences that contain the phrase as whole words, in any case."""
        pattern = word_pattern(phrase)
        return [sentence for sentence in self.sentences if pattern.search(sentence.text)]


@lru_cache(maxsize=4096)
def word_pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", re.IGNORECASE)


@lru_cache(maxsize=64)
def read_note(note: str) -> NoteView:
    """Parse a note with headings in capitals; a note without headings is one section, NOTE."""
    section, header = "NOTE", {}
    units: list[tuple[str, str]] = []
    for raw in note.split("\n"):
        line = normalise(raw)
        heading = HEADING.match(line)
        if heading and heading[1] in HEADER_LINES and heading[2]:
            header[heading[1]] = heading[2]
            continue
        if heading:
            section, line = heading[1].strip(), heading[2]
        if not line or TITLE.match(line):
            continue
        # An indented bullet is an item of the list that the line above begins.
        if raw.startswith("  - ") and units:
            head = units[-1][1].rstrip(".")
            joint = " " if head.endswith(":") else "; "
            units[-1] = (units[-1][0], head + joint + line.removeprefix("- ") + ".")
        else:
            units.append((section, line.removeprefix("- ").removeprefix("* ")))
    sentences = [(name, text) for name, unit in units for text in split_sentences(unit)]
    pairs = find_pairs(note)
    return NoteView(
        note,
        tuple(Sentence(text, name, index) for index, (name, text) in enumerate(sentences)),
        header,
        pairs,
        tuple(find_undefined(" ".join(text for _, text in sentences), pairs)),
    )


def sentence_case(text: str) -> str:
    """The text with a capital at the start and a full stop at the end."""
    text = text.strip().rstrip(",;:")
    return text if not text else text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def quote(sentence: str) -> str:
    return f"“{sentence.rstrip('.')}.”"


def unique(texts: list[str]) -> list[str]:
    """The texts without later duplicates, ignoring case."""
    return list({text.lower(): text for text in reversed(texts)}.values())[::-1]
