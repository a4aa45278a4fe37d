"""Synonyms: abbreviations that charts use without spelling them out, and words with the same meaning.

A row of ABBREVIATIONS is a short form with its long forms. A row of SYNONYMS is a group of interchangeable names.
"""

import re
from functools import lru_cache

from data_prep.clinical_text.vocabulary.lexicon import BRANDS, PLAIN_WORDS, lines, meanings
from data_prep.clinical_text.words import stems

ABBREVIATIONS = {short: tuple(longs.split(" | ")) for short, longs in meanings("names/abbreviations").items()}

# Abbreviations of a chart's structure, routes of administration and titles, which a report need not contain.
CHART_WORDS = frozenset(
    """
HPI PMH PSH FH SH ROS PE CC DX HX RX TX MD RN NP PA DO OR IV PO IM SC SQ SL PR PRN BID TID QID QD QHS Q4H Q6H Q8H Q12H
MEDS LABS VS NAME DOB MRN DNR DNI POD HD ID AM PM NA ETC VITALS PCP F M YO USA UK II III IV VI VII VIII IX XI XII
OD OS OU ST QRS QT DISCHARGE SUMMARY NOTE HISTORY EXAM AND THE OF FOR NO NOT WITH TO IN ON AT AS IS A I S O P SOAP PLAN
""".split()
)

SYNONYMS = tuple(tuple(line.split(" = ")) for line in lines("names/synonyms"))


def _classes() -> dict[str, re.Pattern[str]]:
    """Stems of the name of a class -> a pattern of the words that name a member."""
    found = {}
    for name, members in meanings("names/classes").items():
        words = "|".join(re.escape(member).replace(r"\*", "[a-z-]*") for member in members.split())
        found[" ".join(stems(name))] = re.compile(rf"(?:{words})")
    return found


CLASSES = _classes()

# Words that negate a finding by themselves.
DENYING = {
    "afebrile": "fever", "apyrexial": "fever", "apyrexic": "fever", "anicteric": "jaundice", "nontender": "tenderness",
    "non-tender": "tenderness", "painless": "pain", "normotensive": "hypertension", "nondistended": "distension",
    "non-distended": "distension", "acyanotic": "cyanosis", "nonsmoker": "smoking", "non-smoker": "smoking",
    "nondiabetic": "diabetes", "non-diabetic": "diabetes", "seizure-free": "seizure", "pain-free": "pain",
}  # fmt: skip


def _groups() -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """A dictionary of the stems of a name to the stems of its synonyms."""
    groups = [tuple(tuple(stems(name)) for name in group) for group in SYNONYMS]
    groups += [
        (tuple(stems(plain.removeprefix("a ").removeprefix("an "))), tuple(stems(technical)))
        for technical, plain in PLAIN_WORDS.items()
    ]
    groups += [(tuple(stems(brand)), tuple(stems(generic))) for brand, generic in BRANDS.items()]
    others: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for group in groups:
        for name in group:
            others.setdefault(name, []).extend(other for other in group if other != name)
    return others


NAMES_FOR = _groups()
# Short forms keep their capitals: "US" is not the pronoun, "PE" not a syllable.
LONG_FORMS = {short: [tuple(stems(long)) for long in longs] for short, longs in ABBREVIATIONS.items()}
SHORT_FORMS: dict[tuple[str, ...], list[str]] = {}
for _short, _longs in LONG_FORMS.items():
    for _long in _longs:
        SHORT_FORMS.setdefault(_long, []).append(_short)


@lru_cache(maxsize=16384)
def other_names(name: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(rule, stems) for each other name of a term, including names that replace only a part of a long term."""
    found: list[tuple[str, tuple[str, ...]]] = [("synonym", other) for other in NAMES_FOR.get(name, [])]
    found += [("abbreviation", (short,)) for short in SHORT_FORMS.get(name, [])]
    if len(name) == 1:
        longs = LONG_FORMS.get(name[0]) or LONG_FORMS.get(name[0].upper(), [])
        found += [("abbreviation", long) for long in longs]
        found += [("abbreviation", other) for long in longs for other in NAMES_FOR.get(long, [])]
    for size in range(len(name) - 1, 0, -1):
        for start in range(len(name) - size + 1):
            replaced = name[start : start + size]
            before, after = name[:start], name[start + size :]
            found += [("synonym", (*before, *other, *after)) for other in NAMES_FOR.get(replaced, [])]
            found += [("abbreviation", (*before, short, *after)) for short in SHORT_FORMS.get(replaced, [])]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4096)
def implying(test: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Stems of the findings that imply a result of the test: "thrombocytopenia" implies a platelet count."""
    return tuple(tuple(stems(name)) for name, plain in PLAIN_WORDS.items() if set(test) <= set(stems(plain)))
