"""Findings with their polarity, drugs, tests, procedures and unexplained abbreviations.

find_terms("No fever; CT showed a mass. Started on ceftriaxone.")
-> negated finding fever, test CT, finding mass, drug ceftriaxone
"""

import re

from data_prep.grounding.kinds import Atom
from data_prep.language.abbreviations import STAGE, UNDEFINED
from data_prep.language.entities import find_entities, is_negated
from data_prep.language.synonyms import ABBREVIATIONS, CHART_WORDS, DENYING, LONG_FORMS
from data_prep.language.words import stems, word_set

# Too general to be a fact of its own: an "examination" has always taken place.
GENERAL = word_set("""
examination examinations test tests findings complications complication temperature complement isolation
surgery operation rehabilitation collection compression trauma
""")
DENIED = re.compile(r"\b(" + "|".join(map(re.escape, sorted(DENYING, key=len, reverse=True))) + r")\b", re.IGNORECASE)
HEADING = re.compile(r"[#*\s-]*[A-Z][A-Z ,/&()-]+:")
# A name that nobody listed, where a dose gives it away: "Xyzal 5 mg".
DOSED = re.compile(r"\b([A-Za-z][a-z]{4,}(?:-[a-z]+)?) (?=\d[\d.,]*\s?(?:mg|mcg|µg|μg|IU|units)(?:\b|/))")
NOT_DRUG = re.compile(r".*(?:ing|ed|ly|ally|ous)$|(?:dose|doses|total|daily|about|under|level|levels|value|weight|count|tablet|tablets|from|until|oral|after)$", re.IGNORECASE)
LISTED = re.compile(r"(?<![\w/-])(?:" + "|".join(sorted(map(re.escape, LONG_FORMS), key=len, reverse=True)) + r")(?![\w-])")
KIND_NAMES = {"drug": "drug", "test": "test", "procedure": "procedure", "anatomy": "site"}


def find_terms(sentence: str) -> list[Atom]:
    """From left to right. Places of the body come as "site": no facts, but what others are said of."""
    found = []
    for entity in find_entities(sentence):
        name = tuple(stems(entity.term))
        if not name or entity.term in GENERAL:
            continue
        # The term without its qualifiers: these come back in other words.
        start = max(entity.start, entity.end - len(entity.term))
        kind = KIND_NAMES.get(entity.kind) or ("negated finding" if entity.negated else "finding")
        found.append(Atom(kind, sentence[start : entity.end], start, entity.end, name))
    found += [atom for atom in others(sentence) if all(atom.end <= a.start or a.end <= atom.start for a in found)]
    return sorted(found, key=lambda atom: atom.start)


def others(sentence: str) -> list[Atom]:
    found = []
    for match in DENIED.finditer(sentence):
        found.append(Atom("negated finding", match[0], match.start(), match.end(), tuple(stems(DENYING[match[0].lower()]))))
    for match in DOSED.finditer(sentence):
        if not NOT_DRUG.match(match[1]):
            found.append(Atom("drug", match[1], match.start(1), match.end(1), tuple(stems(match[1]))))
    heading = HEADING.match(sentence)
    for name, start, end in short_forms(sentence):
        in_heading = heading and end <= heading.end() and name not in LONG_FORMS
        if name in CHART_WORDS or STAGE.fullmatch(name) or sentence.isupper() or in_heading:
            continue
        # A chart's short form of a finding is affirmed or denied like the finding itself.
        kind = SHORT_KIND.get(name, "abbreviation")
        if kind == "finding" and is_negated(sentence, start, end):
            kind = "negated finding"
        found.append(Atom(kind, name, start, end, (name,)))
    return found


def short_forms(sentence: str) -> list[tuple[str, int, int]]:
    """Words in capitals, and the listed abbreviations that are not: "Hb", "SpO2"."""
    found = {(match[0], match.start(), match.end()) for match in UNDEFINED.finditer(sentence)}
    found |= {(match[0], match.start(), match.end()) for match in LISTED.finditer(sentence)}
    return sorted(found, key=lambda short: short[1])


def kind_of_short(long: str) -> str:
    entities = find_entities(long)
    kind = KIND_NAMES.get(entities[-1].kind, "finding") if entities else "abbreviation"
    return "abbreviation" if kind == "site" else kind


SHORT_KIND = {short: kind_of_short(longs[0]) for short, longs in ABBREVIATIONS.items()}
