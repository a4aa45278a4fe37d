"""Summarization: the sentences of the note that say who came and why, what was found, what was done, how it ended."""

import re

from data_prep.teachers.offline.cues import COURSE, EARLIER, HISTORY, LEANING, PRESENTED, RELATIVE, SYMPTOMS, WHOLE
from data_prep.teachers.offline.lists import only_diagnosis, stated_diagnoses
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, per_note, sentence_case
from data_prep.teachers.offline.one_patient import AGED
from data_prep.teachers.offline.tasks.forms import Form, once

ENDING_SECTIONS = (COURSE, WHOLE)
ACTION = re.compile(
    r"\b(?:treated (?:with|by)|(?:was|were) (?:then |\w+ly )?(?:started|given|administered|prescribed|initiated|"
    r"commenced|resected|removed|excised|drained|transfused|intubated|operated|implanted|inserted|repaired|introduced|"
    r"instituted|placed on|put on|transplanted|evacuated|ligated|closed)|underwent (?:\w+[ -]){0,6}?(?:\w+(?:ectomy|"
    r"otomy|plasty|ostomy)|surgery|resection|excision|repair|operation|transplantation|chemotherapy|radiotherapy|"
    r"drainage|embolization)|received|we (?:started|administered|gave|performed|removed|resected|excised|operated|"
    r"treated)|(?:surgery|operation|treatment|therapy|chemotherapy|radiotherapy|\w+(?:ectomy|plasty|ostomy)|excision|"
    r"resection|drainage|transplantation|repair|reduction|fixation) (?:was|were|consisted|included))\b",
    re.IGNORECASE,
)
# A weaker sign of treatment: with more of these than the summary holds, the summary would leave treatment out.
ANY_ACTION = re.compile(
    r"\b(?:treat\w*|therap\w+|\w+therapy|surg\w+|operat\w+|resect\w+|excis\w+|remov\w+|administ\w+|prescri\w+|"
    r"transfus\w+|drain\w+|implant\w*|antibiotic\w*|steroid\w*|underwent|received|given|started|"
    r"\w{3,}(?:ectomy|otomy|plasty|ostomy)|mg|dose\w*|intubat\w+|ventilat\w+|infus\w+|anticoag\w+|dialysis|"
    r"\w*filtration|emboli[sz]\w+|stent\w*|repair\w*|graft\w*|replacement|plasma exchange|immunoglobulin\w*|"
    r"\w+plast|reduc(?:ed|tion)|fixation|manag\w+|medication\w*)\b",
    re.IGNORECASE,
)
NO_TREATMENT = re.compile(
    r"\b(?:not|no|refused|declined|without|recommended|planned|proposed|considered|decided|decision|could)\b",
    re.IGNORECASE,
)
ENDED = re.compile(
    r"\b(?:discharged|recover(?:ed|y)|resolved|improved|improvement|asymptomatic|died|death|expired|passed away|"
    r"alive|remission|disease[- ]free|symptom[- ]free|recurrence|"
    r"uneventful|doing well|free of|healed|cured|lost to follow-up|remain(?:s|ed)|stable|normali[sz]ed|regression|"
    r"satisfactory|favou?rable|relapse|progress(?:ed|ion)|regained|good (?:health|condition))\b",
    re.IGNORECASE,
)
REASON = re.compile(
    r"\b(?:with|for(?! [A-Z])|because|due|complain\w*|suffer\w*|after|following|of|by|experienc\w+|report\w*|to be)\b"
)
# A sentence that weighs evidence says how the case is explained, not how the patient was.
ARGUES = re.compile(
    r"\b(?:consistent with|in keeping with|compatible with|a?etiolog\w+|relationship|suggest\w*|support(?:s|ed|ing)|"
    r"likely|hypothes\w+|explain\w*|literature|conclu\w+|indicat(?:es|ed|ing)|evidence|culprit|attribut\w+)\b",
    re.IGNORECASE,
)
LONG_AGO = re.compile(r"\b(?:months?|years?|decades?) (?:ago|earlier|before|previously|prior)\b", re.IGNORECASE)
LONGEST = 55  # words of a sentence in a summary
LARGEST_SHARE = 0.6  # of the note's sentences, in a summary of the note


