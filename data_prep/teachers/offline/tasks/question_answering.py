"""Question Answering: facts that a reader would look up in a note, answered in the note's own words."""

import re

from data_prep.teachers.offline.cues import EXAMINATION, INVESTIGATIONS, PAST
from data_prep.teachers.offline.lists import only_diagnosis
from data_prep.teachers.offline.note_view import (
    NOT_STATED,
    NoteView,
    per_note,
    quote,
    unique,
    word_pattern,
)
from data_prep.teachers.offline.one_patient import SEXES
from data_prep.teachers.offline.tasks.forms import Form, looked_up, once
from data_prep.teachers.offline.tasks.relation_extraction import unmentioned
from data_prep.teachers.offline.tasks.statements import affirmed, denied, specific
from data_prep.teachers.offline.tasks.summarization import as_text, ending, opening, treatments, words

VALUE = re.compile(
    r"^\s?(?:\((?![\d<>])[^()]{1,12}\) )?(?:levels? |concentrations? |counts? )?(?:(?:was|were|is|of|at|as|being|"
    r"measured|about|approximately|elevated|raised|high|low|normal|increased|decreased|only|=|:) ?)+"
    r"\(?([<>≥≤~]?\s?\d[\d.,]*(?:[/–-]\d[\d.,]*)?(?:\s?[x×]\s?10\s?\^?\s?\d+)?\s?(?:%|°\s?C|℃|(?:beats|"
    r"breaths)(?:/min| per minute|/minute)|/min|mm ?Hg|kg/m2|[A-Za-zµμ]{1,6}/[A-Za-zµμ0-9.]+[A-Za-z0-9²³]*|"
    r"/[µμ]?[A-Za-z]+[23³]?|kg|cm|mm/h|mm))(?![\w/])(?! ?(?:Hg|to|and|then|hours?\b|[-–/(]|\d))"
)
LABS = {
    "serum sodium": "sodium|electrolyt|natr|\\bNa\\b|laborator|blood test", "HbA1c": "HbA1c|glyc|A1C|"
    "h(?:a)?emoglobin", "serum ferritin": "ferrit|iron|laborator|blood test", "INR": "INR|normali[sz]ed|coagul|"
    "prothromb|clott",
    "serum lactate": "lactate|lactic|LDH|laborator|blood gas", "heart rate": "heart rate|pulse|bpm|beats|cardia|"
    "vital|HR", "C-reactive protein": "CRP|reactive|inflammat|laborator|blood test", "serum creatinine": "creatin|"
    "renal|kidney|laborator|blood test",
    "body mass index": "BMI|body mass|weigh|obes", "oxygen saturation": "saturat|SpO|SaO|oxygen|hypox|room air|vital",
}  # fmt: skip
# What a sentence on the topic says, and every word that would make "not stated" doubtful.
TOPICS: dict[str, tuple[str, str]] = {
    "allergies": (r"\ballerg(?:y|ies|ic to)\b", r"allerg|anaphyl|hypersens|atop|urticar"),
    "smoking": (r"\bsmok(?:ed|er|ing|es)\b|\btobacco\b|\bcigarettes?\b|\bpack[- ]years?\b", r"smok|tobacco|cigar|"
    r"pack|nicotin|habit|social history|toxic|risk factor"),
    "alcohol use": (r"\balcohol(?:ic|ism)?\b(?!-| fast)|\bdr(?:a|u)nk\b", r"alcohol|drink|drunk|ethanol|ethyl|beer|"
    r"wine|habit|social history|toxic|risk factor|cirrho"),
    "family history": (r"\bfamily (?:medical )?history\b|\bconsanguin\w+", r"famil|consang|mother|father|parent|"
    r"brother|sister|sibling|cousin|relative|heredit|inherit|uncle|aunt"),
    "vaccinations": (r"\b(?:vaccin\w+|immuni[sz](?:ed|ations?))\b", r"vaccin|immuni|inoculat|BCG"),
    "travel": (r"\btravel\w*\b|\btrip\b", r"travel|trip|journey|return|abroad|immigra|countr|visit|holiday|vacation|"
    r"endemic|flight"),
    "body weight": (r"\b(?:he|she|patient|his|her) (?:body )?weigh(?:ed|ing|s|t)\b[^.]{0,20}\d ?(?:kg|pounds|lb)|"
    r"\bbody weight\b(?! loss)|\bBMI\b|"
    r"\bbody mass index\b", r"weigh|\bkg|BMI|body mass|obes|overweight|cachex|nourish|malnutr|thin|pound"),
}  # fmt: skip
MOST_WORDS = 110  # in an answer that quotes a section


