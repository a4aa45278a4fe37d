"""Coreference Resolution: the referents of pronouns and definite phrases, as far as simple rules are safe."""

import re
from collections.abc import Callable

from data_prep.teachers.offline.note import WHO
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, per_note, quote, unique
from data_prep.teachers.offline.one_patient import SEVERAL, SEXES
from data_prep.teachers.offline.tasks.forms import Form, looked_up, once

FEMALE = re.compile(r"\b(?:female|woman|girl|lady)\b", re.IGNORECASE)
MALE = re.compile(r"\b(?:male|man|boy|gentleman)\b", re.IGNORECASE)
# Other persons, whose mention makes "he" or "she" ambiguous.
OTHERS = re.compile(
    r"\b(?:mother|father|parents?|sister|brother|siblings?|wife|husband|daughters?|sons?|uncle|aunt|cousin|grand\w+|"
    r"partner|spouse|surgeons?|physicians?|doctors?|nurse|dentist|therapist|neighbou?r|friend|relatives?|family|donor|"
    r"infant|neonate|newborn|baby|f(?:o)?etus|twins?|patients|women|men|colleagues?|[a-z]+(?:ologist|iatrist))\b",
    re.IGNORECASE,
)
HE = {"male": ("he", "his", "him", "himself"), "female": ("she", "her", "hers", "herself")}
PRONOUN = re.compile(r"\b(?:he|his|him|himself|she|her|hers|herself)\b", re.IGNORECASE)
HEADS = (
    "mass|lesion|tumor|tumour|nodule|cyst|fistula|aneurysm|abscess|fracture|hematoma|haematoma|ulcer|thrombus|polyp|"
    "effusion|stenosis|catheter|stent|graft|"
    "flap|specimen|rash|hernia|perforation|foreign body|stone|calculus|plaque|pseudoaneurysm|abscesses|drain"
)
DEFINITE = re.compile(
    rf"\b(?:[Tt]he|[Tt]his|[Tt]hat) ({HEADS})\b(?=[.,;]| (?:was|were|is|had|has|measured|showed|revealed|appeared|"
    rf"extended|caused|compressed|grew)\b)"
)
# After a head, these words show that it is not part of a longer name: "a tumor endoprosthesis".
LINK = (
    r" (?:of|in|on|at|to|from|with|within|that|which|was|were|is|had|and|measuring|occupying|extending|arising|"
    r"involving|near|located|for)\b"
)
NOUN_STOP = re.compile(
    r"\b(?:and|with|that|which|in|on|at|was|were|is|had|showed|for|from|by|to|after|due|as|when|while|or|but|"
    r"through|during|revealing|showing|into|followed|under|of|no|not|without)\b"
)
SLOT = re.compile(r"“([^”]+)” in this sentence: “(.+)”", re.DOTALL)


def slot(mention: str, sentence: Sentence) -> str:
    return f"“{mention}” in this sentence: “{sentence.text}”"


@per_note
def patient_phrase(view: NoteView) -> str:
    """The note's phrase for the patient with age and sex, or "" if it has none or several patients."""
    if SEVERAL.search(view.text):
        return ""
    opening = [s.text for s in view.prose[:2] if not OTHERS.search(s.text)]
    match = next(filter(None, map(WHO.search, opening)), None)
    phrase = view.header.get("PATIENT", "") or (match[1] if match else "")
    return phrase if re.search(rf"\b{SEXES}\b", phrase, re.IGNORECASE) else ""


@per_note
def patient_gender(view: NoteView) -> str:
    """The patient's gender by noun and pronouns, or "" if they disagree or if the patient phrase is missing."""
    phrase = patient_phrase(view)
    by_noun = {gender for gender, pattern in (("female", FEMALE), ("male", MALE)) if pattern.search(phrase)}
    used = {word.lower() for s in view.prose for word in PRONOUN.findall(s.text) if not OTHERS.search(s.text)}
    by_pronouns = {gender for gender, words in HE.items() if used & set(words)}
    found = by_noun | by_pronouns
    return found.pop() if phrase and len(found) == 1 else ""


@per_note
def pronouns(view: NoteView) -> list[str]:
    """A slot for each pronoun that can only refer to the patient."""
    gender = patient_gender(view)
    found = []
    for previous, sentence in zip((None, *view.prose), view.prose, strict=False):
        near = f"{previous.text if previous else ''} {sentence.text}"
        match = PRONOUN.search(sentence.text)
        if gender and match and match[0].lower() in HE[gender] and not OTHERS.search(near) and len(sentence.text) < 240:
            found.append(slot(match[0], sentence))
    return found


