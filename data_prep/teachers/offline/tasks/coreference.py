"""Coreference Resolution: the referents of pronouns and definite phrases, as far as simple rules are safe."""

import re

from data_prep.teachers.offline.note import SEVERAL, WHO
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, quote, unique
from data_prep.teachers.offline.tasks.forms import Form

FEMALE = re.compile(r"\b(?:female|woman|girl|lady)\b", re.IGNORECASE)
MALE = re.compile(r"\b(?:male|man|boy|gentleman)\b", re.IGNORECASE)
# Other persons, whose mention makes "he" or "she" ambiguous.
OTHERS = re.compile(
    r"\b(?:mother|father|parents?|sister|brother|siblings?|wife|husband|daughter|son|uncle|aunt|cousin|grand\w+|"
    r"partner|spouse|surgeon|physician|"
    r"doctor|neighbou?r|friend|relatives?|donor|infant|neonate|newborn|baby|fetus|foetus|patients|women|men)\b",
    re.IGNORECASE,
)
HE = {"male": ("he", "his", "him", "himself"), "female": ("she", "her", "hers", "herself")}
PRONOUN = re.compile(r"\b(?:he|his|him|himself|she|her|hers|herself)\b", re.IGNORECASE)
PATIENT = re.compile(r"(?<!\w)(?:the |our |this )?patient\b(?!['’]s? (?:mother|father))", re.IGNORECASE)

HEADS = (
    "mass|masses|lesion|lesions|tumor|tumour|tumors|tumours|nodule|nodules|cyst|cysts|fistula|aneurysm|abscess|"
    "fracture|hematoma|haematoma|"
    "collection|ulcer|swelling|thrombus|polyp|effusion|defect|stenosis|catheter|tube|stent|graft|flap|biopsy|"
    "specimen|scan|rash|infection|"
    "hernia|perforation|foreign body|implant|procedure|drain|stone|calculus|wound|obstruction|aneurysms|fracture|"
    "plaque|pseudoaneurysm"
)
DEFINITE = re.compile(rf"\b(?:[Tt]he|[Tt]his|[Tt]hese|[Tt]hat) ({HEADS})\b")
INDEFINITE = r"\b(?:an?|two|three|four|several|multiple|some)\s(?:[^\s,;.()]+\s){0,7}?"
NOUN_STOP = re.compile(
    r"\b(?:and|with|that|which|in|on|at|was|were|is|had|showed|for|from|by|to|after|due|as|when|while|or|but|through|"
    r"during|revealing|showing|into|followed|under)\b"
)
RELATIVE = re.compile(
    r"\b((?:an?|the|The|An?|his|her|His|Her)\s(?:[^\s,;.()]+\s){0,5}?[^\s,;.()]{3,})(?:\s\([^()]{1,30}\))?, which\b"
)
SUBJECT = re.compile(
    r"^((?:An? |The |His |Her |Repeat |Repeated )?(?:[\w’'/-]+ ){0,6}?[\w’'/-]+)(?:\s\([^()]{1,20}\))? (?:showed|"
    r"revealed|demonstrated|disclosed|suggested|confirmed|detected)\b"
)
IT_SHOWED = re.compile(
    r"^(It|This) (?:also )?(?:showed|revealed|demonstrated|disclosed|suggested|confirmed|detected)\b"
)


def patient_phrase(view: NoteView) -> str:
    """The note's phrase for the patient, such as "36-year-old female"; "" if it has none or several patients."""
    if SEVERAL.search(view.text):
        return ""
    if view.header.get("PATIENT"):
        return view.header["PATIENT"]
    match = next(filter(None, (WHO.search(s.text) for s in view.sentences[:3])), None)
    return match[1] if match else "patient" if PATIENT.search(view.text) else ""


def patient_gender(view: NoteView) -> str:
    """The patient's gender by noun and pronouns, or "" if they disagree."""
    phrase = patient_phrase(view)
    by_noun = "female" if FEMALE.search(phrase) else "male" if MALE.search(phrase) else ""
    used = {word.lower() for s in view.sentences for word in PRONOUN.findall(s.text) if not OTHERS.search(s.text)}
    by_pronouns = {gender for gender, words in HE.items() if used & set(words)}
    if len(by_pronouns) > 1 or (by_noun and by_pronouns and by_pronouns != {by_noun}):
        return ""
    return by_noun or next(iter(by_pronouns), "")


