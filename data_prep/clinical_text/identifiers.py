"""Rules that find identifiers of a person in a generated or a real text.

The kinds are those of the HIPAA safe harbour that a regular expression can detect. A published report may state an age
or a date, so finding one does not prove a leak; nobody publishes a patient's phone number or record number on purpose.
"""

import re
from dataclasses import dataclass

from data_prep.clinical_text.number_words import MONTH


@dataclass(frozen=True)
class Found:
    kind: str
    text: str
    start: int


WRITTEN_MONTH = rf"{MONTH}\.?"
CAPITALIZED = r"[A-Z][a-zà-ÿ]+(?:[-'’]?[A-Z][a-zà-ÿ]+)?"
RULES = {
    # "Dr. Smith", "Mrs Jane Doe"; not "Dr. in charge". "Miss" is left out, because it also begins sentences.
    "name": re.compile(
        rf"\b(?:Dr|Drs|Prof|Mr|Mrs|Ms)\b\.?\s+(?:[A-Z]\.\s*)*{CAPITALIZED}(?:\s+{CAPITALIZED})?"
        rf"|\b(?:[Pp]atient(?:'s)? name|PATIENT NAME|[Nn]ame)\s*:\s*{CAPITALIZED}(?:\s+{CAPITALIZED})?"
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


def find_identifiers(text: str, kinds: tuple[str, ...] = KINDS) -> list[Found]:
    """The identifiers of these kinds in a text, sorted by position."""
    found = [Found(kind, match[0], match.start()) for kind in kinds for match in RULES[kind].finditer(text)]
    return sorted(found, key=lambda item: (item.start, item.kind))
