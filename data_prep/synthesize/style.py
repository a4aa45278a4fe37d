"""Chart style, applied to a note after it was checked; every edit is recorded and can be undone.

    apply("The patient was given aspirin twice daily for hypertension.", rate=1.0, seed=0)
    -> "Pt given aspirin b.i.d. for HTN.", and four edits

There are three kinds of rules: abbreviations, lay words for technical ones, and clipped grammar. No rule changes a
number, a side or a negation, and every replacement has the same meaning.
"""

import json
import re
from dataclasses import astuple, dataclass

from data_prep.clinical_text.vocabulary.lexicon import PLAIN_WORDS
from data_prep.contract.errors import UserError
from data_prep.contract.records import seeded_fraction

ABBREVIATIONS = {
    "hypertension": "HTN",
    "diabetes mellitus": "DM",
    "coronary artery disease": "CAD",
    "congestive heart failure": "CHF",
    "chronic obstructive pulmonary disease": "COPD",
    "atrial fibrillation": "AF",
    "myocardial infarction": "MI",
    "urinary tract infection": "UTI",
    "deep vein thrombosis": "DVT",
    "pulmonary embolism": "PE",
    "shortness of breath": "SOB",
    "blood pressure": "BP",
    "heart rate": "HR",
    "respiratory rate": "RR",
    "oxygen saturation": "SpO2",
    "white blood cell count": "WBC",
    "hemoglobin": "Hb",
    "haemoglobin": "Hb",
    "platelet count": "plt",
    "computed tomography": "CT",
    "magnetic resonance imaging": "MRI",
    "electrocardiogram": "ECG",
    "chest x-ray": "CXR",
    "emergency department": "ED",
    "intensive care unit": "ICU",
    "intravenously": "i.v.",
    "intravenous": "i.v.",
    "orally": "p.o.",
    "subcutaneously": "s.c.",
    "intramuscularly": "i.m.",
    "once daily": "q.d.",
    "twice daily": "b.i.d.",
    "three times daily": "t.i.d.",
    "four times daily": "q.i.d.",
    "as needed": "p.r.n.",
    "history of": "h/o",
    "complained of": "c/o",
    "complains of": "c/o",
    "status post": "s/p",
    "year-old": "y/o",
    "postoperative": "postop",
    "preoperative": "preop",
    "examination": "exam",
    "diagnosis": "dx",
    "treatment": "tx",
    "symptoms": "sx",
    "fracture": "fx",
    "within normal limits": "WNL",
    "follow-up": "f/u",
    "laboratory": "lab",
    "medications": "meds",
    "bilateral": "b/l",
    "temperature": "temp",
    "admitted": "adm",
}
# Clipped grammar: words that a chart leaves out, only at the start of a sentence or line.
CLIPPED = (
    (r"(?:The|This) patient was (?=[a-z]+(?:ed|en|wn)\b)", "Pt "),
    (r"(?:The|This) patient (?=(?:had|has|is|underwent|received|reported|denied|developed|presented)\b)", "Pt "),
    (r"(?:She|He) was (?=(?:treated|given|started|admitted|discharged|transferred|seen|found)\b)", "Was "),
    (r"(?:She|He) (?=(?:underwent|received|denied|reported|developed|presented)\b)", ""),
    (r"There (?:was|were) (?=(?:mild|moderate|severe|marked|some|multiple)\b)", ""),
    (r"(?:On|Upon) (?:the )?physical examination,? ", "O/E: "),
)
KINDS = ("abbreviation", "lay", "clipped")
START = r"(?:(?<=^)|(?<=\. )|(?<=\n)|(?<=- ))"


@dataclass(frozen=True)
class Edit:
    """A replacement of `old` by `new`, at offset `start` of the styled text."""

    kind: str
    start: int
    old: str
    new: str


def rules() -> list[tuple[str, re.Pattern[str], dict[str, str] | str]]:
    def any_of(words: dict[str, str]) -> re.Pattern[str]:
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        return re.compile(rf"(?<![\w/-])(?:{'|'.join(longest_first)})(?![\w/-])", re.IGNORECASE)

    lay = {word: plain for word, plain in PLAIN_WORDS.items() if word not in ABBREVIATIONS}
    listed: list[tuple[str, re.Pattern[str], dict[str, str] | str]] = [
        ("abbreviation", any_of(ABBREVIATIONS), ABBREVIATIONS),
        ("lay", any_of(lay), lay),
    ]
    return listed + [("clipped", re.compile(START + pattern, re.MULTILINE), new) for pattern, new in CLIPPED]


RULES = rules()


def apply(text: str, rate: float, seed: int, name: str = "") -> tuple[str, list[Edit]]:
    """The styled text and its edits, sorted by position.

    `rate` is the fraction of eligible phrases to edit, drawn by a hash of `seed`, `name` and position.
    """
    taken: list[tuple[int, int, str, str, str]] = []  # start, end in the old text, kind, old, new
    for kind, pattern, replacements in RULES:
        for match in pattern.finditer(text):
            start, end = match.span()
            if any(start < other_end and other_start < end for other_start, other_end, *_ in taken):
                continue
            # Headings stay unchanged, because sections are found by them.
            if match[0].isupper() or seeded_fraction(seed, "style", name, start) >= rate:
                continue
            new = replacements if isinstance(replacements, str) else replacements[match[0].lower()]
            taken.append((start, end, kind, match[0], like(match[0], new)))
    styled, edits, last = "", [], 0
    for start, end, kind, old, new in sorted(taken):
        styled += text[last:start]
        edits.append(Edit(kind, len(styled), old, new))
        styled += new
        last = end
    return styled + text[last:], edits


def like(old: str, new: str) -> str:
    """`new` with a capital if `old` has one, except for abbreviations."""
    if old[:1].isupper() and new[:1].islower() and "." not in new and "/" not in new:
        return new[:1].upper() + new[1:]
    return new


def undo(styled: str, edits: list[Edit]) -> str:
    """The text before its edits. Raises ValueError if the edits do not match the text."""
    text, last = "", 0
    for edit in edits:
        if styled[edit.start : edit.start + len(edit.new)] != edit.new:
            raise ValueError(f"{edit.new!r} is not at offset {edit.start}")
        text += styled[last : edit.start] + edit.old
        last = edit.start + len(edit.new)
    return text + styled[last:]


def to_json(edits: list[Edit]) -> str:
    return json.dumps([astuple(edit) for edit in edits], ensure_ascii=False) if edits else ""


def from_json(text: str) -> list[Edit]:
    return [Edit(*values) for values in json.loads(text)] if text else []


def check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise UserError(f"--style {rate}: must be from 0 to 1, the fraction of phrases to edit")
