"""Relation Extraction: drug and reason, test and finding, problem and treatment, problem and site."""

import re

from data_prep.clinical_text.entities import Entity
from data_prep.clinical_text.words import word_set
from data_prep.teachers.offline.note_view import (
    NOT_STATED,
    NoteView,
    Sentence,
    quote,
    sentence_case,
    unique,
    word_pattern,
)
from data_prep.teachers.offline.tasks.entities_and_abbreviations import DOSE
from data_prep.teachers.offline.tasks.forms import Form

SHOWED = re.compile(
    r"\b(?:showed|shows|revealed|reveals|demonstrated|disclosed|confirmed|detected|suggested|indicated|identified|"
    r"objectified|found|displayed|documented)\b"
)
# Words that link a treatment to the problem that it was for.
FOR_PROBLEM = re.compile(
    r"\b(?:for|because of|due to|as treatment of|against|to treat|in view of|to control|to prevent)\b", re.IGNORECASE
)
# "Aspirin was stopped because of bleeding" gives no indication for aspirin.
STOPPED = re.compile(
    r"\b(?:stopp|discontinu|withdr|withheld|replac|chang|reduc|not|avoid|switch|taper|refus|convert)", re.IGNORECASE
)
TREATED_WITH = re.compile(
    r"\b(?:treated|managed|controlled|resected|removed|repaired|drained|corrected|excised)\b[^.;]{0,40}?\b(?:with|by|"
    r"using|under)\b|\bunderwent\b|\b(?:was|were) (?:started|given|administered|performed|initiated|commenced|"
    r"prescribed|done|removed|resected|excised|drained)\b|\breceived\b|"
    r"\btreatment (?:of|for)\b|\bresponded to\b|\b(?:resolved|improved) (?:with|after|following)\b",
    re.IGNORECASE,
)
# The link must follow the treatment within this many characters and in the same clause, and the problem the link.
MOST_BETWEEN, MOST_OFFSET = 70, 45
NEW_CLAUSE = re.compile(r"[;.]|, (?:and|but|which)|\bwho\b|\bwhich\b")
CAUSE = re.compile(
    r"\b(?:due to|because of|secondary to|caused by|as a result of|owing to|resulting from|"
    r"attributed to)\s+(?!the fact)((?:[^.;,]|[.,](?=\d)){4,})",
    re.IGNORECASE,
)
DIAGNOSED_BY = re.compile(
    r"\b(?:diagnos(?:is|ed)|confirmed|consistent with|compatible with|suggestive of|suggest(?:ed|ing))\b", re.IGNORECASE
)
UNSURE = re.compile(r"\b(?:no|not|without|denied|excluded|ruled out)\b", re.IGNORECASE)


def entities_of(view: NoteView, kind: str) -> list[tuple[Sentence, Entity]]:
    return [
        (sentence, entity)
        for sentence in view.sentences
        for entity in sentence.entities
        if entity.kind == kind and not entity.negated
    ]


def specific(name: str) -> bool:
    """Return True if a name is specific enough to ask about; "lesion" alone is not."""
    return name.lower() not in VAGUE and len(name) > 3


VAGUE = word_set("""
lesion lesions mass masses tumor tumour tumors tumours injury infection cyst nodule pain wound collection
complications dissection compression culture complement removal repair operation surgery isolation graft flap
aspiration reconstruction cancer disease recurrence inflammation examination
""")


def reason_for(view: NoteView, treatment: str) -> str:
    """The first sentence that links a drug or procedure to the problem it was given for, or NOT_STATED."""
    for sentence in view.containing(treatment):
        name = word_pattern(treatment).search(sentence.text)
        link = FOR_PROBLEM.search(sentence.text[name.end() :]) if name else None
        if not name or not link:
            continue
        between = sentence.text[name.end() : name.end() + link.start()]
        if len(between) > MOST_BETWEEN or STOPPED.search(between) or NEW_CLAUSE.search(between):
            continue
        start = name.end() + link.end()
        problem = next((e for e in sentence.entities if e.kind == "problem" and e.start >= start), None)
        if not problem or problem.start - start >= MOST_OFFSET:
            continue
        if not re.search(r"[,;.]", sentence.text[start : problem.start]):
            return sentence_case(sentence.text)
    return NOT_STATED


def treatments_with_reason(view: NoteView) -> list[str]:
    names = unique([e.text for kind in ("drug", "procedure") for _, e in entities_of(view, kind) if specific(e.text)])
    return [name for name in names if reason_for(view, name) != NOT_STATED]


def findings_of(view: NoteView, test: str) -> str:
    """The first two sentences in which a test is the subject of a finding, or NOT_STATED."""
    found = []
    for sentence in view.containing(test):
        name = word_pattern(test).search(sentence.text)
        verb = SHOWED.search(sentence.text, name.end()) if name else None
        if name and verb and name.start() < 80 and verb.start() - name.end() < 70 and len(sentence.text) < 420:
            found.append(with_continuation(view, sentence))
    return " ".join(found[:2]) or NOT_STATED


def with_continuation(view: NoteView, sentence: Sentence) -> str:
    """The sentence, and the next one if it continues with "It also showed"."""
    following = view.sentences[sentence.index + 1] if sentence.index + 1 < len(view.sentences) else None
    if (
        following
        and following.section == sentence.section
        and len(following.text) < 300
        and re.match(r"(?:It|This|These|They) (?:also )?(?:showed|revealed|demonstrated)", following.text)
    ):
        return f"{sentence_case(sentence.text)} {sentence_case(following.text)}"
    return sentence_case(sentence.text)


