"""Question forms: wordings with at most one slot, the values for the slot, and the function that finds the answer.

A question contains everything that its answer needs: `find_form` recovers the form and the slot from the text.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from data_prep.teachers.offline.note_view import NOT_STATED, NoteView

# Share of questions that ask for something that the note lacks: about one in fourteen.
ABSENT_SHARE = 0.07
# Number of slot values to try per form.
MOST_SLOTS = 6


@dataclass(frozen=True)
class Form:
    wordings: tuple[str, ...]  # each with or without "{}"
    slots: Callable[[NoteView], list[str]]  # values for the slot from the note; [""] for a form without a slot
    answer: Callable[[NoteView, str], str]
    absent: tuple[str, ...] = ()  # values to ask for if the note lacks them; ("",) for a form without a slot


@dataclass(frozen=True)
class Pass:
    """One pass over the forms: questions whose answer the note lacks, or has in at least `fewest_words` words."""

    absent: bool
    fewest_words: int


ABSENT = Pass(absent=True, fewest_words=0)
# A short list or a bare name makes a poor exercise, so questions with fuller answers are tried first.
ANSWERED = (Pass(absent=False, fewest_words=5), Pass(absent=False, fewest_words=1))


def draw(seed: int, *parts: object) -> int:
    """A pseudorandom number below 2**48 that depends only on the arguments."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def ask(forms: tuple[Form, ...], view: NoteView, seed: int) -> str:
    """A question that the note answers or, with probability ABSENT_SHARE, one that it does not answer."""
    wants_absent = draw(seed, "absent") % 1000 < ABSENT_SHARE * 1000
    order = drawn_order(forms, seed)
    for current in (ABSENT, *ANSWERED) if wants_absent else (*ANSWERED, ABSENT):
        for index in order:
            form = forms[index]
            slot = find_slot(form, view, current, seed)
            if slot is not None:
                wording = form.wordings[draw(seed, "wording", index) % len(form.wordings)]
                return wording.replace("{}", slot)
    return forms[0].wordings[0].replace("{}", "")


def drawn_order(forms: tuple[Form, ...], seed: int) -> list[int]:
    """The indices of the forms in random order.

    A form with a slot precedes a given form without one with probability 5/6, because its questions are about details
    of this note: the sort key is a uniform number divided by 3 or 1.
    """
    weights = [3 if "{}" in form.wordings[0] else 1 for form in forms]
    return sorted(range(len(forms)), key=lambda index: (draw(seed, "form", index) % 9973) / weights[index])


def find_slot(form: Form, view: NoteView, current: Pass, seed: int) -> str | None:
    """The first of a few randomly drawn slot values whose answer suits this pass; None if there is none."""
    slots = form.absent if current.absent else form.slots(view)
    for slot in sorted(slots, key=lambda slot: draw(seed, "slot", slot))[:MOST_SLOTS]:
        answer = form.answer(view, slot)
        if (answer == NOT_STATED) == current.absent and len(answer.split()) >= current.fewest_words:
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