def on_topic(view: NoteView, topic: str) -> str:
    """All sentences on a topic, if there are one or two; NOT_STATED otherwise."""
    found = [s for s in view.prose if topic in TOPICS and re.search(TOPICS[topic][0], s.text, re.IGNORECASE)]
    return as_text(found) if len(found) <= 2 and words(found) <= 90 else NOT_STATED


def topics(view: NoteView) -> list[str]:
    return [topic for topic in TOPICS if on_topic(view, topic) != NOT_STATED]


def topics_absent(view: NoteView) -> list[str]:
    return unmentioned({topic: names for topic, (_, names) in TOPICS.items()}, view)


@per_note
def values(view: NoteView) -> dict[str, str]:
    """The tests that the note names once and with a value right after the name."""
    answers = {}
    for name in unique(
        [e.text for s in view.prose for e in s.entities if e.kind == "test" and (specific(e.text) or e.text.isupper())]
    ):
        found = view.containing(name)
        after = found[0].text[word_pattern(name).search(found[0].text).end() :] if len(found) == 1 else ""  # type: ignore[union-attr]
        match = VALUE.match(after)
        if (
            match
            and len(word_pattern(name).findall(found[0].text)) == 1
            and not re.search(r"examination|tests?$|scan|findings|count$", name)
        ):
            answers[name] = f"The note gives {name} as {match[1].strip(' .,(')}."
    return answers


def age_and_sex(view: NoteView) -> str:
    who = view.header.get("PATIENT", "")
    return f"The patient is described as: {who}." if re.search(rf"\b{SEXES}\b", who) else NOT_STATED


def complaint(view: NoteView) -> str:
    first = opening(view)
    if first:
        return as_text(first)
    stated = view.header.get("CHIEF COMPLAINT", "")
    return f"The chief complaint was: {stated}." if stated else NOT_STATED


@per_note
def yes_or_no(view: NoteView) -> dict[str, str]:
    """Problems that one sentence of the note affirms or denies beyond doubt, with "yes" or "no"."""
    no = {name: f"No. The note says: {quote(s.text)}" for name, s in denied(view) if len(s.text) < 330}
    yes = {entity.text: f"Yes. The note says: {quote(s.text)}" for entity, s in affirmed(view) if len(s.text) < 330}
    # As many of one as of the other, so that the question does not give the answer away.
    return {**dict(list(yes.items())[: len(no)]), **no} if no or len(view.text) % 4 else dict(list(yes.items())[:1])


def diagnosis(view: NoteView) -> str:
    found = only_diagnosis([s.text for s in view.prose])
    return f"The note gives the diagnosis as {found}." if found else NOT_STATED


def short_sections(view: NoteView) -> list[str]:
    """The special sections that are short enough to be quoted in full."""
    return [name for name in (PAST, EXAMINATION, INVESTIGATIONS) if 0 < words(view.section(name)) <= MOST_WORDS]


QUESTION_FORMS = (
    Form(("What does the note say about {}?", "Is anything recorded about {}? If so, what?"), topics, on_topic,
        absent=topics_absent, absent_share=0.16),
    Form(("Which value does the note give for {}?", "What is recorded for {}?"),
        *looked_up(values),
        absent=lambda view: unmentioned(LABS, view), absent_share=0.1),
    Form(("Does the note say that the patient had {}?", "Does the note report {}, yes or no?"),
        *looked_up(yes_or_no)),
    Form(("How old is the patient, and of which sex, as far as the note says?",), *once(age_and_sex)),
    Form(("Why did the patient seek care?", "What was the presenting complaint?"), *once(complaint)),
    Form(("What was the diagnosis?", "Which diagnosis does the note arrive at?"), *once(diagnosis)),
    Form(("How was the patient treated?", "Which treatment did the patient receive?"),
    *once(lambda view: as_text(treatments(view)))),
    Form(("What was the outcome?", "How was the patient at the end of the note?"),
    *once(lambda view: as_text(ending(view)))),
    Form(("What does the note state under {}?", "Which facts does the note list under {}?"), short_sections,
        lambda view, section: as_text(view.section(section)) if section in short_sections(view) else NOT_STATED),
)  # fmt: skip