def pronouns(view: NoteView) -> list[str]:
    """A slot for each pronoun that can only refer to the patient."""
    gender = patient_gender(view)
    if not gender or not patient_phrase(view):
        return []
    found = []
    for previous, sentence in zip((None, *view.sentences), view.sentences, strict=False):
        near = f"{previous.text if previous else ''} {sentence.text}"
        match = PRONOUN.search(sentence.text)
        if match and match[0].lower() in HE[gender] and not OTHERS.search(near) and len(sentence.text) < 240:
            found.append(slot(match[0], sentence))
    return found


def slot(mention: str, sentence: Sentence) -> str:
    return f"“{mention}” in this sentence: “{sentence.text}”"


SLOT = re.compile(r"“([^”]+)” in this sentence: “(.+)”", re.DOTALL)


def read_slot(view: NoteView, text: str) -> tuple[str, Sentence] | None:
    match = SLOT.fullmatch(text)
    sentence = next((s for s in view.sentences if match and s.text == match[2]), None)
    return (match[1], sentence) if match and sentence else None


def resolve_pronoun(view: NoteView, text: str) -> str:
    if text not in pronouns(view):
        return NOT_STATED
    mention = SLOT.fullmatch(text)
    pronoun = mention[1] if mention else text
    return f"“{pronoun}” refers to the patient, introduced in the note as “{patient_phrase(view)}.”"


def antecedent(view: NoteView, sentence: Sentence, head: str, start: int) -> tuple[str, Sentence] | None:
    """The nearest indefinite phrase with the same head before offset `start` of the sentence, and its sentence.

    Searched are the sentence and up to six before it in the same section. None if several phrases are equally near.
    """
    singular = head.rstrip("s") if head.endswith("s") and not head.endswith(("ss", "sis", "us")) else head
    pattern = re.compile(INDEFINITE + rf"{re.escape(singular)}(?:s|es)?\b(?!-)", re.IGNORECASE)
    earlier = [s for s in view.sentences[max(0, sentence.index - 6) : sentence.index] if s.section == sentence.section]
    for where, text in ((sentence, sentence.text[:start]), *((s, s.text) for s in reversed(earlier))):
        phrases = [m[0] for m in pattern.finditer(text) if not NOUN_STOP.search(m[0])]
        if len(phrases) == 1:
            return phrases[0], where
        if phrases:
            return None
    return None


def definites(view: NoteView) -> list[str]:
    found = []
    for sentence in view.sentences:
        match = DEFINITE.search(sentence.text)
        if match and len(sentence.text) < 260 and antecedent(view, sentence, match[1], match.start()):
            found.append(slot(match[0], sentence))
    return found


def resolve_definite(view: NoteView, text: str) -> str:
    read = read_slot(view, text)
    match = DEFINITE.search(read[1].text) if read else None
    found = antecedent(view, read[1], match[1], match.start()) if read and match and match[0] == read[0] else None
    if not found or not read:
        return NOT_STATED
    phrase, where = found
    place = "earlier in the same sentence" if where.index == read[1].index else f"in: {quote(where.text)}"
    return f"“{read[0]}” refers to “{phrase}”, mentioned {place}" + ("" if place[-1] == "”" else ".")


def relatives(view: NoteView) -> list[str]:
    return [
        slot("which", s)
        for s in view.sentences
        if len(RELATIVE.findall(s.text)) == 1 and s.text.count("which") == 1 and len(s.text) < 300
    ]


def resolve_relative(view: NoteView, text: str) -> str:
    read = read_slot(view, text)
    match = RELATIVE.search(read[1].text) if read and read[0] == "which" else None
    phrase = innermost(match[1]) if match else ""
    return f"“which” refers to “{phrase}.”" if phrase else NOT_STATED


