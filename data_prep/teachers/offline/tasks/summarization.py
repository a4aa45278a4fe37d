"""Summarization: two to four sentences of the note, chosen by section, position and key words."""

import re

from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, sentence_case
from data_prep.teachers.offline.sections import (
    ASSESSMENT,
    COURSE,
    EXAMINATION,
    FAMILY_SOCIAL,
    FOLLOW_UP,
    IMAGING,
    LABORATORY,
    LEANING,
    MEDICATIONS,
    PAST,
    PATHOLOGY,
    PRESENT,
    STUDIES,
)  # fmt: skip
from data_prep.teachers.offline.tasks.forms import Form

DIAGNOSIS = re.compile(
    r"\b(?:diagnos(?:is|ed|es)|confirmed|consistent with|compatible with|concluded|revealed|showed)\b", re.IGNORECASE
)
FINAL = re.compile(
    r"\b(?:(?:final|definitive|definite|histolog\w+|patholog\w+) diagnosis|diagnosis of|diagnosed (?:with|as)|"
    r"was diagnosed|confirmed)\b",
    re.IGNORECASE,
)
ACTION = re.compile(
    r"\b(?:underwent|treated|started|performed|received|given|administered|resect\w+|remov\w+|operat\w+|excis\w+|"
    r"transplant\w+|surgery|therapy)\b",
    re.IGNORECASE,
)
OUTCOME = re.compile(
    r"\b(?:discharged|recovered|resolved|improved|improvement|asymptomatic|died|death|alive|remission|recurrence|"
    r"uneventful|well|follow[- ]?up|symptom[- ]free)\b",
    re.IGNORECASE,
)
LONGEST = 50


def score(sentence: Sentence, *keys: re.Pattern[str]) -> float:
    """The score of a sentence for a summary.

    Key words and entities raise it; more than 25 words, or an opening that refers to the sentence before, lower it.
    """
    words = len(sentence.text.split())
    entities = len({(e.kind, e.text.lower()) for e in sentence.entities})
    return 3.0 * sum(bool(key.search(sentence.text)) for key in keys) + min(entities, 4) * 0.5 - 0.08 * max(0,
    words - 25) - 2.0 * bool(
        LEANING.match(sentence.text)
    )  # fmt: skip


def best(sentences: list[Sentence], *keys: re.Pattern[str], count: int = 1) -> list[Sentence]:
    fitting = [s for s in sentences if 4 <= len(s.text.split()) <= LONGEST and any(key.search(s.text) for key in keys)]
    ranked = sorted(fitting, key=lambda s: (-score(s, *keys), s.index))[:count]
    return sorted(ranked, key=lambda s: s.index)


def within(sentences: list[Sentence], words: int = 120) -> list[Sentence]:
    """The first sentence, and every further one that fits into a total of `words`."""
    kept = sentences[:1]
    for sentence in sentences[1:]:
        if sum(len(s.text.split()) for s in (*kept, sentence)) <= words:
            kept.append(sentence)
    return kept


def as_text(sentences: list[Sentence]) -> str:
    """The sentences as one text, in the order of the note and without duplicates; NOT_STATED if there are none."""
    chosen = within(sorted({s.index: s for s in sentences}.values(), key=lambda s: s.index))
    return " ".join(sentence_case(s.text) for s in chosen) or NOT_STATED


def opening(view: NoteView) -> list[Sentence]:
    return [s for s in view.section(PRESENT) if len(s.text.split()) <= LONGEST][:1] or list(view.sentences[:1])


def findings(view: NoteView) -> list[Sentence]:
    return best(view.section(IMAGING, STUDIES, PATHOLOGY, LABORATORY, EXAMINATION, ASSESSMENT), FINAL, DIAGNOSIS)


def whole_note(view: NoteView, count: int) -> str:
    course = view.section(COURSE, FOLLOW_UP)
    treatment = best(course, ACTION)
    outcome = best([s for s in course[-4:] if s not in treatment], OUTCOME)
    found = opening(view) + findings(view) + treatment + outcome
    if len(found) < 2:
        found += [s for s in view.sentences if s not in found and len(s.text.split()) <= LONGEST][: 2 - len(found)]
    chosen = found[:1] + found[-(count - 1) :] if count < len(found) else found
    return as_text(within(chosen))


def section_summary(view: NoteView, section: str) -> str:
    sentences = view.section(section)
    if not sentences:
        return NOT_STATED
    chosen = sorted(sentences, key=lambda s: (-score(s, DIAGNOSIS, ACTION, OUTCOME), s.index))
    short = [s for s in chosen if len(s.text.split()) <= LONGEST]
    return as_text(short[:3] if len(sentences) > 6 else short[:2])


def long_sections(view: NoteView) -> list[str]:
    return [
        name for name in view.sections if len(view.section(name)) >= 4 and section_summary(view, name) != NOT_STATED
    ]


def course_summary(view: NoteView) -> str:
    course = view.section(COURSE, FOLLOW_UP)
    chosen = best(course, ACTION, count=2)
    chosen += best([s for s in course[-3:] if s not in chosen], OUTCOME)
    return as_text(chosen)


def workup_summary(view: NoteView) -> str:
    return as_text(
        [s for name in (LABORATORY, IMAGING, STUDIES, PATHOLOGY) for s in best(view.section(name), DIAGNOSIS, FINAL)]
    )


def presentation_summary(view: NoteView) -> str:
    background = [s for s in view.section(PAST, MEDICATIONS, FAMILY_SOCIAL) if len(s.text.split()) <= LONGEST][:1]
    signs = [s for s in view.section(EXAMINATION) if len(s.text.split()) <= LONGEST][:1]
    return as_text(opening(view) + background + signs)


def topic_sentences(view: NoteView) -> list[str]:
    """The problems named in two to five sentences, which is enough to summarise."""
    names = dict.fromkeys(
        e.text.lower()
        for s in view.sentences
        for e in s.entities
        if e.kind == "problem" and not e.negated and len(e.text) > 5
    )
    return [name for name in names if 2 <= len(view.containing(name)) <= 5 and about(view, name) != NOT_STATED]


def about(view: NoteView, problem: str) -> str:
    return as_text([s for s in view.containing(problem) if len(s.text.split()) <= 45][:3])


SUMMARY_FORMS = (
    Form(
        ("Summarize this note in three or four sentences.", "Give a brief summary of the case for handover.",
        "Write a short summary of this discharge summary."),
        lambda view: [""],
        lambda view, _: whole_note(view, 4),
    ),
    Form(
        ("Summarize the note in at most three sentences: why the patient came, what was done, how it ended.",),
        lambda view: [""],
        lambda view, _: whole_note(view, 3),
    ),
    Form(
        ("Summarize the section {}.", "What are the main points of {}?"),
        long_sections,
        section_summary,
        absent=("CONSULTATIONS", "NURSING NOTES", "DISCHARGE MEDICATIONS"),
    ),
    Form(
        ("Summarize treatment and outcome.", "What was done for the patient, and with what result?"),
        lambda view: [""],
        lambda view, _: course_summary(view),
        absent=("",),
    ),
    Form(
        ("Summarize the results of the investigations.", "Which test results matter most in this note?"),
        lambda view: [""],
        lambda view, _: workup_summary(view),
        absent=("",),
    ),
    Form(
        ("Summarize how the patient presented, with relevant history and examination.",),
        lambda view: [""],
        lambda view, _: presentation_summary(view),
    ),
    Form(
        ("Summarize what the note says about the {}.",),
        topic_sentences,
        about,
    ),
)  # fmt: skip
