"""The offline teacher's layout of each type of note: the headings, and the report's sentences under each heading."""

import re
from dataclasses import dataclass

from data_prep.teachers.offline.sections import (
    ASSESSMENT,
    COURSE,
    EXAMINATION,
    FAMILY_SOCIAL,
    FINDINGS,
    FOLLOW_UP,
    IMAGING,
    LABORATORY,
    MEDICATIONS,
    OPERATED,
    PAST,
    PATHOLOGY,
    PRESENT,
    PROSE,
    SECTIONS,
    STUDIES,
)

IMAGED = dict(FINDINGS)[IMAGING]


@dataclass(frozen=True)
class Part:
    """A heading, and the sections of a discharge summary whose sentences go under it."""

    heading: str
    takes: tuple[str, ...]
    prose: bool = False  # a paragraph instead of a list
    only: re.Pattern[str] | None = None  # take only sentences that match


@dataclass(frozen=True)
class Layout:
    title: str
    parts: tuple[Part, ...]
    opening: str = ""
    # The note is not written unless each of these headings has a sentence.
    needs: tuple[str, ...] = ()


def same(*sections: str) -> tuple[Part, ...]:
    """A part for each section, with the section's name as the heading."""
    return tuple(Part(section, (section,), section in PROSE) for section in sections)


LAYOUTS = {
    "discharge summary": Layout("DISCHARGE SUMMARY", same(*SECTIONS)),
    "history and physical": Layout(
        "HISTORY AND PHYSICAL",
        same(PRESENT, PAST, MEDICATIONS, FAMILY_SOCIAL, EXAMINATION, LABORATORY, IMAGING, STUDIES, ASSESSMENT),
    ),
    "progress note": Layout(
        "PROGRESS NOTE",
        (
            Part("SUBJECTIVE", (PRESENT,), prose=True),
            Part("OBJECTIVE", (EXAMINATION, LABORATORY, IMAGING, STUDIES)),
            Part("ASSESSMENT", (ASSESSMENT, PATHOLOGY), prose=True),
            Part("TREATMENT", (MEDICATIONS, COURSE)),
        ),
        needs=("OBJECTIVE", "TREATMENT"),
    ),
    "emergency department note": Layout(
        "EMERGENCY DEPARTMENT NOTE",
        (
            *same(PRESENT, PAST, MEDICATIONS, EXAMINATION),
            Part("RESULTS", (LABORATORY, IMAGING, STUDIES)),
            Part("IMPRESSION", (ASSESSMENT,), prose=True),
        ),
        needs=(EXAMINATION, "RESULTS"),
    ),
    "radiology report": Layout(
        "RADIOLOGY REPORT",
        (
            Part("FINDINGS", (IMAGING,)),
            Part("LATER IMAGING", (COURSE, FOLLOW_UP), only=IMAGED),
        ),
        needs=("FINDINGS",),
    ),
    "operative note": Layout(
        "OPERATIVE NOTE",
        (
            Part("INDICATION", (PRESENT, ASSESSMENT), prose=True),
            Part("PREOPERATIVE IMAGING", (IMAGING,)),
            Part("PROCEDURE", (COURSE,), only=OPERATED),
            Part("SPECIMENS AND PATHOLOGY", (PATHOLOGY,)),
        ),
        needs=("PROCEDURE",),
    ),
    "nursing note": Layout(
        "NURSING NOTE",
        (
            Part("REASON FOR ADMISSION", (PRESENT,), prose=True),
            Part("HISTORY AND ALLERGIES", (PAST, FAMILY_SOCIAL)),
            *same(MEDICATIONS),
            Part("OBSERVATIONS", (EXAMINATION,)),
            Part("CARE GIVEN", (COURSE,)),
            Part("DISPOSITION", (FOLLOW_UP,), prose=True),
        ),
        needs=("OBSERVATIONS", "CARE GIVEN"),
    ),
    "consultation letter": Layout(
        "CONSULTATION LETTER",
        (
            Part("HISTORY", (PRESENT, PAST, MEDICATIONS, FAMILY_SOCIAL), prose=True),
            Part("FINDINGS", (EXAMINATION, LABORATORY, IMAGING, STUDIES, PATHOLOGY), prose=True),
            Part("OPINION", (ASSESSMENT,), prose=True),
            Part("TREATMENT AND COURSE", (COURSE, FOLLOW_UP), prose=True),
        ),
        opening="Dear colleague,",
        needs=("FINDINGS", "TREATMENT AND COURSE"),
    ),
}
