"""Named Entity Recognition and Abbreviation Expansion."""

import re

from data_prep.clinical_text.entities import KIND_OF, Entity
from data_prep.clinical_text.vocabulary.lexicon import QUALIFIERS, UNITS
from data_prep.teachers.offline.note_view import (
    NOT_STATED,
    NoteView,
    Sentence,
    join_words,
    quote,
    sentence_case,
    unique,
    word_pattern,
)
from data_prep.teachers.offline.tasks.forms import Form

PLURALS = {
    "drug": "medications",
    "problem": "problems",
    "test": "tests",
    "procedure": "procedures and treatments",
    "anatomy": "anatomical sites",
}
LONGEST_LIST = 24
MEASUREMENT = re.compile(
    r"(?<![\w./-])[<>≤≥~]?\s?\d[\d.,]*(?:\s?(?:[x×X*/–-]|to)\s?\d[\d.,]*){0,2}\s?(?:mg/kg(?:/day|/d)?|mg/m2|mg/d[lL]|"
    r"g/d[lL]|[mµμn]g/m[lL]|ng/dL|pg/m[lL]|[mµμ]?mol/[lL]|"
    r"m?IU/m?[lL]|U/L|mEq/L|cells/mm3|/mm3|/µ[lL]|/μ[lL]|mm\s?/?\s?(?:of )?[Hh]g|mm/h(?:r|our)?|beats per minute"
    r"|bpm|kg/m2"
    r"|mg/day|"
    r"g/day|mg|mcg|µg|μg|g|kg|m[lL]|L|cm|mm|%|°\s?C|℃|Gy)(?![\w/])"
)
DOSE = re.compile(
    r"^[^,;.]{0,25}?(\(?\b\d[\d.,]*\s?(?:[-–]\s?\d[\d.,]*\s?)?(?:mg|g|mcg|µg|μg|micrograms?|million units|IU|units?|"
    r"U|mL|ml|mEq|mmol)(?:/(?:kg|m2|m²|day|d|h|hour|dose|week|min))*(?![/²])(?: per (?:kg|day|week|hour|dose))?\b\)?"
    r"(?:,? (?:once|twice|three times|four times|every \w+(?: \w+)?|per|a|daily|orally|intravenously|IV|weekly|"
    r"monthly|bid|tid|day|week|in|divided|doses)\b)*)"
)


def entity_names(sentences: list[Sentence], *kinds: str, negated: bool = False) -> list[str]:
    """The distinct entities of these kinds; `negated` selects the denied problems instead of the affirmed ones."""
    found = [
        e.text
        for s in sentences
        for e in s.entities
        if e.kind in kinds and (e.kind != "problem" or e.negated == negated)
    ]
    return unique(found)


def denied_names(sentences: list[Sentence]) -> list[str]:
    """The problems that are denied wherever they are named."""
    present = {name.lower() for name in entity_names(sentences, "problem")}
    return [name for name in entity_names(sentences, "problem", negated=True) if name.lower() not in present]


def listing(label: str, items: list[str]) -> str:
    return f"{label}: {'; '.join(items)}." if items else NOT_STATED


def list_kind(kind: str, view: NoteView) -> str:
    sentences = list(view.sentences)
    answer = listing(PLURALS[kind].capitalize(), entity_names(sentences, kind))
    denied = denied_names(sentences) if kind == "problem" else []
    return answer + (f" Stated to be absent: {'; '.join(denied)}." if denied and answer != NOT_STATED else "")


def whole_note_slots(kind: str, view: NoteView) -> list[str]:
    return [""] if 1 <= len(entity_names(list(view.sentences), kind)) <= LONGEST_LIST else []


def sections_naming(view: NoteView, *kinds: str) -> list[str]:
    return [name for name in view.sections if 2 <= len(entity_names(view.section(name), *kinds)) <= LONGEST_LIST]


def name_in_section(view: NoteView, section: str, *kinds: str) -> str:
    sentences = view.section(section)
    lists = [listing(PLURALS[kind].capitalize(), entity_names(sentences, kind)) for kind in kinds]
    if "problem" in kinds:
        denied = denied_names(sentences)
        lists += [f"Stated to be absent: {'; '.join(denied)}."] if denied else []
    return " ".join(text for text in lists if text != NOT_STATED) or NOT_STATED


def sentences_naming(view: NoteView) -> list[str]:
    return [s.text for s in view.sentences if len(s.entities) >= 3 and len(s.text) < 300]


