"""Question forms: wordings with at most one slot, the values for the slot, and the function that finds the answer.

A question contains everything that its answer needs: `find_form` recovers the form and the slot from the text.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from data_prep.teachers.offline.note_view import NOT_STATED, NoteView

# A form with a slot is drawn this many times as often as one without, because it asks about details of this note.
SLOT_WEIGHT = 3
# Number of slot values to try per form.
MOST_SLOTS = 8


@dataclass(frozen=True)
class Form:
    wordings: tuple[str, ...]  # each with or without "{}"
    slots: Callable[[NoteView], list[str]]  # values for the slot from the note; [""] for a form without a slot
    answer: Callable[[NoteView, str], str]
    # Values that the note surely does not mention under any name, and how often to ask for them if there are any.
    absent: Callable[[NoteView], list[str]] | None = None
    absent_share: float = 0.0
    rare: bool = False  # drawn as seldom as a form without a slot
    # The answer if its sentences are to cite the note's, where the usual one would repeat what the note says twice.
    citable: Callable[[NoteView, str], str] | None = None

    def answered(self, view: NoteView, slot: str, cite: bool) -> str:
        return (self.citable if cite and self.citable else self.answer)(view, slot)

    @property
    def weight(self) -> int:
        return SLOT_WEIGHT if "{}" in self.wordings[0] and not self.rare else 1


def once(answer: Callable[[NoteView], str]) -> tuple[Callable[[NoteView], list[str]], Callable[[NoteView, str], str]]:
    """The slots and the answer of a form without a slot."""
    return (lambda view: [""]), (lambda view, _: answer(view))


def looked_up(
    table: Callable[[NoteView], dict[str, str]],
) -> tuple[Callable[[NoteView], list[str]], Callable[[NoteView, str], str]]:
    """The slots and the answer of a form whose answers a function finds all at once, by slot."""
    return (lambda view: list(table(view))), (lambda view, slot: table(view).get(slot, NOT_STATED))


def ask(forms: tuple[Form, ...], view: NoteView, seed: int) -> str:
    """A question with a sure answer, or "" if no form has one for this note. The seed draws form, slot and wording."""
    rng = random.Random(seed)
    remaining = list(forms)
    while remaining:
        (form,) = rng.choices(remaining, weights=[form.weight for form in remaining])
        slot = draw_slot(form, view, rng)
        if slot is not None:
            return rng.choice(form.wordings).replace("{}", slot)
        remaining.remove(form)
    return ""


def draw_slot(form: Form, view: NoteView, rng: random.Random) -> str | None:
    """A slot value that the note answers or, in `absent_share` of the draws, one that it does not mention at all."""
    present = form.slots(view)
    # Less often where the note has nothing to ask for: otherwise the template would give the answer away.
    wants_absent = rng.random() < (form.absent_share if present else form.absent_share / 2)
    slots = form.absent(view) if wants_absent and form.absent else present
    for slot in rng.sample(slots, min(len(slots), MOST_SLOTS)):
        if (form.answer(view, slot) == NOT_STATED) == wants_absent:
            return slot
    return None


def find_form(forms: tuple[Form, ...], question: str) -> tuple[Form, str] | None:
    """The form and the slot of a question, or None. The longest wording wins, because it is the most specific."""
    matches = [
        (len(wording), form, match[1] if match.groups() else "")
        for form in forms
        for wording in form.wordings
        if (match := wording_pattern(wording).fullmatch(question.strip()))
    ]
    if not matches:
        return None
    _, form, slot = max(matches, key=lambda match: match[0])
    return form, slot


@lru_cache(maxsize=512)
def wording_pattern(wording: str) -> re.Pattern[str]:
    return re.compile(re.escape(wording).replace(r"\{\}", "(.+)"), re.DOTALL)
