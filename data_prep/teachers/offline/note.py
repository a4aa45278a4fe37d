"""Conversion of a case report to a note: the report's own sentences under the headings of a chart.

DISCHARGE SUMMARY

PATIENT: 36-year-old female

CHIEF COMPLAINT: aggravating right upper abdominal pain for 2 hours

HISTORY OF PRESENT ILLNESS:
36-year-old female presented at the emergency department with aggravating right upper abdominal pain for 2 hours.
"""

import re
from functools import lru_cache

from data_prep.clinical_text.number_words import SPELLED
from data_prep.teachers.offline.cues import (
    CHIEF_COMPLAINT,
    EARLIER,
    EXAMINATION,
    HISTORY,
    INVESTIGATIONS,
    RELATIVE,
    WHOLE,
)
from data_prep.teachers.offline.layouts import EMERGENCY, FINDINGS, LAYOUTS, Layout
from data_prep.teachers.offline.lists import all_diagnoses, condition_at_discharge, discharge_medications
from data_prep.teachers.offline.one_patient import SEXES, patient_sentences, why_not
from data_prep.teachers.offline.sections import Section, divide, imaging

PATIENT = "PATIENT"

WHO = re.compile(
    # After an article: "fourty two year old" is no two year old.
    rf"(?:^|\b(?:an?|the|this|our) (?:[a-z-]+ly )?(?:healthy )?)(?<!and a )"
    rf"((?:\d{{1,3}}(?:\.\d)?|one|{SPELLED})-?[- ](?:years?|yr|months?|weeks?|"
    rf"days?)[- ]old,? (?:[A-Za-z-]+,? ){{0,4}}?{SEXES}\b|{SEXES} aged (?:of )?\d{{1,3}} (?:years|months|weeks|days))",
    re.IGNORECASE,
)
LONGEST_COMPLAINT = 22  # words
NO_COMPLAINT = re.compile(
    r"\b(?:present|complain|admitted|referred|patient|hospital|department|clinic|university|cent(?:re|er)|"
    r"ago\b|earlier\b|history of (?!\w+ ?pain))|[^\w)]$|\b(?:and|or|with|of|for|in|at|the|an?)$",
    re.IGNORECASE,
)
COMPLAINT = re.compile(
    r"\b(?:(?:present(?:ed|ing|s)|admitted|referred|complain(?:ed|ing|s)|visited|consulted|seen|brought|attended|came|"
    r"hospitali[sz]ed)\b(?=\s+(?:with|for|due|because|complaining|of|to|at|in|on|by|from|into|\w+ly|after|"
    r"\d)\b)(?:(?! (?:had|was|were|and|who|which)\b)[^.;,]){0,70}?\b(?:with|for|due to|because of|complain(?:ed|ing|"
    r"s) of|complaints? of)|complain(?:ed|ing|s) of)\s+(?:(?:an?|the|chief|main|complaints?|of|"
    r"chief complaint)\s+)*((?!her |his |further|evaluation|our |management|medical|surgical|treatment|\d+[- ]year|"
    r"age\b|diagnos|suspect|investigation)(?:[^.;()]|\.(?=\d)){5,})",
    re.IGNORECASE,
)
COMPLAINT_END = re.compile(
    r",?\s+(?:and (?:was|had|he|she|is|his|her|the|underwent|an?(?! half))\b|which\b|who\b|that\b|where\b|he\b|she\b|"
    r"was\b|were\b|had (?!been)|(?:showed|revealed|underwent|developed|found)\b|but\b|after (?:which|an?\b)|"
    r"as well as he|to (?:our|the|an?) (?:[\w-]+ ){0,3}(?:hospital|department|clinic|centre|center|unit|ward|room|"
    r"outpatient)|in (?:our|the (?:department|hospital|emergency)|[A-Z][a-z]+ |(?:19|20)\d\d)|at (?:our|the)\b|"
    r"lasting|indeed|when\b|while\b|at presentation)|,\s+(?=[A-Z][a-z])|,\s+(?:and\s+)?(?:associated|accompanied|"
    r"without|with no|starting|started|beginning|although|since|all|but|except|having|evolving|he|she|which)\b"
)
SYMPTOM = re.compile(
    r"\b(?:pain\w*|swelling|fever\w*|cough|dyspn\w+|bleeding|weakness|vomiting|nausea|headaches?|fatigue|mass(?:es)?|"
    r"seizures?|vision|loss|rash|lesions?|breath|diarrh\w+|itch\w*|numbness|palpitations?|syncope|confusion|jaundice|"
    r"h(?:a)?ematuria|ulcers?|nodules?|lump|dizziness|distension|discharge|difficult\w+|discomfort|paralysis|edema|"
    r"oedema|stiffness|tumou?r|injur\w+|trauma)\b",
    re.IGNORECASE,
)
# The text before a list of values: "... were white cells 12,000/mm3 (70% poly), haemoglobin 12.8 g/dL, ...".
LIST_HEAD = re.compile(
    r"^(.{0,100}?\b(?:findings?|results?|values?|tests?|data|examinations?|parameters|analys[ie]s|investigations|"
    r"signs|studies|count|work-?up|profile)\b.{0,40}?\b(?:were as follows|as follows|findings were|results were|"
    r"values were|included|revealed|showed|were|was|demonstrated|disclosed|indicated|with))[:,]?\s+(?=.*\d)"
)
# A value without a name, which shows that the comma before it does not separate items.
BARE_VALUE = re.compile(r"^[<>≥≤~]?\s?\d[\d.,]*\s?\S*$")
LIST_COMMA = re.compile(r"[,;]\s+(?:and\s+)?(?![^()]*\))")


