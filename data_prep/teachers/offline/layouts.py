"""The offline teacher's layout of each type of note: the headings, and the report's sentences under each heading."""

from collections.abc import Callable
from dataclasses import dataclass

from data_prep.teachers.offline.cues import (
    ASSESSMENT,
    COURSE,
    EXAMINATION,
    IMAGING,
    LABORATORY,
    MEDICATIONS,
    OUTCOME,
    PAST,
    PATHOLOGY,
    PRESENT,
    PROSE,
    SECTIONS,
    STUDIES,
)
from data_prep.teachers.offline.lists import condition_at_discharge, diagnoses, discharge_medications
from data_prep.teachers.offline.sections import Unit, is_imaging, is_not_pathology, is_operation, is_pathology

RESULTS = (LABORATORY, IMAGING, STUDIES)


@dataclass(frozen=True)
class Part:
    """A heading, and the sections of a discharge summary whose units go under it, or a list drawn from all of them."""

    heading: str
    takes: tuple[str, ...] = ()
    prose: bool = False  # a paragraph instead of a list
    only: Callable[[Unit], bool] | None = None  # take only units that fit
    items: Callable[[list[Unit]], list[str]] | None = None  # the list, for a part that takes no sections


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
    "discharge summary": Layout(
        "DISCHARGE SUMMARY",
        (
            Part("DIAGNOSES", items=diagnoses),
            *same(*SECTIONS),
            Part("CONDITION AT DISCHARGE", items=condition_at_discharge),
            Part("DISCHARGE MEDICATIONS", items=discharge_medications),
        ),
    ),
    "history and physical": Layout(
        "HISTORY AND PHYSICAL",
        same(PRESENT, PAST, MEDICATIONS, EXAMINATION, LABORATORY, IMAGING, STUDIES, ASSESSMENT),
        needs=(EXAMINATION,),
    ),
    "progress note": Layout(
        "PROGRESS NOTE",
        (
            Part("SUBJECTIVE", (PRESENT,), prose=True),
            Part("OBJECTIVE", (EXAMINATION, *RESULTS, PATHOLOGY)),
            Part("ASSESSMENT", (ASSESSMENT,), prose=True),
            Part("TREATMENT AND COURSE", (COURSE,), prose=True),
        ),
        needs=("OBJECTIVE", "TREATMENT AND COURSE"),
    ),
    "emergency department note": Layout(
        "EMERGENCY DEPARTMENT NOTE",
        (
            *same(PRESENT, PAST, MEDICATIONS, EXAMINATION),
            Part("RESULTS", RESULTS),
            Part("IMPRESSION", (ASSESSMENT,), prose=True),
        ),
        needs=(EXAMINATION, "RESULTS"),
    ),
    "radiology report": Layout(
        "RADIOLOGY REPORT",
        (Part("FINDINGS", (IMAGING,)), Part("FURTHER IMAGING", (COURSE, OUTCOME), only=is_imaging)),
        needs=("FINDINGS",),
    ),
    "operative note": Layout(
        "OPERATIVE NOTE",
        (
            Part("INDICATION", (PRESENT, ASSESSMENT), prose=True),
            Part("PREOPERATIVE IMAGING", (IMAGING,)),
            Part("PROCEDURE", (COURSE, OUTCOME), prose=True, only=is_operation),
            Part("SPECIMENS AND PATHOLOGY", (PATHOLOGY, COURSE, OUTCOME), only=is_pathology),
        ),
        needs=("PROCEDURE",),
    ),
    "nursing note": Layout(
        "NURSING NOTE",
        (
            Part("REASON FOR ADMISSION", (PRESENT,), prose=True),
            Part("HISTORY AND ALLERGIES", (PAST,), prose=True),
            *same(MEDICATIONS),
            Part("OBSERVATIONS", (EXAMINATION,)),
            Part("CARE AND COURSE", (COURSE,), prose=True, only=is_not_pathology),
            Part("DISPOSITION AND FOLLOW-UP", (OUTCOME,), prose=True, only=is_not_pathology),
        ),
        needs=("OBSERVATIONS", "CARE AND COURSE"),
    ),
    "consultation letter": Layout(
        "CONSULTATION LETTER",
        (
            Part("HISTORY", (PRESENT, PAST, MEDICATIONS), prose=True),
            Part("FINDINGS", (EXAMINATION, *RESULTS, PATHOLOGY), prose=True),
            Part("OPINION", (ASSESSMENT,), prose=True),
            Part("TREATMENT AND COURSE", (COURSE, OUTCOME), prose=True),
        ),
        opening="Dear colleague,",
        needs=("FINDINGS", "TREATMENT AND COURSE"),
    ),
}
