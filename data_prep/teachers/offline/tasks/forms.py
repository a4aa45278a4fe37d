"""Question forms: a wording with at most one slot, what may fill it, and how the answer is found.

A question carries all that its answer needs: `find_form` reads the wording and the slot back from the text.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from data_prep.teachers.offline.note_view import NOT_STATED, NoteView

# About one question in fourteen asks for something that the note lacks.
ABSENT_SHARE = 0.07


@dataclass(frozen=True)
class Form:
    wordings: tuple[str, ...]  # each with or without "{}"
    slots: Callable[[NoteView], list[str]]  # what the note offers for the slot; [""] for a form without one
    answer: Callable[[NoteView, str], str]
    absent: tuple[str, ...] = ()  # what to ask for where the note lacks it; ("",) for a form without a slot


def draw(seed: int, *parts: object) -> int:
    """A large number that depends on its arguments alone."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def ask(forms: tuple[Form, ...], view: NoteView, seed: int) -> str:
    """A question that the note answers, or, now and then, one that it does not."""
    wanted_absent = draw(seed, "absent") % 1000 < ABSENT_SHARE * 1000
    # Forms with a slot come up three times as often: their questions name something of this very note.
    weights = [3 if "{}" in form.wordings[0] else 1 for form in forms]
    order = sorted(range(len(forms)), key=lambda index: (draw(seed, "form", index) % 9973) / weights[index])
    # A short list or a bare name makes a poor exercise: forms with a fuller answer go first.
    for absent, least in ((True, 0), (False, 5), (False, 1)) if wanted_absent else ((False, 5), (False, 1), (True, 0)):
        for index in order:
            form = forms[index]
            slots = form.absent if absent else form.slots(view)
            for slot in sorted(slots, key=lambda slot: draw(seed, "slot", slot))[:6]:
                answer = form.answer(view, slot)
                if (answer == NOT_STATED) == absent and len(answer.split()) >= least:
                    wording = form.wordings[draw(seed, "wording", index) % len(form.wordings)]
                    return wording.replace("{}", slot)
    return forms[0].wordings[0].replace("{}", "")


def find_form(forms: tuple[Form, ...], question: str) -> tuple[Form, str] | None:
    """The form and the slot of a question. The longest fixed part wins, so that a narrow wording beats a wide one."""
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