def name_in_sentence(view: NoteView, text: str) -> str:
    """Each entity with its kind, in the order of the sentence."""
    sentence = next((s for s in view.sentences if s.text == text), None)
    names = {"anatomy": "anatomical site"}

    def label(entity: Entity) -> str:
        kind = names.get(entity.kind, entity.kind)
        return f"{entity.text} ({kind}{', stated to be absent' if entity.negated else ''})"

    labels = unique([label(entity) for entity in sentence.entities]) if sentence else []
    return "; ".join(labels) + "." if labels else NOT_STATED


def list_denied(view: NoteView) -> str:
    return listing("Stated to be absent", denied_names(list(view.sentences)))


def drugs_with_doses(view: NoteView) -> list[str]:
    found = []
    for sentence in view.sentences:
        for entity in sentence.entities:
            dose = DOSE.match(sentence.text[entity.end :]) if entity.kind == "drug" else None
            if dose and not any(other.kind == "drug" and other.start > entity.start for other in sentence.entities if
                                other.start < entity.end + dose.start(1)):  # fmt: skip
                found.append(f"{entity.text} {dose[1].strip('()')}")
    return unique(found)


def measurements(sentences: list[Sentence]) -> list[str]:
    return unique([match[0].strip() for sentence in sentences for match in MEASUREMENT.finditer(sentence.text)])


def measured_sections(view: NoteView) -> list[str]:
    return [name for name in view.sections if 2 <= len(measurements(view.section(name))) <= LONGEST_LIST]


NER_FORMS = (
    Form(
        ("List the medications that the note names.", "Which drugs does this note mention?"),
        lambda view: whole_note_slots("drug", view),
        lambda view, _: list_kind("drug", view),
        absent=("",),
    ),
    Form(
        (
            "List the symptoms and diagnoses in the note, and say which are stated to be absent.",
            "Extract every problem that the note names: symptoms, signs and diagnoses.",
        ),
        lambda view: whole_note_slots("problem", view),
        lambda view, _: list_kind("problem", view),
    ),
    Form(
        (
            "Which procedures and treatments are named in the note?",
            "Extract the procedures and treatments from this note.",
        ),
        lambda view: whole_note_slots("procedure", view),
        lambda view, _: list_kind("procedure", view),
        absent=("",),
    ),
    Form(
        (
            "Which tests and examinations does the note name?",
            "List the investigations and measured quantities named in the note.",
        ),
        lambda view: whole_note_slots("test", view),
        lambda view, _: list_kind("test", view),
    ),
    Form(
        ("Which anatomical sites are named under {}?",),
        lambda view: sections_naming(view, "anatomy"),
        lambda view, section: name_in_section(view, section, "anatomy"),
    ),
    Form(
        (
            "Extract the problems, procedures and medications named under {}.",
            "Which clinical entities (problems, procedures, medications) appear under {}?",
        ),
        lambda view: sections_naming(view, "problem", "procedure", "drug"),
        lambda view, section: name_in_section(view, section, "problem", "procedure", "drug"),
    ),
    Form(
        ("Mark the clinical entities in this sentence and give the type of each: “{}”",),
        sentences_naming,
        name_in_sentence,
    ),
    Form(
        (
            "Which symptoms, signs or diseases does the note state to be absent?",
            "List the negated findings in the note.",
        ),
        lambda view: [""],
        lambda view, _: list_denied(view),
        absent=("",),
    ),
    Form(
        ("List each medication in the note that has a dose, together with its dose.",),
        lambda view: [""],
        lambda view, _: listing("Medications with a dose", drugs_with_doses(view)),
        absent=("",),
    ),
    Form(
        ("Extract every measurement with its unit from {}.",),
        measured_sections,
        lambda view, section: listing("Measurements", measurements(view.section(section))),
    ),
)


# ---------------------------------------------------------------- abbreviations


ORDINARY_ENDINGS = (
    "al", "ic", "ive", "ary", "ed", "ing", "ion", "phy", "ous", "ity", "ular", "osis", "itis", "oma", "ory", "ase",
    "ment", "our", "ness", "white", "ness", "ist", "ulin", "ate", "ent", "sis",
)  # fmt: skip


def lower_first(text: str) -> str:
    """A long form as it reads inside a sentence: the initial in lower case if the first word is surely not a name.

    "Magnetic" becomes "magnetic", but "Bartter" stays.
    """
    first = re.split(r"[\s-]", text)[0]
    small = first.lower()
    known = small in QUALIFIERS or small in KIND_OF or small.endswith(ORDINARY_ENDINGS)
    return text[0].lower() + text[1:] if known and first[1:].islower() else text


def expand(view: NoteView, short: str) -> str:
    if short in view.abbreviations:
        return f"{short} stands for {lower_first(view.abbreviations[short])}."
    if short not in view.undefined:
        return NOT_STATED
    where = next((s.text for s in view.containing(short) if len(s.text) < 260), "")
    return f"The note uses {short} but does not spell it out." + (f" It appears in: {quote(where)}" if where else "")