def tests_with_findings(view: NoteView) -> list[str]:
    names = unique([e.text for _, e in entities_of(view, "test") if specific(e.text) or e.text.isupper()])
    return [name for name in names if findings_of(view, name) != NOT_STATED]


def treatment_of(view: NoteView, problem: str) -> str:
    """The first two sentences that name the problem and a treatment, or NOT_STATED."""
    found = [
        sentence_case(s.text)
        for s in view.containing(problem)
        if TREATED_WITH.search(s.text)
        and any(e.kind in ("drug", "procedure") for e in s.entities)
        and len(s.text) < 400
    ]
    return " ".join(found[:2]) or NOT_STATED


def problems_with_treatment(view: NoteView) -> list[str]:
    names = unique([e.text for _, e in entities_of(view, "problem") if specific(e.text)])
    return [name for name in names if treatment_of(view, name) != NOT_STATED]


def dose_of(view: NoteView, drug: str) -> str:
    doses = []
    for sentence in view.containing(drug):
        for name in word_pattern(drug).finditer(sentence.text):
            dose = DOSE.match(sentence.text[name.end() :])
            skipped = sentence.text[name.end() : name.end() + dose.start(1)] if dose else ""
            if dose and " and " not in skipped and " or " not in skipped:
                doses.append(dose[1].strip("() "))
    return f"The note gives the dose of {drug} as {'; '.join(unique(doses))}." if doses else NOT_STATED


def drugs_with_dose(view: NoteView) -> list[str]:
    return [
        name for name in unique([e.text for _, e in entities_of(view, "drug")]) if dose_of(view, name) != NOT_STATED
    ]


def site_of(view: NoteView, problem: str) -> str:
    """The site of a problem, linked by a preposition within a few words, with its sentence; or NOT_STATED."""
    for sentence in view.containing(problem):
        for name in word_pattern(problem).finditer(sentence.text):
            after = sentence.text[name.end() :]
            link = re.match(
                r"\s(?:[a-z]+\s){0,3}?(?:in|of|at|on|over|within|affecting|involving)\s(?:the|his|her|both|a)?\s?",
                after,
            )
            site = next(
                (
                    e
                    for e in sentence.entities
                    if link and e.kind == "anatomy" and 0 <= e.start - name.end() - link.end() < 28
                ),
                None,
            )
            if link and site and not re.search(r"[,;.]| and ", sentence.text[name.end() : site.start]):
                phrase = sentence_case(sentence.text[name.start() : site.end])
                return f"{phrase} The note says: {quote(sentence.text)}"
    return NOT_STATED


def problems_with_site(view: NoteView) -> list[str]:
    names = unique([e.text for _, e in entities_of(view, "problem")])
    return [
        name for name in names if len(name) > 2 and site_of(view, name) != NOT_STATED and len(site_of(view, name)) < 420
    ]


def causes(view: NoteView) -> list[str]:
    return [s.text for s in view.sentences if CAUSE.search(s.text) and len(s.text) < 320]


def cause_in(view: NoteView, text: str) -> str:
    sentence = next((s.text for s in view.sentences if s.text == text), "")
    match = CAUSE.search(sentence)
    if not match:
        return NOT_STATED
    effect, cause = sentence[: match.start()].strip(" ,"), match[1].strip()
    # "Because of the bleeding, the drain was removed": the effect follows the cause.
    effect = effect if len(effect.split()) > 1 else sentence[match.end() :].strip(" ,.")
    return f"Cause: {cause}. Effect: {effect}." if len(effect.split()) > 1 else f"Cause: {cause}."


def evidence_for(view: NoteView, problem: str) -> str:
    """The first two sentences that name the problem with a test that points to it, or NOT_STATED."""
    found = [
        sentence_case(s.text)
        for s in view.containing(problem)
        if any(e.kind == "test" for e in s.entities)
        and (DIAGNOSED_BY.search(s.text) or SHOWED.search(s.text))
        and len(s.text) < 360
    ]
    return " ".join(found[:2]) or NOT_STATED


def problems_with_evidence(view: NoteView) -> list[str]:
    names = unique([e.text for _, e in entities_of(view, "problem") if specific(e.text)])
    return [name for name in names if evidence_for(view, name) != NOT_STATED]


ABSENT_DRUGS = ("warfarin", "metformin", "levetiracetam", "amoxicillin", "insulin", "methotrexate", "morphine")
RELATION_FORMS = (
    Form(
        ("For which problem was {} used?", "What was the indication for {} according to the note?"),
        treatments_with_reason,
        reason_for,
        absent=ABSENT_DRUGS,
    ),
    Form(
        ("What did {} show?", "Which findings does the note link to {}?",
        "Relate {} to its findings as the note reports them."),
        tests_with_findings,
        findings_of,
        absent=("colonoscopy", "electroencephalogram", "bone scan", "echocardiogram"),
    ),
    Form(
        ("What was done about {}?", "Which treatment does the note connect with {}?"),
        problems_with_treatment,
        treatment_of,
        absent=("pneumonia", "hypertension", "atrial fibrillation"),
    ),
    Form(
        ("What dose of {} does the note give?", "At what dose was {} used?"),
        drugs_with_dose,
        dose_of,
        absent=ABSENT_DRUGS,
    ),
    Form(
        ("Where in the body does the note locate {}?", "Which anatomical site does the note give for {}?"),
        problems_with_site,
        site_of,
    ),
    Form(
        ("Which cause and which effect does this sentence connect: “{}”",),
        causes,
        cause_in,
    ),
    Form(
        ("Which test or finding points to {} in this note?", "Which investigation does the note connect with {}?"),
        problems_with_evidence,
        evidence_for,
        absent=("pulmonary embolism", "appendicitis", "meningitis"),
    ),
)  # fmt: skip
