"""The offline teacher's layout of each type of note that it writes: the parts of a report that such a note may hold.

Progress, operative and nursing notes are not among them: their sentences cannot be told apart by rule from the
course, results and decisions around them, so that the offline teacher declines them.
"""

from dataclasses import dataclass

from data_prep.teachers.offline.cues import EXAMINATION, HISTORY, INVESTIGATIONS, PAST, SECTIONS, WHOLE


@dataclass(frozen=True)
class Layout:
    title: str
    # Sections of a divided report; with WHOLE alone, the report is not divided.
    takes: tuple[str, ...]
    opening: str = ""
    # The note is not written unless each of these headings has a sentence.
    needs: tuple[str, ...] = ()
    # Lists of diagnoses, and of condition and medications at discharge.
    lists: bool = False


FINDINGS = "FINDINGS"
AT_ADMISSION = (HISTORY, PAST, EXAMINATION, INVESTIGATIONS)
LAYOUTS = {
    "discharge summary": Layout("DISCHARGE SUMMARY", SECTIONS, lists=True),
    "history and physical": Layout("HISTORY AND PHYSICAL", AT_ADMISSION, needs=(EXAMINATION,)),
    "emergency department note": Layout(
        "EMERGENCY DEPARTMENT NOTE", AT_ADMISSION, needs=(HISTORY, EXAMINATION, INVESTIGATIONS)
    ),
    "radiology report": Layout("RADIOLOGY REPORT", (FINDINGS,), needs=(FINDINGS,)),
    "consultation letter": Layout("CONSULTATION LETTER", (WHOLE,), "Dear colleague:"),
}
EMERGENCY = "emergency department note"
