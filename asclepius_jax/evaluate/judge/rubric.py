"""The rubric that clinicians and judges share: three questions about an answer, and the score that follows from them.

The scale is that of the paper (arXiv 2309.00237): 1 unacceptable, 2 poor, 3 satisfactory, 4 excellent. Nobody gives a
score: whoever judges says what is wrong with an answer, so that two raters who disagree disagree about something.
"""

from dataclasses import dataclass

from data_prep.contract.errors import UserError

SCORES = {1: "unacceptable", 2: "poor", 3: "satisfactory", 4: "excellent"}
MEANINGS = {
    1: "says something incorrect or irrelevant, or answers what the note cannot answer",
    2: "nothing incorrect, but leaves out something significant",
    3: "nothing incorrect, leaves out minor things only",
    4: "correct and complete; says so where the note holds no answer",
}
OMISSIONS = ("nothing", "minor", "significant")


@dataclass(frozen=True)
class Verdict:
    """The answers to the rubric's questions, about one answer to one instruction on one note."""

    incorrect: bool  # does it say anything incorrect, or irrelevant to the instruction?
    omitted: str  # does it leave out anything that the note holds and the instruction asks for? One of OMISSIONS
    answerable: bool = True  # can the instruction be answered from the note?
    recognised: bool = True  # does the answer treat it so: answered if it can be, said to be unanswerable if not?

    def __post_init__(self) -> None:
        if self.omitted not in OMISSIONS:
            raise UserError(f"omitted {self.omitted!r}: it must be one of {', '.join(OMISSIONS)}")


def score(verdict: Verdict) -> int:
    """1 to 4; see MEANINGS."""
    if verdict.incorrect:
        return 1
    if not verdict.answerable:
        # There is nothing to leave out.
        return 4 if verdict.recognised else 1
    if not verdict.recognised:
        # "The note does not say" of what it says: nothing false about the patient, and all of it left out.
        return 2
    return {"nothing": 4, "minor": 3, "significant": 2}[verdict.omitted]
