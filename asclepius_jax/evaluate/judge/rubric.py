"""Rubric shared by clinicians and judges: questions about an answer, and the score that follows from them.

The scale is that of the paper (arXiv 2309.00237): 1 unacceptable, 2 poor, 3 satisfactory, 4 excellent. Raters and
judges do not give scores. They state what is wrong with an answer, so that every disagreement is about something
specific.
"""

from dataclasses import dataclass

from data_prep.contract.errors import UserError

SCORES = {1: "unacceptable", 2: "poor", 3: "satisfactory", 4: "excellent"}
MEANINGS = {
    1: "says something incorrect or irrelevant, or answers what the note cannot answer",
    2: "nothing incorrect, but leaves out something significant",
    3: "nothing incorrect, leaves out minor things only",
    4: "correct and complete; says so if the note contains no answer",
}
OMISSIONS = ("nothing", "minor", "significant")
# Harm that a reader could do who acts on the worst incorrect statement.
HARMS = ("none", "minor", "serious")
HARM_MEANINGS = {
    "none": "nothing is incorrect, or it would change no decision",
    "minor": "could delay or complicate care, without lasting harm",
    "serious": "could lead to lasting harm or death",
}


@dataclass(frozen=True)
class Verdict:
    """Replies to the rubric's questions about one answer."""

    incorrect: bool  # the answer states something incorrect or irrelevant to the instruction
    omitted: str  # one of OMISSIONS: how much the answer omits that the note contains and the instruction asks for
    answerable: bool = True  # the note can answer the instruction
    recognised: bool = True  # the answer acts accordingly: it answers if the note can, and says so if it cannot
    harm: str = ""  # one of HARMS; empty if nobody graded it. The score does not depend on it.

    def __post_init__(self) -> None:
        if self.omitted not in OMISSIONS:
            raise UserError(f"omitted {self.omitted!r}: must be one of {', '.join(OMISSIONS)}")
        if self.harm and self.harm not in HARMS:
            raise UserError(f"harm {self.harm!r}: must be one of {', '.join(HARMS)}")


def score(verdict: Verdict) -> int:
    """Score from 1 to 4; see MEANINGS."""
    if verdict.incorrect:
        return 1
    if not verdict.answerable:
        # There is nothing to omit.
        return 4 if verdict.recognised else 1
    if not verdict.recognised:
        # The answer wrongly says that the note has no answer: nothing false about the patient, but everything omitted.
        return 2
    return {"nothing": 4, "minor": 3, "significant": 2}[verdict.omitted]
