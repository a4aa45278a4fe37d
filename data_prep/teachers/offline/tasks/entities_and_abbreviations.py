"""Named Entity Recognition and Abbreviation Expansion.

No form asks for every entity of a note, because a word list cannot know all of them: the forms ask for a number of
entities, for the type of one, or for what a sentence states in a form that patterns cover completely.
"""

import re

from data_prep.clinical_text.entities import KIND_OF
from data_prep.clinical_text.time_phrases import find_times
from data_prep.clinical_text.vocabulary.lexicon import QUALIFIERS, UNITS
from data_prep.clinical_text.words import word_set
from data_prep.teachers.offline.note_view import NOT_STATED, NoteView, Sentence, per_note, quote, unique
from data_prep.teachers.offline.tasks.forms import Form, once
from data_prep.teachers.offline.tasks.statements import affirmed, denied_in, specific

TYPES = {
    "drug": "medication",
    "problem": "problem (symptom, sign or disease)",
    "test": "test",
    "procedure": "procedure",
    "anatomy": "body part",
}
# Substances of the body and of food, which are drugs only at times.
NOT_GIVEN = word_set("""
glucose oxygen iron calcium potassium sodium albumin cortisol alcohol testosterone contrast estrogen oestrogen
progesterone thyroxine water magnesium phosphate zinc copper caffeine nicotine cocaine heroin cannabis methanol
ethanol urea insulin vitamin folate creatine antibiotics bicarbonate lactate mercury formalin gelatin silicone
cement saline plasma platelets hormone hormones vaccine gadolinium chloride histamine dopamine serotonin adrenaline
epinephrine norepinephrine noradrenaline aldosterone renin melatonin lead nitrogen helium carbon ammonia
catecholamines catecholamine steroid opioid opioids immunoglobulin immunoglobulins gas fluorescein formaldehyde
dextrose vasopressin erythropoietin enzyme enzymes interferon methicillin
""")
AMBIGUOUS = re.compile(
    r"^(?:sinus(?:es)?|pulse|stents?|bypass|necks?|foot|feet|hands?|leak\w*|head|arms?|back|body|root|crown|valve)$"
    r"|scopy|graphy|gram$|biops|aspirat|puncture|cathet|culture|lavage|stain|screen|smear|evaluation|monitoring",
    re.IGNORECASE,
)
MEASUREMENT = re.compile(
    r"(?<![\w./-])[<>≥≤~]?\s?\d[\d.,]*(?:\s?(?:[x×X*/–-]|to)\s?\d[\d.,]*){0,2}\s?(?:mg/kg(?:/day|/d)?|mg/m2|mg/d[lL]|"
    r"g/d[lL]|[mµμn]g/m[lL]|ng/dL|pg/m[lL]|[mµμ]?mol/[lL]|m?IU/m?[lL]|U/L|mEq/L|cells/mm3|/mm3|/µ[lL]|/μ[lL]|"
    r"mm\s?/?\s?(?:of )?[Hh]g|mm/h(?:r|our)?|beats per minute|beats/min|bpm|kg/m2|mg/day|g/day|mg|mcg|µg|μg|kg|m[lL]|"
    r"cm|mm|%|°\s?C|℃)(?![\w/²³]| ?[23]\b| ?/)"
)
FULL_DOSE = re.compile(
    r"(?:,| at a dose of| at| \(| dose of)? ?\(?((?:\d[\d.,]*(?:\s?[-–]\s?\d[\d.,]*)?)\s?(?:mg|g|mcg|µg|μg|"
    r"million units|IU|units?|mL|ml|mEq|mmol)(?:/(?:kg|m2|m²|day|d|h|hour|dose|week|min))*(?![/²\w])(?:,? (?:(?:once|"
    r"twice|three times|four times|every (?:\d+|six|eight|twelve) hours|\d+[- ]hourly|q ?\d+ ?h|(?:per|a|each) (?:day|"
    r"week|dose|hour|month)|daily|orally|intravenously|IV|weekly|monthly|bid|tid|qd|qid|b\.?d\.?|body weight|in (?:two|"
    r"three|four) divided doses)(?![\w/])))*)\)?(?! ?(?:/|per |every |q ?\d|\d+ ?-?hourly|[bt]\.?[id]\.?))",
    re.IGNORECASE,
)


