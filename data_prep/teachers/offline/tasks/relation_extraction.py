"""Relation Extraction: drug and dose, test and finding, problem and site.

Each relation is read from one sentence in which grammar shows it: the two names stand next to the word that links them.
"""

import re

from data_prep.clinical_text.entities import Entity
from data_prep.teachers.offline.cues import ACTED, EXAMINED
from data_prep.teachers.offline.note_view import (
    NoteView,
    Sentence,
    per_note,
    quote,
    sentence_case,
    word_pattern,
)
from data_prep.teachers.offline.sections import begins_treatment
from data_prep.teachers.offline.tasks.entities_and_abbreviations import FULL_DOSE, NOT_GIVEN, lower_first
from data_prep.teachers.offline.tasks.forms import Form, looked_up
from data_prep.teachers.offline.tasks.statements import DENIAL, affirmed

# A sentence whose subject is a test: "An abdominal CT scan (Fig. 1) showed ...".
FINDING = re.compile(
    r"^(?:An? |The |His |Her )?((?:[\w’'/-]+ ){0,5}?[\w’'/-]+)(?: \([^()]{1,25}\))? (?:also |then )?"
    r"(showed|shows|revealed|reveals|demonstrated|disclosed|confirmed|detected|identified|displayed)\b"
)
NO_STUDY = re.compile(
    r"\b(?:and|or|results?|findings?|it|this|all|both|other|these|two|three|tests?|studies|investigations?|"
    r"examinations?|evaluation|work-?up|assessment|history|course|analysis|underwent|that|which|who|patient|had|has|"
    r"was|were|performed|done|with|by|after|we|he|she)\b",
    re.IGNORECASE,
)
# Other names of a study, with any of which a note may say more about it.
SAME_STUDY = (
    r"tomogra|\bCTs?\b|\b[A-Z]*CT\b|\bscan", r"magnetic|\bMR|resonance", r"radiogra|x-?ray|\bfilm|roentgen",
    r"ultraso|sonogra|echogra|\bUS\b|doppler",
    r"echocardio|\bTTE\b|\bTEE\b|\becho\b", r"biops|histo|patholog|specimen|microscop|immunohisto",
    r"cultur|\bgrew\b|grown|isolat", r"electrocardio|\bECG|\bEKG",
    r"endoscop|scopy|scopic", r"angiogra", r"laborator|blood test|serum", r"electroenceph|\bEEG",
    r"puncture|\bCSF|cerebrospinal",
)  # fmt: skip
SITE_LINK = re.compile(r" (?:in|of|at|on|over|within|affecting|involving) (?:the |his |her |both |an? )?$")
FURTHER = re.compile(r"^(?: and|,| or|/)")
# Drugs and tests to ask for where the note does not mention them, with every name that would mention them.
ABSENT_DRUGS = {
    "aspirin": "aspirin|acetylsalicyl|ASA|antiplatelet", "metformin": "metformin|antidiabetic|hypoglyc",
    "prednisolone": "predniso|steroid|cortico", "heparin": "heparin|anticoag|enoxa",
    "methotrexate": "methotrex|MTX|chemother", "ceftriaxone": "ceftri|cephal|cefo|antibio|antimicrob",
    "amoxicillin": "amox|penicil|augment|antibio|antimicrob|co-amox", "warfarin": "warfarin|coumad|anticoag|vitamin K",
    "furosemide": "furosem|lasix|diuret", "omeprazole": "omepr|prazole|proton|PPI", "ciprofloxacin": "cipro|floxac|"
    "quinol|antibio|antimicrob", "vancomycin": "vancom|antibio|antimicrob",
}  # fmt: skip
ABSENT_TESTS = {
    "chest X-ray": "x[- ]?ray|radiogra|CXR|film|imaging|roentgen", "electrocardiogram": "electrocard|ECG|EKG|Holter",
    "colonoscopy": "scop(?:y|ic|e)\\b|endosc", "echocardiography": "echo|TTE|TEE|ultraso|sonogra|doppler",
    "brain MRI": "MRI|MR |magnetic|imaging", "abdominal ultrasound": "ultraso|sonogra|echogra|imaging|US ", "bone "
    "scan": "scintigra|bone scan|imaging|nuclear", "urinalysis": "urin",
    "bronchoscopy": "scop(?:y|ic|e)\\b|endosc|lavage", "lumbar puncture": "lumbar|CSF|spinal|cerebrospinal",
}  # fmt: skip


def unmentioned(names: dict[str, str], view: NoteView) -> list[str]:
    """The names that the note mentions under no form."""
    return [name for name, pattern in names.items() if not re.search(pattern, view.text, re.IGNORECASE)]


