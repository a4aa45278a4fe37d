"""Rules that find identifiers of a person in a generated or a real text.

The kinds are those of the HIPAA safe harbour that a regular expression can detect. A published report may state an age
or a date, so finding one does not prove a leak; nobody publishes a patient's phone number or record number on purpose.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.clinical_text.number_words import MONTH
from data_prep.clinical_text.words import word_set


@dataclass(frozen=True)
class Found:
    kind: str
    text: str
    start: int


WRITTEN_MONTH = rf"{MONTH}\.?"
CAPITALIZED = r"[A-Z][a-zà-ÿ]+(?:[-'’]?[A-Z][a-zà-ÿ]+)?"
TITLES = r"(?:(?:Drs?|Prof|Mrs?|Ms)\b\.?\s+)+"
# "Patient name: Smith" and "Name: Smith", but not "Model name: Sigma".
NAME_LABEL = (
    r"(?:(?:[Pp]atient|[Dd]octor|[Pp]hysician|[Pp]rovider|[Ss]urgeon)(?:'s)? name|PATIENT NAME"
    r"|\b(?:[Ff]ull|[Ff]irst|[Ll]ast|[Mm]iddle|[Gg]iven|[Ff]amily|[Mm]aiden) name|(?<![\w'] )(?<![\w']  )[Nn]ame)"
)
RULES = {
    # "Dr. Smith", "Mrs Jane Doe"; not "Dr. in charge". "Miss" is left out, because it also begins sentences.
    "name": re.compile(
        rf"\b{TITLES}(?:[A-Z]\.\s*)*{CAPITALIZED}(?:\s+{CAPITALIZED})?"
        rf"|\b{NAME_LABEL}\s*:\s*{CAPITALIZED}(?:\s+{CAPITALIZED})?"
        rf"|\b(?:[Dd]ictated|[Ss]igned|[Ss]een|[Rr]eviewed|[Aa]ttested) by:?\s+(?:[A-Z]\.\s*)*{CAPITALIZED}\s+"
        rf"{CAPITALIZED}"
    ),
    "e-mail": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "phone": re.compile(
        r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(\d{3}\)\s?\d{3}[ .-]\d{4}|"
        r"\d{3}[.-]\d{3}[.-]\d{4})(?![\w-])"
        r"|\b(?:[Pp]hone|[Tt]el(?:ephone)?|[Ff]ax|[Pp]ager)\b\.?\s*(?:no\.?|number|#)?\s*:?\s*\(?\+?\d[\d ().-]{5,}\d"
    ),
    "social security number": re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"),
    "record number": re.compile(
        r"\b(?:MRN|[Mm]edical [Rr]ecord|[Rr]ecord|[Aa]ccession|[Aa]ccount|[Aa]dmission|[Hh]ospital|[Cc]hart|[Pp]atient"
        r"|MEDICAL RECORD)\s*(?:[Nn]o\.?|[Nn]umber|NUMBER|[Ii][Dd]|#)\s*[:#]?\s*[A-Z]{0,3}-?\d{4,}"
        r"|\bMRN\s*[:#]?\s*\d{4,}"
    ),
    "address on the web": re.compile(r"\b(?:https?://|www\.)\S+|(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "street": re.compile(
        rf"\b\d{{1,5}}\s+(?:{CAPITALIZED}\s+){{1,3}}(?:Street|St\.|Avenue|Ave\.|Road|Rd\.|Boulevard|Blvd\.|Lane|Drive)\b"
    ),
    "age over 89": re.compile(
        r"\b(?:9\d|1[01]\d)[- ]?(?:years?|yr|y)[- /]?(?:old|o|of age)\b|\baged (?:9\d|1[01]\d)\b"
        r"|\bage(?: of|:)? (?:9\d|1[01]\d)\b",
        re.IGNORECASE,
    ),
    "date": re.compile(
        rf"\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {WRITTEN_MONTH},? (?:19|20)\d\d\b"
        rf"|\b{WRITTEN_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? "
        r"(?:19|20)\d\d\b|(?<![\d/])\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)\d\d(?!\d)|\b(?:19|20)\d\d-\d\d-\d\d\b"
    ),
}
# Kinds that a published case report may state.
PUBLISHED = ("date", "age over 89")
KINDS = tuple(RULES)
NEVER_PUBLISHED = tuple(kind for kind in KINDS if kind not in PUBLISHED)


# ---------------------------------------------------------------- capitalized words that name nobody

# Departments, specialties and roles. Words that are surnames too ("Dr. Pain") count only beside another of them.
DEPARTMENT = re.compile(
    r"(?:\w*olog(?:y|ic|ical|ists?)|\w*iatr(?:y|ics?|ists?)|\w*surg(?:ery|ical|eons?)|\w*therap(?:y|ists?)|\w*paedics?"
    r"|\w*pedics?|medicine|medical|infectious|diseases?|internal|emergency|cardiac|thoracic|vascular|renal|orthop\w+"
    r"|an(?:a)?esthesia\w*|an(?:a)?esthetics|obstetrics?|dermatopathology|pathology|physical|occupational|palliative"
    r"|rehabilitation|rehab|nutrition|pharmacy|pharmacists?|nursing|dental|dentist(?:ry)?|physicians?|consultants?"
    r"|residents?|attending|transplant|trauma|icu|gyn|p(?:a)?ediatric)",
    re.IGNORECASE,
)
BESIDE_A_DEPARTMENT = word_set("""
acute adult anxiety behavioral board bone breast burn care case center centre clinic clinical committee consult
consultation critical day department diagnostic ear eye family fellow fetal fluid followup general group hand head
health home hospital hospitalist house intensive interventional joint kidney lab laboratory life liver lung management
maternal maxillofacial mental neck neonatal nose nuclear nurse office officer on oral outpatient pain plastic practice
practitioner primary radiation records service services social specialist speech spine sports staff stroke team throat
tumor unit urgent women work worker wound
""")
ORGANIZATION = word_set("clinic hospital center centre service services team board department unit committee records")
# Words that begin a sentence after an initial: "Dr. X. The patient".
NO_NAME = word_set("""
the a an he she they it we i you his her their its our this that these those there but if as at by in on of to
from for with after before during until under over once when while because although since then also both each all any
no not again however unfortunately currently reportedly recently subsequently today please followup follow and or
unknown unavailable withheld redacted removed anonymous none confidential available given provided
""")
# Brands of soap, shoes, drinks and cleaners, which reports of allergies and poisonings name; not where a person acts.
BRANDS = word_set("bronner bronners pepper scholl scholls clean")
ACTS = re.compile(r"\b(?:by|with|from|to|see|saw|per|and|consult|contact|call)\s+$")
EPONYM = re.compile(r"['’]s? (?:disease|syndrome|sign|classification|criteria)\b")
LABEL = re.compile(rf"^(?:[^:]*?:|{TITLES}|\w+ by)\s*(?:{TITLES})?")


def named(found: str, before: str, after: str) -> str:
    """The part of `found` that names somebody; "" for a department, a brand or the beginning of a sentence.

    before, after: the text around `found`.
    """
    label = LABEL.match(found)
    start = label.end() if label else 0
    words = list(re.finditer(r"[\w’'-]+", found[start:]))
    names = [word[0].lower().removesuffix("'s").removesuffix("’s") for word in words if len(word[0]) > 1]
    if not names or EPONYM.match(after):
        return ""
    if names[0] in NO_NAME:
        # "Dr. X. The patient" names X.
        return found[: start + words[0].end()] if len(words[0][0]) == 1 else ""
    if names[0] in BRANDS and (after.startswith(("'s", "’s")) or not ACTS.search(before)):
        return ""
    if len(names) > 1 and names[-1] in ORGANIZATION and re.match(r"\w+ by", found):
        return ""
    certain = [bool(DEPARTMENT.fullmatch(name)) for name in names]
    departments = all(sure or name in BESIDE_A_DEPARTMENT for sure, name in zip(certain, names, strict=True))
    return "" if departments and (len(names) > 1 or certain[0]) else found


def described(found: Iterable[Found]) -> str:
    """Each identifier once, with its kind: "name 'Dr. Smith', phone '(617) 555-0123'"."""
    return ", ".join(dict.fromkeys(f"{item.kind} {item.text!r}" for item in found))


def find_identifiers(text: str, kinds: tuple[str, ...] = KINDS) -> list[Found]:
    """The identifiers of these kinds in a text, sorted by position."""
    found = []
    for kind in kinds:
        for match in RULES[kind].finditer(text):
            words = match[0]
            if kind == "name":
                words = named(
                    words, text[max(0, match.start() - 20) : match.start()], text[match.end() : match.end() + 20]
                )
            if words:
                found.append(Found(kind, words, match.start()))
    return sorted(found, key=lambda item: (item.start, item.kind))
