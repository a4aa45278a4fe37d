"""Temporal Information Extraction: times, durations and the order of events."""

import re

from data_prep.clinical_text.number_words import MONTHS
from data_prep.clinical_text.time_phrases import Time, find_times, without_time
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, quote, sentence_case, unique
from data_prep.teachers.offline.sections import FOLLOW_UP
from data_prep.teachers.offline.tasks.forms import Form

LONGEST_TIMELINE = 7
LONGEST_WORDS = 130
PHRASE_START = re.compile(r"^(?:of|with) ")


def timed(sentences: list[Sentence], *kinds: str) -> list[tuple[Sentence, Time]]:
    """The sentences with a time expression of these kinds, each with its first one."""
    found = []
    for sentence in sentences:
        times = [time for time in find_times(sentence.text) if time.kind in kinds]
        if times:
            found.append((sentence, times[0]))
    return found


def events(view: NoteView) -> list[tuple[Sentence, Time, str]]:
    """The sentences with a single time expression that can be removed, with the time and the remaining event."""
    found = []
    for sentence in view.sentences:
        times = find_times(sentence.text)
        event = without_time(sentence.text, times[0]) if len(times) == 1 and len(sentence.text) < 260 else ""
        if event:
            found.append((sentence, times[0], event))
    return found


def when(view: NoteView, event: str) -> str:
    match = next((found for found in events(view) if found[2] == event), None)
    if not match:
        return NOT_STATED
    sentence, time, _ = match
    answer = f"The note gives the time as “{time.text}.”"
    if time.kind == "date":
        return answer
    before = view.sentences[sentence.index - 1] if sentence.index else None
    if (
        before
        and before.section == sentence.section
        and time.text.split()[-1] in ("later", "afterwards")
        and len(before.text) < 260
    ):
        return f"{answer} The sentence before this one in the note reads: {quote(before.text)}"
    return f"{answer} It stands under {sentence.section}."


def happened(view: NoteView, expression: str) -> str:
    found = [s for s in view.sentences if any(time.text == expression for time in find_times(s.text))]
    return " ".join(sentence_case(s.text) for s in found[:2]) or NOT_STATED


def expressions(view: NoteView) -> list[str]:
    """The dates and relative times that occur once in the note, so that the question has one answer."""
    texts = [
        time.text
        for s in view.sentences
        for time in find_times(s.text)
        if time.kind != "duration" and len(s.text) < 320
    ]
    return [text for text in texts if texts.count(text) == 1]


def timeline(sentences: list[Sentence]) -> str:
    lines = [
        f"- {lower_time(time)}: {sentence_case(event_text(sentence, time))}"
        for sentence, time in timed(sentences, "date", "relative")
    ]
    text = "\n".join(lines)
    return text if 2 <= len(lines) <= LONGEST_TIMELINE and len(text.split()) <= LONGEST_WORDS else NOT_STATED


def event_text(sentence: Sentence, time: Time) -> str:
    return without_time(sentence.text, time) or sentence.text


def lower_time(time: Time) -> str:
    return time.text[0].upper() + time.text[1:]


def timeline_sections(view: NoteView) -> list[str]:
    return [name for name in view.sections if timeline(view.section(name)) != NOT_STATED]


def durations(view: NoteView) -> str:
    found = timed(list(view.sentences), "duration")
    lines = [f"- {PHRASE_START.sub('', time.text)}: {sentence_case(sentence.text)}" for sentence, time in found]
    text = "\n".join(lines)
    return text if 1 <= len(lines) <= 5 and len(text.split()) <= LONGEST_WORDS else NOT_STATED


def bare_times(view: NoteView) -> str:
    texts = unique([time.text for s in view.sentences for time in find_times(s.text)])
    return "; ".join(texts) + "." if 1 <= len(texts) <= 14 else NOT_STATED


def edge_event(view: NoteView, last: bool) -> str:
    found = timed(list(view.sentences), "date")
    if len(found) < 2:
        return NOT_STATED
    years = [(int(re.findall(r"(?:19|20)\d\d", time.text)[-1]), month_of(time.text)) for _, time in found]
    # Two dates of one year can only be ordered if both name the month.
    if len(set(years)) < 2 or any(not month and sum(year == y for y, _ in years) > 1 for year, month in years):
        return NOT_STATED
    edge = max(years) if last else min(years)
    sentence = found[years.index(edge)][0]
    return sentence_case(sentence.text)


def month_of(text: str) -> int:
    """The month of a date from 1 to 12, or 0 if it names no month in words."""
    found = (number for number, name in enumerate(MONTHS, start=1) if re.search(rf"\b{name[:3].lower()}", text.lower()))
    return next(found, 0)


def after_discharge(view: NoteView) -> str:
    found = timed(view.section(FOLLOW_UP), "date", "relative", "duration")
    return " ".join(sentence_case(s.text) for s, _ in found[:3]) or NOT_STATED


TEMPORAL_FORMS = (
    Form(
        ("When did this take place, according to the note: “{}”?",
        "Which time does the note give for the following: “{}”?"),
        lambda view: [event for _, _, event in events(view)],
        when,
    ),
    Form(
        ("What does the note record for this time: “{}”?", "What happened “{}”?"),
        expressions,
        happened,
    ),
    # No quotation marks here, because they would mark the note's own words.
    Form(
        ("What does the note record {}?",),
        lambda view: [],
        happened,
        absent=("in January 1998", "on hospital day 21", "eleven years later"),
    ),
    Form(
        ("List the dated or timed events under {} in the order of the note, each with its time.",
        "Make a timeline of {}: one line per event, the time first."),
        timeline_sections,
        lambda view, section: timeline(view.section(section)),
    ),
    Form(
        ("Which durations does the note state, and what do they refer to?",
        "How long did things last according to the note? Give each duration with its sentence."),
        lambda view: [""],
        lambda view, _: durations(view),
    ),
    Form(
        ("Extract all time expressions from the note: dates, relative times and durations.",
        "List every temporal expression in this note."),
        lambda view: [""],
        lambda view, _: bare_times(view),
    ),
    Form(
        ("Which of the dated events in the note is the earliest?",),
        lambda view: [""],
        lambda view, _: edge_event(view, last=False),
    ),
    Form(
        ("Which of the dated events in the note is the latest?",),
        lambda view: [""],
        lambda view, _: edge_event(view, last=True),
    ),
    Form(
        ("Which times does the note give for discharge and follow-up?",
        "Over what time was the patient followed up, and with what result?"),
        lambda view: [""],
        lambda view, _: after_discharge(view),
        absent=("",),
    ),
)  # fmt: skip