# What makes a drug's name one of a medication: that it is given. Not "susceptible to penicillin", "G-CSF staining".
GIVEN = re.compile(
    r"\b(?:g[ai]ve[ns]?|giving|treat\w*|start\w*|receiv\w*|administ\w*|prescrib\w*|tak(?:es?|en|ing)|took|therap\w+"
    r"|medicat\w*|dos(?:es?|age)|add(?:ed|ing|ition)|switched|initiat\w*|commenc\w*|continu\w*|discontinu\w*|stopped"
    r"|infus\w*|inject\w*|regimen|course of|mg|mcg|µg|units?|on)\b",
    re.IGNORECASE,
)
NOT_A_MEDICATION = re.compile(
    r"(?:(?:suscepti\w+|sensitiv\w+|resistan\w+|allerg\w+) (?:to|for) (?:[\w-]+,? (?:and |or )?){0,4}"
    r"|levels? of |for |serum |plasma |decline of )$",
    re.IGNORECASE,
)
TESTED = re.compile(
    r"[- ](?:suscepti|sensitiv|resistan|agar|plate|levels?\b|antibod|receptor|respons|defici|stain|positiv"
    r"|negativ|challenge|test)",
    re.IGNORECASE,
)


def is_given(sentence: Sentence, start: int, end: int) -> bool:
    """Return True if the drug named at [start, end) of a sentence is surely one that the patient got."""
    return bool(
        GIVEN.search(sentence.text)
        and not NOT_A_MEDICATION.search(sentence.text[:start])
        and not TESTED.match(sentence.text, end)
    )


def lines(items: list[str]) -> str:
    return "; ".join(items) + "." if items else NOT_STATED


def medications(sentences: list[Sentence]) -> list[str]:
    """The distinct drugs that are surely medications here."""
    found = [
        e.text
        for s in sentences
        for e in s.entities
        if e.kind == "drug" and not set(re.split(r"[\s-]", e.text.lower())) & NOT_GIVEN and is_given(s, e.start, e.end)
    ]
    return unique([name for name in found if len(name) > 4 and not name.endswith(("treatment", "therapy"))])


def name_three(names: list[str]) -> str:
    return lines(names[:3]) if len(names) >= 3 else NOT_STATED


def sections_with_medication(view: NoteView) -> list[str]:
    return [name for name in view.sections if medications(view.section(name))]


@per_note
def typed(view: NoteView) -> list[str]:
    """The terms with one undoubted type: an entry of the word lists that the note never denies."""
    entities = [e for s in view.prose for e in s.entities if KIND_OF.get(e.text.lower()) == e.kind and specific(e.text)]
    denied_terms = {e.term for e in entities if e.negated}
    entities = [
        e for e in entities if e.term not in denied_terms and (e.kind != "problem" or e.text in present_names(view))
    ]
    return unique([e.text for e in entities if not AMBIGUOUS.search(e.text) and e.text.lower() not in NOT_GIVEN])


def type_of(view: NoteView, term: str) -> str:
    if term not in typed(view):
        return NOT_STATED
    return f"{term[0].upper()}{term[1:]}: {TYPES[KIND_OF[term.lower()]]}."


def measurements(text: str) -> list[str]:
    """The measurements of a sentence, if they and its times are all of its numbers; otherwise []."""
    found = [match[0].strip() for match in MEASUREMENT.finditer(text)]
    rest = MEASUREMENT.sub("", text)
    for time in find_times(rest):
        rest = rest.replace(time.text, "")
    return [] if re.search(r"\d", rest) else found


def measured(view: NoteView) -> list[str]:
    return [s.text for s in view.prose if len(s.text) < 320 and len(measurements(s.text)) >= 2]


def exactly(view: NoteView, text: str) -> Sentence | None:
    """The sentence of the note with this text."""
    return next((s for s in view.sentences if s.text == text), None)


def from_sentence(view: NoteView, text: str, items: list[str]) -> str:
    return lines(items) if exactly(view, text) else NOT_STATED


