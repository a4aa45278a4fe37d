"""Assignment of a report's sentences to the sections of a note.

A sentence is placed by all its cues, not by its first one. It goes under a narrow heading (examination, imaging, ...)
only if its cues belong to that heading alone; a sentence with cues of several, or with a treatment, belongs to the
story: history of present illness, then hospital course, then outcome. Sentences that lean on the one before ("This",
"Then", "Two months later") form a unit with it, and stay directly after it.
"""

import re
from dataclasses import dataclass

from data_prep.clinical_text.entities import find_entities
from data_prep.teachers.offline.cues import (
    ACTED,
    AFTER_TIME,
    ASSESSMENT,
    CAME,
    CARRIED_OUT,
    COURSE,
    CUES,
    DIAGNOSED,
    EARLIER,
    EXAMINATION,
    GUIDED,
    IMAGING,
    LEANING,
    LEFT,
    MEDICATIONS,
    MOVED_ON,
    NOT_OPERATING,
    OPERATED,
    OUTCOME,
    PAST,
    PATHOLOGY,
    PRESENT,
    PRESENTED,
    PRONOUN_FIRST,
    REASONED,
    RELATIVE,
    STUDIES,
    SYMPTOMS,
    TEST_WORD,
    TESTS,
)
from data_prep.teachers.offline.one_patient import AGED


@dataclass
class Story:
    """The state of the story: the patient has presented, was examined, was treated, has left the hospital."""

    presented: bool = False
    examined: bool = False
    treated: bool = False
    left: bool = False

    def section(self, text: str) -> str:
        """The section of a sentence that belongs to the story."""
        if self.left:
            return OUTCOME
        tells_before = SYMPTOMS.search(text) or EARLIER.search(text) or PRESENTED.search(text) or not self.examined
        return PRESENT if tells_before and not self.treated else COURSE


@dataclass(frozen=True)
class Unit:
    """Sentences that stay together, and their section."""

    section: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def sections_named(text: str) -> set[str]:
    """The sections whose cues a text contains."""
    plain = GUIDED.sub("biopsy", text)
    return {section for section, pattern in CUES if pattern.search(plain)}


def units_of(sentences: list[str]) -> list[Unit]:
    """The units of a report in its order, each with its section."""
    story = Story()
    placed: list[Unit] = []
    for group in grouped(sentences):
        section = place(group, story, placed[-1].section if placed else PRESENT)
        placed.append(Unit(section, tuple(group)))
    return placed


def grouped(sentences: list[str]) -> list[list[str]]:
    """The sentences in groups of one and those that lean on it."""
    groups: list[list[str]] = []
    for sentence in sentences:
        if groups and leans(sentence, groups[-1][-1]):
            groups[-1].append(sentence)
        else:
            groups.append([sentence])
    return groups


def leans(sentence: str, before: str) -> bool:
    if LEANING.match(sentence):
        return True
    # "He" after a sentence about the brother may be the brother.
    return bool(PRONOUN_FIRST.match(sentence) and RELATIVE.search(before))


def place(group: list[str], story: Story, before: str) -> str:
    """The section of one group of sentences after a group in section `before`; `story` is updated."""
    text = " ".join(group)
    narrow = narrow_section(group, story, before)
    advance(text, narrow, story)
    return narrow or story.section(text)


def narrow_section(group: list[str], story: Story, before: str) -> str:
    """The narrow section that a group surely belongs to, or ""."""
    head, text = group[0], " ".join(group)
    found, first = sections_named(text), sections_named(head)
    introduces = bool(AGED.search(head) and (PRESENTED.search(head) or not story.presented))
    if introduces or story.left or story == Story():
        return ""
    acted = bool(ACTED.search(text))
    if PAST in first or MEDICATIONS in first:
        return background(text, first, story)
    if acted or MOVED_ON.search(text) or story.treated:
        return ""
    if found == {PATHOLOGY}:
        return PATHOLOGY
    told = SYMPTOMS.search(text) or CAME.search(text) or RELATIVE.search(text)
    if found == {EXAMINATION} and not (told or DIAGNOSED.search(text) or EARLIER.search(text)):
        return EXAMINATION
    if found and found <= set(TESTS) and not DIAGNOSED.search(text) and not told:
        return next(iter(found)) if len(found) == 1 else STUDIES
    if story.presented and not found and DIAGNOSED.search(text) and not CARRIED_OUT.search(text) and not told:
        return "" if EARLIER.search(text) else ASSESSMENT
    if found or DIAGNOSED.search(text) or EARLIER.search(text) or told or PRESENTED.search(text):
        return ""
    # Without any cue, a sentence continues the findings before it, unless it names a test that no cue knows.
    goes_on = not (CARRIED_OUT.search(text) or TEST_WORD.search(text)) if before == EXAMINATION else describes(head)
    return before if goes_on and before in (EXAMINATION, *TESTS, PATHOLOGY, PAST) else ""


def describes(sentence: str) -> bool:
    """Return True if a sentence only states what there was, so that it continues the findings before it."""
    return bool(
        re.match(
            r"^(?:There (?:was|were|is|are)|No\b|(?:The|Her|His|An?) [\w -]{3,40}? (?:was|were|had|is|are)\b)", sentence
        )
    )


def background(text: str, found: set[str], story: Story) -> str:
    """PAST or MEDICATIONS for a statement about the time before this illness, or "" for a mixture."""
    others = found - {PAST, MEDICATIONS}
    if (
        others
        or PRESENTED.search(text)
        or REASONED.search(text)
        or (story.treated and (MOVED_ON.search(text) or ACTED.search(text)))
    ):
        return ""
    if ACTED.search(text) and not (EARLIER.search(text) or RELATIVE.search(text) or find_drugs(text)):
        return ""
    return PAST if PAST in found else MEDICATIONS


def find_drugs(text: str) -> bool:
    return any(entity.kind == "drug" for entity in find_entities(text))


def advance(text: str, narrow: str, story: Story) -> None:
    """Move the story on by a group of sentences."""
    background_only = narrow in (PAST, MEDICATIONS)
    acted = ACTED.search(text) and not background_only
    if story.presented and acted and not (EARLIER.search(text) and not story.treated and not LEFT.search(text)):
        story.treated = True
    if story.treated and LEFT.search(text) and not background_only and not RELATIVE.search(text):
        story.left = True
    story.examined = story.examined or narrow in (EXAMINATION, *TESTS, PATHOLOGY)
    story.presented = story.presented or story.examined or bool(PRESENTED.search(text)) or story == Story()


def is_operation(unit: Unit) -> bool:
    """Return True if a unit only tells what was done in an operation."""
    return bool(OPERATED.search(unit.text)) and not NOT_OPERATING.search(unit.text)


def is_pathology(unit: Unit) -> bool:
    """Return True if a unit only tells what removed tissue showed."""
    return sections_named(unit.text) == {PATHOLOGY} and not LEFT.search(unit.text) and not ACTED.search(unit.text)


def is_not_pathology(unit: Unit) -> bool:
    return PATHOLOGY not in sections_named(unit.text)


def is_imaging(unit: Unit) -> bool:
    """Return True if a unit only tells what an image showed."""
    return (
        sections_named(unit.text) == {IMAGING}
        and not ACTED.search(AFTER_TIME.sub("", unit.text))
        and not LEFT.search(unit.text)
    )
