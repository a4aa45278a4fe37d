"""Temporal Information Extraction: times and durations."""

import re

from data_prep.clinical_text.number_words import MONTHS
from data_prep.clinical_text.time_phrases import Time, find_times, without_time
from data_prep.teachers.offline.cues import LEANING
from data_prep.teachers.offline.lists import is_problem
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, per_note, sentence_case
from data_prep.teachers.offline.tasks.entities_and_abbreviations import exactly
from data_prep.teachers.offline.tasks.forms import Form, looked_up

# A time that can be understood by itself: a date, or one counted from an event that it names.
COUNTED = re.compile(
    r"\b(?:admission|surgery|operation|discharge|presentation|delivery|birth|transplantation|diagnosis|injury|"
    r"post-?operative|hospital day|day \d|of age|age of)\b|\bday \d",
    re.IGNORECASE,
)
HISTORY_OF = re.compile(
    r"\b((?:\d+(?:\.\d+)?|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|several|few)[- ](?:hours?|days?|"
    r"weeks?|months?|years?))['’]?s?[- ]history of ((?:[\w-]+ ){0,5}?[\w-]+)(?=[.;,(]| and\b| who\b| which\b| that\b|"
    r" with\b| associated\b| in\b| on\b| after\b| of\b| for\b| as\b)"
)
TIME_WORD = re.compile(
    r"\d{4}|\b(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|yesterday|today|tonight|night|morning|evening|"
    r"ago|later|earlier|before|after|during|since|until|till|then|when|while|"
    r"initially|subsequent\w*|previous\w*|prior|once|post-?op\w*|pre-?op\w*|intra-?op\w*|daily|weekly|monthly|"
    r"annual\w*|recent\w*|current\w*|now|"
    r"admission|discharge|birth|childhood|follow-?up|first|finally|meanwhile|afterwards?|thereafter|at age|aged|old|"
    r"past|last|next|immediate\w*|every|time|parallel|simultaneous\w*|post|diagnosis|presentation|exam\w*|arrival|upon|"
    + "|".join(MONTHS)
    + r")\b",
    re.IGNORECASE,
)


@per_note
def events(view: NoteView) -> dict[str, Time]:
    """The events whose sentence has a single time at its start or end, which can be understood by itself."""
    found: dict[str, Time] = {}
    for sentence in view.prose:
        times = find_times(sentence.text)
        if len(times) != 1 or len(sentence.text) > 220 or not understood(times[0], sentence.text):
            continue
        event = without_time(sentence.text, times[0])
        if (
            event
            and not LEANING.match(event)
            and not re.search(r"\b(?:for|in|at|of|on|to|with|and|since|until|by|from|the|an?)$", event)
            and not re.search(r", and | and (?:the|he|she|her|his|they|it|was|were|patient|then)\b", event)
            and not re.search(r"[;:]|^(?:and|but|he|she|it|they|which|was|were)\b", event)
            and event in sentence.text
        ):
            found[event] = times[0]
    return found


def understood(time: Time, text: str) -> bool:
    whole = (
        not re.search(r"\d(?:st|nd|rd|th| )*$", text[: time.start])
        and not re.match(r",? (?:and|or|to) \d", text[time.end :])
        and not re.match(r"(?:by|at|on) an?\b(?! \w+ (?:later|after))", time.text)
    )
    return whole and (time.kind == "date" or (time.kind == "relative" and bool(COUNTED.search(time.text))))


def when(view: NoteView, event: str) -> str:
    time = events(view).get(event)
    return f"The note gives the time as “{time.text}.”" if time else NOT_STATED


@per_note
def expressions(view: NoteView) -> dict[str, str]:
    """The times that can be understood by themselves and occur once in the note, each with its sentence."""
    found = {
        time.text: sentence_case(s.text)
        for s in view.prose for time in find_times(s.text)
        if understood(time, s.text) and len(s.text) < 320 and not LEANING.match(s.text)
    }  # fmt: skip
    return {text: sentence for text, sentence in found.items() if view.text.lower().count(text.lower()) == 1}


@per_note
def histories(view: NoteView) -> dict[str, str]:
    """The complaints with the length of their history, if the note names it once."""
    found: dict[str, list[str]] = {}
    for sentence in view.prose:
        for match in HISTORY_OF.finditer(sentence.text):
            # "Sudden onset" is no complaint, and "right" is half of one.
            if is_problem(match[2]):
                found.setdefault(match[2], []).append(match[1])
    return {
        complaint: f"The note gives the time as “{lengths[0]}.”"
        for complaint, lengths in found.items()
        if len(set(lengths)) == 1
    }


def cut(time: Time, text: str) -> bool:
    """Return True if a time goes on after its end: "a few days before the onset" of something."""
    return bool(re.search(r"\b(?:the|an?|of|his|her)$", time.text) or text[time.end :].startswith(" of "))


def times_in(text: str) -> str:
    """All time expressions of a sentence, or NOT_STATED if some words of time are in none of them."""
    times = find_times(text)
    rest = text
    for time in reversed(times):
        rest = rest[: time.start] + rest[time.end :]
    whole = times and not TIME_WORD.search(rest) and not any(cut(time, text) for time in times)
    return "; ".join(time.text for time in times) + "." if whole else NOT_STATED


def sentences_with_times(view: NoteView) -> list[str]:
    return [s.text for s in view.prose if len(s.text) < 300 and times_in(s.text) != NOT_STATED]


TEMPORAL_FORMS = (
    Form(("When did this take place, according to the note: “{}”?",
        "Which time does the note give for the following: “{}”?"),
        lambda view: list(events(view)), when),
    Form(("What does the note record for this time: “{}”?",),
        *looked_up(expressions)),
    Form(("How long a history of {} does the note give?", "What duration does the note state for the history of {}?"),
        *looked_up(histories)),
    Form(("Extract the time expressions from this sentence: “{}”", "Which expressions of time does this sentence "
    "hold: “{}”"),
        sentences_with_times, lambda view, text: times_in(text) if exactly(view, text) else NOT_STATED),
)  # fmt: skip
