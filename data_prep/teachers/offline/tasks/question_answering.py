"""Question Answering: facts that a reader would look up in a note, answered in the note's own words."""

import re

from data_prep.clinical_text.entities import Entity
from data_prep.teachers.offline.note_view import (
    NOT_STATED,
    NoteView,
    Sentence,
    quote,
    sentence_case,
    unique,
    word_pattern,
)
from data_prep.teachers.offline.sections import (
    ASSESSMENT,
    COURSE,
    EXAMINATION,
    FAMILY_SOCIAL,
    FOLLOW_UP,
    IMAGING,
    MEDICATIONS,
    PAST,
    PATHOLOGY,
    PRESENT,
    STUDIES,
)  # fmt: skip
from data_prep.teachers.offline.tasks.forms import Form
from data_prep.teachers.offline.tasks.relation_extraction import specific
from data_prep.teachers.offline.tasks.summarization import ACTION, FINAL, OUTCOME, as_text, best

VALUE = re.compile(
    r"^\s*(?:\((?![\d<>])[^()]{1,25}\)\s*)?(?:levels?|counts?|values?|concentrations?)?\s*(?:was|were|is|of|at|as|:|"
    r"=|to|being|measured|only|about|approximately|reached|increased to|decreased to|elevated at|normal at|"
    r"elevated to|elevated|raised|high|low|normal|,|-|\(|up|"
    r"\s)*\s*([<>≥≤~]?\s?\d[\d.,]*(?:\s?[/–-]\s?\d[\d.,]*)?(?:\s?[x×]\s?10\s?[\^]?\s?\d+)?(?:\s?(?:%|°\s?C|℃|"
    r"(?:beats |breaths )?per (?:minute|min)|(?!per\b|beats\b)"
    r"[A-Za-zµμ]+(?:/[A-Za-zµμ]*[\d.]*[A-Za-z]*[23²³]?)*|/[A-Za-zµμ]+[23³]?)(?![\w]))?)"
)
UNITLESS = re.compile(
    r"^[<>≥≤~]?\s?\d[\d.,]*\s?(?:and|or|on|in|with|at|to|by|for|of|year|years|days?|months?|weeks?|hours?|cases?|the|"
    r"after|from|were|was)$"
)
UNSURE = re.compile(
    r"\b(?:suspect\w*|possib\w+|probab\w+|likely|may|might|could|differential|family|mother|father|brother|sister|"
    r"history of|risk|rule out|considered|if|to prevent|prophylaxis)\b",
    re.IGNORECASE,
)

TOPICS: dict[str, re.Pattern[str]] = {
    "allergies": re.compile(r"\ballerg(?:y|ies|ic to)\b", re.IGNORECASE),
    "smoking": re.compile(r"\b(?:smok(?:ed|er|ing|es)|tobacco|cigarettes?|pack[- ]years?)\b", re.IGNORECASE),
    "alcohol use": re.compile(r"\balcohol(?! dehydrogenase)(?:ic|ism)?\b|\bdr(?:a|u)nk\b", re.IGNORECASE),
    "family history": re.compile(r"\bfamil(?:y|ial) (?:medical )?history\b|\b(?:mother|father|brother|sister|"
    r"siblings?|parents|consanguin\w+)\b", re.IGNORECASE),
    "vaccinations": re.compile(r"\b(?:vaccin\w+|immuni[sz](?:ed|ation)s?)\b", re.IGNORECASE),
    "occupation": re.compile(r"\b(?:occupation|worked as|works as|retired|farmer|employed|housewife)\b", re.IGNORECASE),
    "body weight": re.compile(r"\b(?:weigh(?:ed|ing|s|t) (?:was |of |is )?\d|body weight|birth weight|BMI|"
    r"body mass index|weight \d)", re.IGNORECASE),
    "complications": re.compile(r"\bcomplicat(?:ion|ions|ed)\b", re.IGNORECASE),
    "recurrence": re.compile(r"\b(?:recurrence|recurred|relapse[ds]?)\b", re.IGNORECASE),
    "surgery": re.compile(r"\b(?:surgery|surgical|operat(?:ion|ed)|\w+ectomy|\w+otomy|resection|excision)\b",
    re.IGNORECASE),
    "travel": re.compile(r"\btravel\w*\b|\btrip\b", re.IGNORECASE),
    "pregnancy": re.compile(r"\b(?:pregnan\w+|gravida|gestation\w*)\b", re.IGNORECASE),
    "vital signs": re.compile(r"\b(?:vital signs|blood pressure|heart rate|pulse rate|respiratory rate|temperature|"
    r"oxygen saturation)\b", re.IGNORECASE),
    "follow-up": re.compile(r"\bfollow(?:ed)?[- ]?up\b", re.IGNORECASE),
    "biopsy results": re.compile(r"\bbiops(?:y|ies)\b", re.IGNORECASE),
}  # fmt: skip


def on_topic(view: NoteView, topic: str) -> str:
    pattern = TOPICS.get(topic)
    found = [s for s in view.sentences if pattern and pattern.search(s.text) and len(s.text.split()) <= 60]
    return as_text(found[:2])


def topics_found(view: NoteView) -> list[str]:
    return [topic for topic in TOPICS if on_topic(view, topic) != NOT_STATED]


def values_of(view: NoteView, test: str) -> list[str]:
    """The values right after a test's name, in the order of the note."""
    found = []
    for sentence in view.containing(test):
        for name in word_pattern(test).finditer(sentence.text):
            match = VALUE.match(sentence.text[name.end() :])
            if match and not UNITLESS.match(match[1]):
                found.append(match[1].strip(" .,"))
    return unique(found)


