"""Division of a report into the sections of a note, in the report's own order.

No sentence is moved, so that "then" and "this" keep what they refer to. A sentence stands under a special heading
(past history, examination, investigations) only if all that it says surely belongs there; every other one stands
under a heading that is true of anything. Only one stretch of special sections is cut out of a report, before
treatment begins.
"""

import re
from dataclasses import dataclass

from data_prep.teachers.offline.cues import (
    ACTED,
    COURSE,
    CUES,
    DIAGNOSED,
    EARLIER,
    EXAMINATION,
    EXAMINED,
    HISTORY,
    IMAGING,
    INVESTIGATIONS,
    LEANING,
    LEFT,
    MOVED_ON,
    OTHER_STUDIES,
    PAST,
    PRESENTED,
    RELATIVE,
    STUDY_SAYS,
    SYMPTOMS,
    TEST_WORD,
    TOLD,
    WHOLE,
)

NEVER_SPECIAL = (ACTED, MOVED_ON, LEFT, DIAGNOSED, PRESENTED, SYMPTOMS, TOLD)
# A sentence without any cue that goes on with the findings: "The right breast was normal."
GOES_ON = re.compile(
    r"^(?:(?:There|It|This|They|These) (?:was|were|measured)(?! not| associated)|No\b|(?:The|Her|His|An?|Both|"
    r"Bilateral) (?!patient|pain|woman|man|boy|girl|child|infant|fever|fall)(?![^.]*\b(?:course|diagnos\w+|treatment|"
    r"outcome|condition|prognosis|confirmed|accompanied)\b)[\w -]{3,40}? (?:was|were|had))\b"
)


@dataclass(frozen=True)
class Section:
    heading: str
    sentences: tuple[str, ...]


def headings_named(text: str) -> set[str]:
    """The special headings whose cues a text contains."""
    return {heading for heading, pattern in CUES if pattern.search(text)}


def divide(sentences: list[str]) -> list[Section]:
    """The sections of a report in its order: anything, a stretch of special sections, and anything again."""
    special = best_stretch(sentences)
    if not special:
        return [Section(WHOLE, tuple(sentences))] if sentences else []
    start, end = special[0][1], special[-1][2]
    parts = [(HISTORY, 0, start), *special, (COURSE, end, len(sentences))]
    return [Section(heading, tuple(sentences[first:last])) for heading, first, last in parts if first < last]


def best_stretch(sentences: list[str]) -> list[tuple[str, int, int]]:
    """The longest stretch of adjacent special sections, each heading once, as (heading, first, last + 1)."""
    runs: list[tuple[str, int, int]] = []
    best: list[tuple[str, int, int]] = []
    current = ""
    for number, sentence in enumerate(sentences):
        if number and begins_treatment(sentence):
            break
        # The opening sentence tells who came and why, whatever else it names.
        current = special_heading(sentence, current) if number else ""
        if not current:
            runs = []
        elif runs and runs[-1][0] == current:
            runs[-1] = (current, runs[-1][1], number + 1)
        else:
            repeated = next((k + 1 for k, run in enumerate(runs) if run[0] == current), 0)
            runs = [*runs[repeated:], (current, number, number + 1)]
        if runs and runs[-1][2] - runs[0][1] > (best[-1][2] - best[0][1] if best else 0):
            best = list(runs)
    return best


def begins_treatment(sentence: str) -> bool:
    """Return True if a sentence tells of the course after presentation."""
    return bool((ACTED.search(sentence) or MOVED_ON.search(sentence)) and not EARLIER.search(sentence))


def special_heading(sentence: str, before: str) -> str:
    """The special heading that a sentence surely belongs to after one under the heading `before`, or ""."""
    found = headings_named(sentence)
    if len(found) > 1 or any(pattern.search(sentence) for pattern in NEVER_SPECIAL):
        return ""
    heading = next(iter(found), "")
    if heading == PAST:
        return "" if LEANING.match(sentence) and before != PAST else PAST
    if RELATIVE.search(sentence) or EARLIER.search(sentence):
        return ""
    if heading:
        begins = EXAMINED if heading == EXAMINATION else STUDY_SAYS
        sure = heading == before or (begins.search(sentence) and not LEANING.match(sentence))
        return heading if sure else ""
    goes_on = before in (EXAMINATION, INVESTIGATIONS) and GOES_ON.match(sentence) and not TEST_WORD.search(sentence)
    return before if goes_on else ""


def imaging(sections: list[Section]) -> list[str]:
    """The longest unbroken run of sentences about images; [] if there is none of at least two sentences."""
    best: list[str] = []
    run: list[str] = []
    for sentence in [s for section in sections if section.heading == INVESTIGATIONS for s in section.sentences]:
        about = IMAGING.search(sentence) and not OTHER_STUDIES.search(sentence)
        goes_on = run and re.match(r"(?:There|It|This|These|They|No)\b", sentence) and not headings_named(sentence)
        run = [*run, sentence] if about or goes_on else []
        best = max(best, run, key=len)
    return best if len(best) > 1 else []