def words(sentences: list[Sentence]) -> int:
    return sum(len(s.text.split()) for s in sentences)


def as_text(sentences: list[Sentence]) -> str:
    """The sentences as one text, in the order of the note and without duplicates; NOT_STATED if there are none."""
    chosen = sorted({s.index: s for s in sentences}.values(), key=lambda s: s.index)
    return " ".join(sentence_case(s.text) for s in chosen) or NOT_STATED


def opening(view: NoteView) -> list[Sentence]:
    """The first sentence of the story, if it says who came and why."""
    first = next((s for s in view.prose if s.section in (HISTORY, WHOLE)), None)
    came = first and (PRESENTED.search(first.text) or SYMPTOMS.search(first.text))
    told = first and came and AGED.search(first.text) and REASON.search(first.text, came.start())
    if first and came and (LONG_AGO.search(first.text, came.end()) or not names_reason(first, came.start())):
        return []
    return [first] if first and told and len(first.text.split()) <= LONGEST and len(first.text.split()) >= 9 else []


def names_reason(sentence: Sentence, start: int) -> bool:
    """Return True if a sentence names a problem or what happened to the patient, from this place on."""
    named = any(entity.kind == "problem" and entity.start >= start for entity in sentence.entities)
    return named or bool(SYMPTOMS.search(sentence.text, start))


@per_note
def treatments(view: NoteView) -> list[Sentence]:
    """All sentences on treatment; [] if there are more than four, or if one is unclear or only perhaps a treatment."""
    course = [s for s in view.prose if not EARLIER.search(s.text)]
    found = [s for s in course if ACTION.search(s.text) and not NO_TREATMENT.search(s.text)]
    named = [s for s in course if ANY_ACTION.search(s.text)]
    clear = all(len(s.text.split()) <= LONGEST and not LEANING.match(s.text) for s in found)
    return found if clear and found == named and len(found) <= 4 else []


def ending(view: NoteView) -> list[Sentence]:
    """The last sentence of the note, if it says how the patient was then, with the one before if it leans on that."""
    last = view.prose[-1] if view.prose else None
    if not last or last.section not in ENDING_SECTIONS or not ENDED.search(last.text):
        return []
    if RELATIVE.search(last.text) or ARGUES.search(last.text):
        return []
    before = view.prose[-2] if len(view.prose) > 1 else None
    leans = bool(LEANING.match(last.text)) and before is not None and before.section == last.section
    if LEANING.match(last.text) and (not leans or (before and LEANING.match(before.text))):
        return []
    return [before, last] if leans and before else [last]


def whole_note(view: NoteView) -> str:
    parts = opening(view), treatments(view), ending(view)
    if not all(parts):
        return NOT_STATED
    finding = [s for s in view.prose if stated_diagnoses([s.text])][:1]
    chosen = [*parts[0], *finding, *parts[1], *parts[2]]
    short = words(chosen) <= 190 and len({s.index for s in chosen}) <= LARGEST_SHARE * len(view.prose)
    return as_text(chosen) if short else NOT_STATED


def reason_summary(view: NoteView) -> str:
    return as_text(opening(view))


def headline(view: NoteView) -> str:
    """Patient, complaint and diagnosis in one line, if the note gives all three."""
    found = only_diagnosis([s.text for s in view.prose])
    if not found or not all(view.header.get(name) for name in ("PATIENT", "CHIEF COMPLAINT")):
        return NOT_STATED
    return f"Patient: {view.header['PATIENT']}. Chief complaint: {view.header['CHIEF COMPLAINT']}. Diagnosis: {found}."


SUMMARY_FORMS = (
    Form(("Summarize the case: presentation, treatment and outcome.", "Give a brief summary of the case for handover.",
        "Write a short summary of this note: why the patient came, what was done, how it ended."), *once(whole_note)),
    Form(("In one sentence: who is the patient, and why did the patient come?", "Summarize the presentation in one "
    "sentence."),
        *once(reason_summary)),
    Form(("State patient, complaint and diagnosis in one line.",), *once(headline)),
)  # fmt: skip