def value_of(view: NoteView, test: str) -> str:
    values = values_of(view, test)
    if not values:
        return NOT_STATED
    if len(values) == 1:
        return f"The note gives {test} as {values[0]}."
    return f"The note gives more than one value for {test}: {'; '.join(values)}."


def tests_with_value(view: NoteView) -> list[str]:
    names = unique(
        [
            e.text
            for s in view.sentences
            for e in s.entities
            if e.kind == "test" and not re.search(r"examination|tests?$|scan|findings", e.text)
        ]
    )
    return [name for name in names if 1 <= len(values_of(view, name)) <= 4]


def age_and_sex(view: NoteView) -> str:
    who = view.header.get("PATIENT", "")
    return f"The patient is described as: {who}." if who else NOT_STATED


def complaint(view: NoteView) -> str:
    stated = view.header.get("CHIEF COMPLAINT", "")
    first = next(
        (s for s in view.section(PRESENT) if stated and stated.lower() in s.text.lower() and len(s.text.split()) <= 60),
        None,
    )
    if first:
        return sentence_case(first.text)
    return f"The chief complaint was: {stated}." if stated else NOT_STATED


def polarity(view: NoteView, problem: str) -> list[tuple[bool, Sentence]]:
    """(negated, sentence) of each mention of a problem, except suspected and past problems and other persons'."""

    def names(entity: Entity) -> bool:
        return entity.kind == "problem" and entity.text.lower() == problem.lower()

    return [(e.negated, s) for s in view.sentences if not UNSURE.search(s.text) for e in s.entities if names(e)]


def was_present(view: NoteView, problem: str) -> str:
    mentions = polarity(view, problem)
    hidden = len(view.containing(problem)) > len({s.index for _, s in mentions})
    if not mentions or hidden or len({negated for negated, _ in mentions}) != 1 or len(mentions[0][1].text) > 330:
        return NOT_STATED
    negated, sentence = mentions[0]
    return f"{'No' if negated else 'Yes'}. The note says: {quote(sentence.text)}"


def askable_problems(view: NoteView) -> list[str]:
    """The problems to ask about, denied ones twice: notes affirm more problems, and "no" is the harder answer."""
    both = [(e.text, e.negated) for s in view.sentences for e in s.entities if e.kind == "problem" and specific(e.text)]
    names = unique([text for text, _ in both]) + unique([text for text, negated in both if negated])
    return [name for name in names if was_present(view, name) != NOT_STATED]


def diagnosis(view: NoteView) -> str:
    found = best(view.section(ASSESSMENT), FINAL) or best(
        view.section(PATHOLOGY, COURSE, FOLLOW_UP, STUDIES, IMAGING, PRESENT), FINAL
    )
    return as_text(found)


def treatment(view: NoteView) -> str:
    return as_text(best(view.section(COURSE, FOLLOW_UP), ACTION, count=3))


def outcome(view: NoteView) -> str:
    return as_text(best(view.section(COURSE, FOLLOW_UP)[-3:], OUTCOME, count=2))


def section_text(view: NoteView, *names: str) -> str:
    sentences = view.section(*names)
    words = sum(len(s.text.split()) for s in sentences)
    return as_text(sentences) if words <= 110 else as_text([s for s in sentences if len(s.text.split()) <= 50][:3])


QUESTION_FORMS = (
    Form(
        ("What does the note say about {}?", "Is anything recorded about {}? If so, what?"),
        topics_found,
        on_topic,
        absent=("allergies", "smoking", "alcohol use", "family history", "vaccinations", "occupation", "travel",
        "body weight"),
    ),
    Form(
        ("Which value does the note give for {}?", "What is recorded for {}?"),
        tests_with_value,
        value_of,
        absent=("serum sodium", "HbA1c", "serum ferritin", "oxygen saturation", "INR", "serum lactate"),
    ),
    Form(("How old is the patient, and of which sex, as far as the note says?",), lambda view: [""], lambda view,
    _: age_and_sex(view), absent=("",)),
    Form(("Why did the patient seek care?", "What was the presenting complaint?"), lambda view: [""], lambda view,
    _: complaint(view)),
    Form(
        ("Does the note say that the patient had {}?", "Does the note report {}, yes or no?"),
        askable_problems,
        was_present,
    ),
    Form(("What was the diagnosis?", "Which diagnosis does the note arrive at?"), lambda view: [""], lambda view,
    _: diagnosis(view)),
    Form(("How was the patient treated?", "Which treatment did the patient receive?"), lambda view: [""], lambda view,
    _: treatment(view), absent=("",)),
    Form(("What was the outcome?", "How was the patient at the end of the note?"), lambda view: [""], lambda view,
    _: outcome(view), absent=("",)),
    Form(
        ("What did the imaging show?", "Summarise the imaging findings for the treating team."),
        lambda view: [""],
        lambda view, _: section_text(view, IMAGING),
        absent=("",),
    ),
    Form(
        ("Which findings on physical examination does the note record?",),
        lambda view: [""],
        lambda view, _: section_text(view, EXAMINATION),
        absent=("",),
    ),
    Form(
        ("What is known of the patient's past medical history?",),
        lambda view: [""],
        lambda view, _: section_text(view, PAST),
        absent=("",),
    ),
    Form(
        ("Which medications was the patient taking before this illness?",),
        lambda view: [""],
        lambda view, _: section_text(view, MEDICATIONS),
        absent=("",),
    ),
    Form(
        ("What does the note record of family and social history?",),
        lambda view: [""],
        lambda view, _: section_text(view, FAMILY_SOCIAL),
        absent=("",),
    ),
)  # fmt: skip
