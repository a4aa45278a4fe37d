"""How the offline teacher lays out each type of note: which of the report's sentences stand under which heading."""

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
    """A heading, and the sections of a discharge summary whose sentences stand under it."""

    heading: str
    takes: tuple[str, ...]
    prose: bool = False
    only: re.Pattern[str] | None = None  # of their sentences, those that this finds


@dataclass(frozen=True)
class Layout:
    title: str
    parts: tuple[Part, ...]
    opening: str = ""
    # Without a sentence under one of these headings there is no such note to write.
    needs: tuple[str, ...] = ()


def same(*sections: str) -> tuple[Part, ...]:
    """Parts that are sections as they are."""
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