def denied_answer(view: NoteView, text: str) -> str:
    sentence = exactly(view, text)
    items = denied_in(sentence) if sentence else []
    return f"Stated to be absent: {lines(items)}" if items else NOT_STATED


def present_names(view: NoteView) -> list[str]:
    return unique([entity.text for entity, _ in affirmed(view)])


NER_FORMS = (
    Form(("Name three medications that the note mentions.", "Give three drug names from this note."),
        *once(lambda view: name_three(medications(view.prose)))),
    Form(("Name three symptoms, signs or diseases that the note states as present.",
        "Extract three problems of the patient from this note."),
        *once(lambda view: name_three(present_names(view)))),
    Form(("Name a medication that is mentioned under {}.",), sections_with_medication,
        lambda view, section: lines(medications(view.section(section))[:1])),
    Form(("What type of entity is “{}” in this note: medication, problem, test, procedure or body part?",
        "Classify the term “{}” of this note as medication, problem, test, procedure or body part."), typed, type_of,
        rare=True),
    Form(("Extract every measurement with its unit from this sentence: “{}”",
        "Which measurements does this sentence give: “{}”"), measured,
        lambda view, text: from_sentence(view, text, measurements(text))),
    Form(("Which findings does this sentence state to be absent: “{}”", "List what this sentence denies: “{}”"),
        lambda view: [s.text for s in view.prose if denied_in(s)], denied_answer),
)  # fmt: skip

# ---------------------------------------------------------------- abbreviations

ORDINARY_ENDINGS = (
    "al", "ic", "ive", "ary", "ed", "ing", "ion", "phy", "ous", "ity", "ular", "osis", "itis", "oma", "ory", "ase",
    "ment", "our", "ness", "white", "ist", "ulin", "ate", "ent", "sis",
)  # fmt: skip
# Abbreviations that notes use without definition, with the beginnings of their long forms.
COMMON = {
    "CT": "comput", "MRI": "magnetic", "ECG": "electrocard", "EKG": "electrocard", "EEG": "electroenc",
    "PET": "positron", "ICU": "intensive",
    "BMI": "body mass", "CRP": "reactive", "ESR": "sedimentation", "WBC": "white", "AST": "aspart", "ALT": "alanin",
    "LDH": "lact", "PCR": "polymerase",
    "CSF": "cerebrosp", "EMG": "electromy", "ERCP": "retrograde",
    "MRCP": "cholangio", "TSH": "thyroid", "INR": "normali",
    "AFP": "feto", "CEA": "embryonic", "DNA": "deoxy",
    "RNA": "ribo", "IVF": "fertil",
}  # fmt: skip
# Letters and digits with a capital that is not the first of a plain word: "LCx", "S8", "CT".
ABBREVIATION = re.compile(
    r"(?<![\w-])(?:[A-Za-z]*[A-Z][A-Za-z]*[A-Z]\w*|[A-Z]{2,}\w*|[A-Z][a-z]?\d+|[a-z]+[A-Z]\w*|"
    r"[A-Z]{1,}[a-z]?[A-Z]?[a-z]*x)(?![\w])"
)
SMALL_WORDS = word_set("""of the and in for to with on a an by""")


def lower_first(text: str) -> str:
    """A long form as it reads inside a sentence: the initial in lower case if the first word is surely not a name.

    "Magnetic" becomes "magnetic", but "Bartter" stays.
    """
    first = re.split(r"[\s-]", text)[0]
    small = first.lower()
    known = small in QUALIFIERS or small in KIND_OF or small.endswith(ORDINARY_ENDINGS)
    # "Intensive Care Unit" is written like a name.
    like_name = re.search(r"[\s-][A-Z][a-z]", text) or not first[1:].islower()
    return text if like_name or not known else text[0].lower() + text[1:]


@per_note
def defined(view: NoteView) -> dict[str, str]:
    """The definitions whose letters surely match: each letter begins a word or a part of a compound, in order."""
    return {short: lower_first(long) for short, long in view.abbreviations.items() if spells(short, long)}