def shorten(view: NoteView, long: str) -> str:
    short = next((short for short, full in view.abbreviations.items() if full.lower() == long.lower()), "")
    return f"The note abbreviates {long} as {short}." if short else NOT_STATED


def list_defined(view: NoteView) -> str:
    pairs = [f"{short}: {lower_first(long)}" for short, long in view.abbreviations.items()]
    return "; ".join(pairs) + "." if pairs else NOT_STATED


def section_shorts(view: NoteView, section: str) -> list[str]:
    text = " ".join(sentence.text for sentence in view.section(section))
    return [short for short in (*view.abbreviations, *view.undefined) if word_pattern(short).search(text)]


def expand_section(view: NoteView, section: str) -> str:
    shorts = section_shorts(view, section)
    known = [f"{short}: {lower_first(view.abbreviations[short])}" for short in shorts if short in view.abbreviations]
    unknown = [short for short in shorts if short not in view.abbreviations]
    answer = "; ".join(known) + "." if known else ""
    verb = "is" if len(unknown) == 1 else "are"
    return (
        answer + (f" {join_words(unknown)} {verb} used without being spelled out." if unknown else "")
    ).strip() or NOT_STATED


def expandable_sentences(view: NoteView) -> list[str]:
    return [s.text for s in view.sentences if len(s.text) < 350 and write_out(view, s.text) != s.text]


def write_out(view: NoteView, sentence: str) -> str:
    """The sentence with each defined short form replaced by its long form, and without the brackets of definitions."""
    for short, long in view.abbreviations.items():
        sentence = re.sub(rf"\s*\({re.escape(short)}\)(?!\w)", "", sentence) if long in sentence else sentence
        full = lower_first(long).replace("\\", "")
        sentence = re.sub(rf"(?<![\w-]){re.escape(short)}(?![\w-]|\s?\()", full, sentence)
    return sentence


def write_out_answer(view: NoteView, sentence: str) -> str:
    if not any(sentence == s.text for s in view.sentences):
        return NOT_STATED
    return sentence_case(write_out(view, sentence))


def list_undefined(view: NoteView) -> str:
    if not view.undefined:
        return NOT_STATED
    verb = "is" if len(view.undefined) == 1 else "are"
    return f"{join_words(list(view.undefined))} {verb} used without being spelled out."


UNIT = re.compile(r"\d\s?(" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")(?![\w/])")


def units_used(view: NoteView) -> list[str]:
    return list(dict.fromkeys(unit for s in view.sentences for unit in UNIT.findall(s.text)))


def expand_unit(view: NoteView, unit: str) -> str:
    where = next((s.text for s in view.sentences if unit in UNIT.findall(s.text)), "")
    if unit not in UNITS or not where:
        return NOT_STATED
    return f"{unit} stands for {UNITS[unit]}." + (f" It appears in: {quote(where)}" if len(where) < 260 else "")


ABBREVIATION_FORMS = (
    Form(
        ("What does {} stand for in this note?", "Expand the abbreviation {}.",
        "The note uses the short form {}. What is its long form?"),
        lambda view: [*view.abbreviations, *view.abbreviations, *view.undefined[:3]],
        expand,
        absent=("TAVI", "PCOS", "DVT", "GERD", "ARDS", "COPD", "BPH"),
    ),
    Form(
        ("Which abbreviation does the note use for “{}”?", "How is “{}” abbreviated in the note?"),
        lambda view: [lower_first(long) for long in view.abbreviations.values()],
        shorten,
    ),
    Form(
        ("List every abbreviation that the note spells out, with its long form.",
        "Make a key of the abbreviations that are defined in this note."),
        lambda view: [""],
        lambda view, _: list_defined(view),
        absent=("",),
    ),
    Form(
        ("Expand the abbreviations used under {} as far as the note defines them.",),
        lambda view: [name for name in view.sections if 1 <= len(section_shorts(view, name)) <= 12],
        expand_section,
    ),
    Form(
        ("Write this sentence out in full, without the abbreviations that the note defines: “{}”",),
        expandable_sentences,
        write_out_answer,
    ),
    Form(
        ("What does the unit {} mean in this note?", "Write out the unit {} as it is used in the note."),
        units_used,
        expand_unit,
    ),
    Form(
        ("Which abbreviations does the note use without spelling them out?",
        "Which short forms in this note would a reader have to look up elsewhere?"),
        lambda view: [""] if len(view.undefined) <= 15 else [],
        lambda view, _: list_undefined(view),
    ),
)  # fmt: skip