def write_note(report: str, note_type: str = "discharge summary") -> str:
    """The note of one report, or "" if none can be written; `why_no_note` gives the reason."""
    return compose(report, note_type)[0]


def why_no_note(report: str, note_type: str) -> str:
    """The reason why a report has no note of this type, in a few words; "" if it has one."""
    return compose(report, note_type)[1]


def compose(report: str, note_type: str) -> tuple[str, str]:
    """The note and "", or "" and the reason why there is none.

    Headings are added; sentences about the literature, and sections of other types of notes, are left out.
    """
    if note_type not in LAYOUTS:
        return "", f"rules cannot write a {note_type}"
    reason, sentences, divided = read_report(report)
    if reason:
        return "", reason
    layout = LAYOUTS[note_type]
    sections = sections_for(layout, sentences, divided)
    missing = [heading for heading in layout.needs if heading not in sections]
    if missing:
        return "", f"the report has nothing for {missing[0]}"
    if note_type == EMERGENCY and not re.search(r"\bemergency\b", sections[HISTORY], re.IGNORECASE):
        return "", "the report names no emergency department"
    bodies = [f"{heading}:\n{body}" for heading, body in sections.items()]
    return "\n\n".join(filter(None, [layout.title, header(sentences), layout.opening, *bodies])), ""


@lru_cache(maxsize=4)
def read_report(report: str) -> tuple[str, list[str], list[Section]]:
    """The reason to write no note or "", the sentences about the patient, and the sections; cached for more types."""
    if reason := why_not(report):
        return reason, [], []
    sentences = patient_sentences(report)
    return "" if sentences else "no sentence is about the patient", sentences, divide(sentences)


def sections_for(layout: Layout, sentences: list[str], divided: list[Section]) -> dict[str, str]:
    """The text under each heading of a note, in order; headings without text are absent."""
    if layout.takes == (WHOLE,):
        divided = [Section(WHOLE, tuple(sentences))]
    elif layout.takes == (FINDINGS,):
        divided = [Section(FINDINGS, tuple(imaging(divided)))]
    found = {part.heading: body(part) for part in divided if part.heading in layout.takes and part.sentences}
    if not layout.lists:
        return found
    lists = (
        ("DIAGNOSES", all_diagnoses(sentences)),
        ("CONDITION AT DISCHARGE", condition_at_discharge(sentences)),
        ("DISCHARGE MEDICATIONS", discharge_medications(sentences)),
    )
    first, *last = [(heading, "\n".join(f"- {item}" for item in items)) for heading, items in lists]
    return {heading: text for heading, text in (first, *found.items(), *last) if text}


def body(section: Section) -> str:
    """The text under a heading: findings as a list, anything else as a paragraph."""
    lines = [sentence if sentence[-1] in ".!?:" else f"{sentence}." for sentence in section.sentences]
    if section.heading in (EXAMINATION, INVESTIGATIONS, FINDINGS):
        return "\n".join(map(bullet, lines))
    return " ".join(lines)


def header(sentences: list[str]) -> str:
    """The header lines with age, sex and complaint, if the first sentences state them explicitly."""
    opening = [sentence for sentence in sentences[:2] if not RELATIVE.search(sentence)]
    who = next((match[1] for match in map(WHO.search, opening) if match), "")
    # A second sentence on an earlier time tells an earlier complaint.
    recent = [sentence for sentence in opening if sentence is sentences[0] or not EARLIER.search(sentence)]
    complaint = next((found for found in map(find_complaint, recent) if found), "")
    lines = [f"{PATIENT}: {who}"] if who else []
    return "\n".join(lines + ([f"{CHIEF_COMPLAINT}: {complaint}"] if complaint else []))


def find_complaint(sentence: str) -> str:
    """The complaint that a sentence names, in its own words, or "" if it is unclear where it begins or ends."""
    start = 0
    while match := COMPLAINT.search(sentence, start):
        phrase = COMPLAINT_END.split(match[1])[0].rstrip(" ,.")
        # A long phrase is cut at a comma or not used at all, so that it never ends in the middle of a thought.
        while len(phrase.split()) > LONGEST_COMPLAINT and ", " in phrase:
            phrase = phrase[: phrase.rindex(", ")]
        # A symptom before the link is cut off: "presented pain in the shoulder with oedema".
        whole = SYMPTOM.search(phrase) and not SYMPTOM.search(sentence[match.start() : match.start(1)])
        if whole and not NO_COMPLAINT.search(phrase) and len(phrase.split()) <= LONGEST_COMPLAINT:
            return phrase
        start = match.start() + 1
    return ""


def bullet(sentence: str) -> str:
    """The sentence as one bullet, or as a bullet with one line for each value of at least four measurements."""
    match = LIST_HEAD.match(sentence)
    items = LIST_COMMA.split(sentence[match.end() :].rstrip(".")) if match else []
    measured = [item for item in items if re.search(r"\d", item) and len(item.split()) <= 12]
    if (
        match
        and not any(BARE_VALUE.match(item) for item in items)
        and len(items) >= 4
        and len(measured) >= 0.8 * len(items)
        and all(len(item) < 90 for item in items)
    ):
        return "\n".join([f"- {match[1]}:", *(f"  - {item.strip()}" for item in items)])
    return f"- {sentence}"