@per_note
def doses(view: NoteView) -> dict[str, str]:
    """The dose of each drug that has exactly one in the note."""
    found: dict[str, set[str]] = {}
    for sentence in view.prose:
        for entity in sentence.entities:
            if entity.kind != "drug" or entity.text.lower() in NOT_GIVEN:
                continue
            match = FULL_DOSE.match(sentence.text, entity.end)
            found.setdefault(entity.text, set()).add(match[1].strip(" ,") if match and not changed(sentence) else "")
    return {
        name: f"The note gives the dose of {name} as {next(iter(values))}."
        for name, values in found.items()
        if len(values) == 1 and "" not in values
    }


def changed(sentence: Sentence) -> bool:
    return bool(re.search(r"increas|decreas|reduc|taper|then|follow|up to|switch|chang|escalat", sentence.text))


@per_note
def findings(view: NoteView) -> dict[str, tuple[str, Sentence, int]]:
    """The tests that the note names once, as the subject of a finding: their name, sentence and the end of the verb."""
    found = {}
    for sentence in view.prose:
        match = FINDING.match(sentence.text)
        if not match or len(sentence.text) > 420:
            continue
        tests = [e for e in sentence.entities if e.kind == "test" and e.start < match.end(1)]
        name = lower_first(match[1])
        once = sum(len(word_pattern(match[1]).findall(s.text)) for s in view.prose) == 1
        if (
            len(tests) == 1
            and tests[0].end >= match.end(1) - 20
            and once
            and not NO_STUDY.search(name)
            and said_whole(view, sentence, match[1])
        ):
            found[name] = (sentence_case(sentence.text), sentence, match.end(2))
    return found


def said_whole(view: NoteView, sentence: Sentence, name: str) -> bool:
    """Return True if no other sentence names the study or goes on about it: what follows is a step or another study."""
    if ACTED.search(sentence.text):
        return False
    foreign = [names for names in SAME_STUDY if not re.search(names, name, re.IGNORECASE)]
    if any(re.search(names, sentence.text, re.IGNORECASE) for names in foreign):
        return False
    own = [names for names in SAME_STUDY if re.search(names, name, re.IGNORECASE)] or [re.escape(name.split()[-1][:6])]
    others = [s.text for s in view.prose if s.index != sentence.index]
    if any(re.search(pattern, text, re.IGNORECASE) for pattern in own for text in others):
        return False
    following = next((s.text for s in view.prose if s.index == sentence.index + 1), "")
    told = FINDING.match(following)
    another = told and any(re.search(names, told[1], re.IGNORECASE) for names in SAME_STUDY)
    return not following or bool(begins_treatment(following) or another or EXAMINED.search(following))


@per_note
def shown_by(view: NoteView) -> dict[str, str]:
    """The problems that a test showed, each with its answer: the problem is the first thing after the verb."""
    answers = {}
    sure = {(entity.text, sentence.index) for entity, sentence in affirmed(view)}
    for name, (text, sentence, end) in findings(view).items():
        first = next((e for e in sentence.entities if e.start >= end), None)
        if (
            first
            and (first.text, sentence.index) in sure
            and first.start - end <= 12
            and not DENIAL.search(sentence.text)
        ):
            answers[first.text] = f"{name[0].upper()}{name[1:]}. The note says: {quote(text)}"
    return answers


@per_note
def sites(view: NoteView) -> dict[str, str]:
    """The affirmed problems whose site follows them after a preposition."""
    answers = {}
    for entity, sentence in affirmed(view):
        site = next((e for e in sentence.entities if e.kind == "anatomy" and e.start > entity.end), None)
        if (
            site
            and SITE_LINK.fullmatch(sentence.text[entity.end : site.start])
            and not cut_short(sentence, site)
            and len(sentence.text) < 300
        ):
            answers[entity.text] = (
                f"{sentence_case(sentence.text[entity.start : site.end])} The note says: {quote(sentence.text)}"
            )
    return answers


def cut_short(sentence: Sentence, site: Entity) -> bool:
    """Return True if a site continues: "in the liver and spleen", "at the left kidney bed"."""
    after = sentence.text[site.end :]
    return bool(FURTHER.match(after)) or not re.match(
        r"[.;,]| (?:with|was|were|that|which|measuring|and [a-z]+ed|on|in|of|by|for|due|at|after|is)\b|$", after
    )


def findings_told(view: NoteView) -> dict[str, str]:
    return {test: text for test, (text, _, _) in findings(view).items()}


RELATION_FORMS = (
    Form(("What dose of {} does the note give?", "At what dose was {} used, according to the note?"),
        *looked_up(doses), absent=lambda view: unmentioned(ABSENT_DRUGS, view), absent_share=0.03),
    Form(("What did the {} show?", "Which findings does the note report for the {}?"),
        *looked_up(findings_told), absent=lambda view: unmentioned(ABSENT_TESTS, view), absent_share=0.25),
    Form(("Which investigation showed {}?", "By which test was {} found in this note?"), *looked_up(shown_by)),
    Form(("Where in the body does the note locate the {}?", "Which anatomical site does the note give for the {}?"),
        *looked_up(sites)),
)  # fmt: skip