def resolve_pronoun(view: NoteView, text: str) -> str:
    match = SLOT.fullmatch(text)
    if not match or text not in pronouns(view):
        return NOT_STATED
    return f"“{match[1]}” refers to the patient, introduced in the note as “{patient_phrase(view)}.”"


@per_note
def definites(view: NoteView) -> dict[str, str]:
    """The definite phrases that take up the only indefinite phrase with their head in the note before, with answers."""
    answers = {}
    for sentence in view.prose:
        match = DEFINITE.search(sentence.text)
        if not match or len(sentence.text) > 260:
            continue
        head = match[1]
        earlier = [s for s in view.prose if s.index < sentence.index]
        texts = [(s, s.text) for s in earlier] + [(sentence, sentence.text[: match.start()])]
        mentions = [(s, m) for s, text in texts for m in re.finditer(rf"\b{head}(?:s|es)?\b", text, re.IGNORECASE)]
        where, phrase = introduction(head, texts)
        # Between the two, nothing else is named by this word.
        if (
            phrase
            and len(mentions) == 1
            and 0 <= sentence.index - where.index <= 1
            and where.section == sentence.section
        ):
            place = "earlier in the same sentence." if where.index == sentence.index else f"in: {quote(where.text)}"
            answers[slot(match[0], sentence)] = f"“{match[0]}” refers to “{phrase}”, mentioned {place}"
    return answers


def introduction(head: str, texts: list[tuple[Sentence, str]]) -> tuple[Sentence, str]:
    """The first sentence with an indefinite phrase of this head, and the phrase; "" for the phrase if there is none."""
    pattern = re.compile(rf"\ban? (?:[^\s,;.()]+ ){{0,6}}?{head}\b(?=[.,;)]|{LINK})", re.IGNORECASE)
    found = [(s, m[0]) for s, text in texts for m in pattern.finditer(text) if not NOUN_STOP.search(m[0])]
    return found[0] if found else (texts[-1][0], "")


@per_note
def section_pronouns(view: NoteView) -> dict[str, str]:
    """The sections with at least two pronouns and no other person, each with its answer."""
    gender, answers = patient_gender(view), {}
    for name in view.sections if gender else []:
        text = " ".join(s.text for s in view.section(name))
        found = [word.lower() for word in PRONOUN.findall(text)]
        if len(found) >= 2 and not OTHERS.search(text) and set(found) <= set(HE[gender]):
            words = unique(found)
            mentions = " and ".join(f"“{word}”" for word in words[:3])
            answers[name] = (
                f"{mentions} under {name} {'refers' if len(words) == 1 else 'refer'} to the patient, introduced as "
                f"“{patient_phrase(view)}.”"
            )
    return answers


def who_is_patient(view: NoteView) -> str:
    phrase = patient_phrase(view)
    return f"“The patient” refers to the {phrase}." if phrase else NOT_STATED


@per_note
def introduction_quoted(view: NoteView) -> str:
    """The sentence that introduces the patient; "" if only the header does."""
    words = set(patient_phrase(view).lower().replace("-", " ").split())
    said = (s for s in view.prose[:2] if not OTHERS.search(s.text) and WHO.search(s.text))
    found = next((s for s in said if words <= set(s.text.lower().replace("-", " ").rstrip(".").split())), None)
    return f"The note introduces the patient in: {quote(found.text)}" if found and words else ""


def citing_introduction(answer: Callable[[NoteView, str], str]) -> Callable[[NoteView, str], str]:
    """The answer with the sentence that introduces the patient, in place of the words that the header repeats."""

    def cited(view: NoteView, slot: str) -> str:
        usual, introduced = answer(view, slot), introduction_quoted(view)
        head, refers, _ = usual.partition(" to the patient, introduced")
        if usual == NOT_STATED or not introduced:
            return usual
        return f"{head} to the patient. {introduced}" if refers else introduced

    return cited


COREFERENCE_FORMS = (
    Form(("Who is meant by {}", "To whom does the pronoun refer: {}"), pronouns, resolve_pronoun,
        citable=citing_introduction(resolve_pronoun)),
    Form(("What does the note mean by {}", "Which earlier mention does this phrase take up: {}"),
        *looked_up(definites)),
    Form(("To whom do the personal pronouns under {} refer?", "Resolve the personal pronouns in the section {}."),
        *looked_up(section_pronouns), citable=citing_introduction(looked_up(section_pronouns)[1])),
    Form(("Who is the patient in this note?", "Whom does the note call the patient?"), *once(who_is_patient),
        citable=citing_introduction(lambda view, _: who_is_patient(view))),
)  # fmt: skip