def spells(short: str, long: str) -> bool:
    letters = [letter.lower() for letter in short.rstrip("s") if letter.isalpha()]
    words = [word.lower() for word in re.split(r"[\s/-]+", long) if word]
    content = [word for word in words if word not in SMALL_WORDS]
    if len(letters) < 2 or re.search(r"[\d-]", short) or re.search(r"[()\[\]:;]", long):
        return False
    initials = [word[0] for word in words], [word[0] for word in content]
    return letters in initials or (len(words) == 1 and len(letters) > 1 and words[0][0] == letters[0])


@per_note
def undefined(view: NoteView) -> list[str]:
    """Common abbreviations that the note uses without their long form."""
    return [short for short in view.undefined if short in COMMON and COMMON[short].lower() not in view.text.lower()]


def expand(view: NoteView, short: str) -> str:
    if short in defined(view):
        return f"{short} stands for {defined(view)[short]}."
    return f"The note uses {short} but does not spell it out." if short in undefined(view) else NOT_STATED


def shorten(view: NoteView, long: str) -> str:
    short = next((short for short, full in defined(view).items() if full == long), "")
    return f"The note abbreviates {long} as {short}." if short else NOT_STATED


def list_defined(view: NoteView, count: int) -> str:
    pairs = [f"{short}: {long}" for short, long in defined(view).items()]
    return lines(pairs[:count]) if len(pairs) >= count else NOT_STATED


def expandable_sentences(view: NoteView) -> list[str]:
    """The sentences with defined abbreviations, all of which can be written out."""
    return [
        s.text
        for s in view.prose
        if len(s.text) < 350
        and (written := write_out(view, s.text)) != s.text
        and not any(f"({short}" in view.text or f"{short} (" in view.text for short in ABBREVIATION.findall(written))
    ]


def write_out(view: NoteView, sentence: str) -> str:
    """The sentence with each defined short form replaced by its long form; unchanged if it defines one itself."""
    for short, long in defined(view).items():
        if f"({short}" in sentence or long.lower() in sentence.lower():
            continue
        long = long.replace("\\", "")
        article = "n" if long[0].lower() in "aeio" else ""
        sentence = re.sub(rf"\b([Aa])n? {re.escape(short)}(?![\w/-])", rf"\g<1>{article} {long}", sentence)
        sentence = re.sub(rf"(?<![\w/-]){re.escape(short)}(?![\w/-])", long, sentence)
    return sentence


def write_out_answer(view: NoteView, sentence: str) -> str:
    written = write_out(view, sentence)
    return written[0].upper() + written[1:] if exactly(view, sentence) else NOT_STATED


UNIT = re.compile(r"\d\s?(" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")(?![\w/²³]| ?[23]\b)")


def units_used(view: NoteView) -> list[str]:
    return list(dict.fromkeys(unit for s in view.prose for unit in UNIT.findall(s.text) if len(unit) > 1))


def expand_unit(view: NoteView, unit: str) -> str:
    where = next((s.text for s in view.prose if unit in UNIT.findall(s.text)), "")
    if unit not in UNITS or not where:
        return NOT_STATED
    return f"{unit} stands for {UNITS[unit]}." + (f" It appears in: {quote(where)}" if len(where) < 260 else "")


ABBREVIATION_FORMS = (
    Form(("What does {} stand for in this note?", "Expand the abbreviation {} as far as the note does.",
        "The note uses the short form {}. What is its long form?"),
        lambda view: [*defined(view), *undefined(view)[: max(1, len(defined(view)))]], expand),
    Form(("Which abbreviation does the note use for “{}”?", "How is “{}” abbreviated in the note?"),
        lambda view: [long for long in defined(view).values() if long.lower() in view.text.lower()], shorten),
    Form(("Name two abbreviations that the note spells out, with their long forms.",),
        *once(lambda view: list_defined(view, 2))),
    Form(("Name an abbreviation that the note spells out, with its long form.",),
        *once(lambda view: list_defined(view, 1))),
    Form(("Write this sentence out in full, without the abbreviations that the note defines: “{}”",),
        expandable_sentences, write_out_answer),
    Form(("What does the unit {} mean in this note?", "Write out the unit {} as it is used in the note."),
        units_used, expand_unit, rare=True),
)  # fmt: skip