def innermost(phrase: str) -> str:
    """The last noun phrase of a match that begins too early: "the patient underwent a CT scan" -> "a CT scan"."""
    return re.split(r"\s(?=(?:an?|the|his|her)\s)", phrase)[-1]


def it_mentions(view: NoteView) -> list[str]:
    found = []
    for previous, sentence in zip(view.sentences, view.sentences[1:], strict=False):
        match = IT_SHOWED.match(sentence.text)
        if match and previous.section == sentence.section and SUBJECT.match(previous.text) and len(sentence.text) < 260:
            found.append(slot(match[1], sentence))
    return found


def resolve_it(view: NoteView, text: str) -> str:
    if text not in it_mentions(view):
        return NOT_STATED
    read = read_slot(view, text)
    subject = SUBJECT.match(view.sentences[read[1].index - 1].text) if read else None
    return f"“{read[0]}” refers to “{subject[1]}”, from the sentence before." if read and subject else NOT_STATED


def list_mentions(view: NoteView) -> str:
    """The answer with all expressions by which the note refers to the patient, or NOT_STATED."""
    phrase, gender = patient_phrase(view), patient_gender(view)
    if not phrase or not gender:
        return NOT_STATED
    texts = [s.text for s in view.sentences if not OTHERS.search(s.text)]
    nouns = unique([m.lower() for text in texts for m in PATIENT.findall(text)])
    words = unique([m.lower() for text in texts for m in PRONOUN.findall(text) if m.lower() in HE[gender]])
    return (
        "The note refers to the patient as " + "; ".join(f"“{mention}”" for mention in [phrase, *nouns, *words]) + "."
    )


def section_mentions(view: NoteView) -> list[str]:
    gender = patient_gender(view)
    return [name for name in view.sections if gender and patient_phrase(view) and count_in(view, name, gender)[0] >= 2]


def count_in(view: NoteView, section: str, gender: str) -> tuple[int, list[str]]:
    texts = [s.text for s in view.section(section) if not OTHERS.search(s.text)]
    found = [m.lower() for text in texts for m in PRONOUN.findall(text) if m.lower() in HE.get(gender, ())]
    return len(found), unique(found)


def resolve_section(view: NoteView, section: str) -> str:
    gender = patient_gender(view)
    if section not in section_mentions(view):
        return NOT_STATED
    words = count_in(view, section, gender)[1]
    mentions = " and ".join(f"“{word}”" for word in words[:3])
    verb = "refers" if len(words) == 1 else "refer"
    return f"{mentions} under {section} {verb} to the patient, introduced as “{patient_phrase(view)}.”"


def who_is_patient(view: NoteView) -> str:
    phrase = patient_phrase(view)
    return f"“The patient” refers to the {phrase}." if phrase not in ("", "patient") else NOT_STATED


COREFERENCE_FORMS = (
    Form(("Who is meant by {}", "To whom does the pronoun refer: {}"), pronouns, resolve_pronoun),
    Form(("What does the note mean by {}", "Which earlier mention does this phrase take up: {}"), definites,
    resolve_definite),
    Form(("What does the relative pronoun refer to: {}",), relatives, resolve_relative),
    Form(("What does this word point back to: {}",), it_mentions, resolve_it),
    Form(
        ("List all expressions by which the note refers to the patient.",
        "Collect the coreference chain of the patient: every kind of mention in the note."),
        lambda view: [""],
        lambda view, _: list_mentions(view),
    ),
    Form(("To whom do the personal pronouns under {} refer?", "Resolve the personal pronouns in the section {}."),
    section_mentions, resolve_section),
    Form(
        ("Who is the patient in this note?",),
        lambda view: [""],
        lambda view, _: who_is_patient(view),
    ),
    Form(
        ("Whom does the note mean by the patient's {}?",),
        lambda view: [],
        lambda view, relative: mentioned(view, relative),
        absent=("brother", "sister", "uncle", "daughter", "husband", "wife"),
    ),
)  # fmt: skip


def mentioned(view: NoteView, relative: str) -> str:
    found = view.containing(relative) or view.containing(relative + "s")
    return found[0].text if found else NOT_STATED
