"""Extraction of findings with their polarity, drugs, tests, procedures and undefined abbreviations.

find_terms("No fever; CT showed a mass. Started on ceftriaxone.")
-> negated finding fever, test CT, finding mass, drug ceftriaxone
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from data_prep.clinical_text.abbreviations import STAGE, UNDEFINED
from data_prep.clinical_text.entities import find_entities, suffix_kind
from data_prep.clinical_text.statuses.cue_patterns import ABSENT, PLANNED
from data_prep.clinical_text.statuses.scopes import own_statuses, scopes, statuses_at
from data_prep.clinical_text.synonyms import ABBREVIATIONS, CHART_WORDS, DENYING, LONG_FORMS
from data_prep.clinical_text.vocabulary.lexicon import DRUGS
from data_prep.clinical_text.words import TOKEN, stem, stems, word_set
from data_prep.faithfulness.atoms.kinds import Atom, Token

# Terms too general to be facts: an "examination" always takes place.
GENERAL = word_set("""
abnormality abnormalities examination examinations test tests findings complications complication temperature
complement isolation surgery operation rehabilitation collection compression trauma
""")
DENIED = re.compile(r"\b(" + "|".join(map(re.escape, sorted(DENYING, key=len, reverse=True))) + r")\b", re.IGNORECASE)
HEADING = re.compile(r"[#*\s-]*[A-Z][A-Z ,/&()-]+:")
# An unlisted drug name, recognized by its dose: "Xyzal 5 mg".
DOSED = re.compile(r"\b([A-Za-z][a-z]{4,}(?:-[a-z]+)?) (?=\d[\d.,]*\s?(?:mg|mcg|µg|μg|IU|units)(?:\b|/))")
# Diseases recognized by their last word, and organisms by their Latin names.
DISEASE = re.compile(
    r"\b([A-Z][\w’'-]+(?:[- ][A-Z][\w’'-]+)?|[a-z]{5,}) (?:syndrome|disease|disorder|phenomenon|deficiency)\b"
)
ORGANISM = re.compile(
    r"\b(?:[A-Z][a-z]{3,}(?:us|um|ia|la|er|as|ea|ma|is|ca|es|rix)|[A-Z]\.) (?=[a-z]{4})((?![a-z]*ous\b)[a-z]+"
    r"(?:us|um|is|ae|ia|ii|i|ans|ens|a))\b"
)
NO_NAME = word_set("""
no any this that these which other first second known acute chronic severe primary secondary rare residual recurrent
underlying without
""")
DISEASE_WORD = re.compile(r"(?:syndrome|disease|disorder|phenomenon|deficiency)\b")
COMPOUND = re.compile(r"(?<=[A-Za-z][/-])[A-Za-z]{5,}\b|\b[A-Za-z]{5,}(?=[/-][A-Za-z])")
NOT_DRUG = re.compile(
    r".*(?:ing|ed|ly|ally|ous)$|(?:mesylate|hydrochloride|sodium|succinate|tartrate|sulfate|sulphate|acetate|phosphate|maleate"
    r"|citrate|hydrate|besylate|fumarate|potassium|bromide|chloride|dose|doses|total|daily|about|under|level|levels|value|weight|count|tablet"
    r"|tablets|from|until|oral|after|given|therapy|bolus|injection|infusion|capsules?|starting|maximum|another"
    r"|around|intravenous|subcutaneous|intramuscular|units)$",
    re.IGNORECASE,
)
SHORT_WORD = re.compile(r"(?<![\w/-])[A-Za-z0-9][\w/&.-]{0,9}(?<![.-])(?![\w-])|\bAlk phos\b")
KIND_NAMES = {"drug": "drug", "test": "test", "procedure": "procedure", "anatomy": "site"}
# Things in no lexicon: the first words of a scope. "No germ was grown" denies "germ".
FILLERS = word_set("""
any evidence sign symptom history other significant obvious further known apparent clear associated definite prior
previous past recent a an the her his of having being specific particular h o hx reported preceding patient case
diagnosis possibility presence development new their its it he she they this these them family member well also only
s t have been be done another further more additional longer such performed made given undergo receive take out of
stated
""")
PHRASE_END = word_set("""
and or but with in on at to from for by was were is are that which who during after before nor as had has have found
noted seen
occurred occur happened took arose developed grew grown detected observed identified present
""")
PHRASE = ("phrase",)  # the `thing` of an atom that consists of plain words instead of a term
RESULT = re.compile(r"\W{0,3}(?:neg|[-−–])", re.IGNORECASE)
WORDS_NAMED = 3


def find_terms(sentence: str) -> list[Atom]:
    """The terms of a sentence from left to right. Anatomy has the kind "site", which is not a fact by itself."""
    found = []
    for entity in find_entities(sentence):
        name = tuple(stems(entity.term))
        if not name or entity.term in GENERAL:
            continue
        # The term without its qualifiers, which are often reworded.
        start = max(entity.start, entity.end - len(entity.term))
        kind = KIND_NAMES.get(entity.kind, "finding")
        found.append(Atom(kind, sentence[start : entity.end], start, entity.end, name))
    found += [atom for atom in others(sentence) if all(atom.end <= a.start or a.end <= atom.start for a in found)]
    found = [with_statuses(atom, sentence) for atom in found]
    found += [atom for atom in denials(sentence) if not overlaps(atom, found)]
    return sorted(found, key=lambda atom: atom.start)


def with_statuses(atom: Atom, sentence: str) -> Atom:
    """The atom with the statuses of its last word, which is its head."""
    read = statuses_at if atom.kind in ("finding", "abbreviation") else own_statuses
    statuses = atom.statuses | read(sentence, max(atom.start, atom.end - len(atom.text.split()[-1])), atom.end)
    if atom.kind == "drug":  # what was advised is what was taken, unless another word says that it was not
        statuses -= {PLANNED}
    kind = "negated finding" if atom.kind == "finding" and ABSENT in statuses else atom.kind
    return replace(atom, kind=kind, statuses=statuses)


def others(sentence: str) -> list[Atom]:
    """The terms that are recognized by their form, their dose or their capitals instead of the lexicon."""
    found = []
    for match in DENIED.finditer(sentence):
        name = tuple(stems(DENYING[match[0].lower()]))
        found.append(Atom("finding", match[0], match.start(), match.end(), name, statuses=frozenset((ABSENT,))))
    # "amoxicillin-clavulanic acid": each part is a drug.
    for match in COMPOUND.finditer(sentence):
        if match[0].lower() in DRUGS or suffix_kind(match[0].lower()) == "drug":
            found.append(Atom("drug", match[0], match.start(), match.end(), tuple(stems(match[0]))))
    for match in DOSED.finditer(sentence):
        if not NOT_DRUG.match(match[1]):
            found.append(Atom("drug", match[1], match.start(1), match.end(1), tuple(stems(match[1]))))
    # DISEASE_WORD is searched first: the search for any two words before it takes a sixth of the time of `read`.
    for pattern in (DISEASE, ORGANISM) if DISEASE_WORD.search(sentence) else (ORGANISM,):
        for match in pattern.finditer(sentence):
            if match[1].lower() not in NO_NAME:
                words = tuple(stems(match[0] if pattern is DISEASE else match[1]))
                found.append(Atom("finding", match[0], match.start(), match.end(), words))
    heading = HEADING.match(sentence)
    for short, start, end in short_forms(sentence):
        in_heading = heading and end <= heading.end() and short not in LONG_FORMS
        if short in CHART_WORDS or STAGE.fullmatch(short) or is_title(sentence) or in_heading:
            continue
        # The abbreviation of a finding is affirmed or denied like the finding itself.
        found.append(Atom(SHORT_KIND.get(short, "abbreviation"), short, start, end, (short,)))
    return found


def overlaps(atom: Atom, found: list[Atom]) -> bool:
    """Return True if the denied words overlap a finding of the lexicon."""
    return any(a.kind in ("finding", "negated finding") and atom.start < a.end and a.start < atom.end for a in found)


def denials(sentence: str) -> Iterator[Atom]:
    for words, status in named_in_scopes(sentence):
        if status == ABSENT:
            start, end = words[0].start, words[-1].end
            # "Mantoux test neg" is a result, and "no abnormality" one of the values of a dimension.
            if RESULT.match(sentence, end) or words[-1].stem == "abnormality":
                continue
            yield Atom(
                "negated finding", sentence[start:end], start, end, tuple(word.stem for word in words), PHRASE,
                frozenset((ABSENT,)),
            )  # fmt: skip


@lru_cache(maxsize=8192)
def named_in_scopes(sentence: str) -> tuple[tuple[list[Token], str], ...]:
    return tuple(find_named(sentence))


def find_named(sentence: str) -> Iterator[tuple[list[Token], str]]:
    """The up to three words next to each cue, which name the thing that it qualifies, and the status."""
    for scope in scopes(sentence):
        tokens = [Token(stem(m[0]), m.start(), m.end()) for m in TOKEN.finditer(sentence, scope.start, scope.end)]
        forward = scope.cue == scope.start
        words: list[Token] = []
        edge = scope.cue
        for token in tokens if forward else reversed(tokens):
            between = sentence[edge : token.start] if forward else sentence[token.end : edge]
            if words and (re.search(r"[^\s-]", between) or token.stem in PHRASE_END or len(words) == WORDS_NAMED):
                break
            # "no pain of the head": the words after "of" give the site.
            if forward and words and token.stem == "of":
                break
            if forward and not words and token.stem == "by":  # "refused by the parents"
                break
            if token.stem not in FILLERS and token.stem not in PHRASE_END:
                words.append(token)
            elif not forward and words:
                break
            edge = token.end if forward else token.start
        if words:
            yield words if forward else words[::-1], scope.status


def is_title(sentence: str) -> bool:
    """Return True for a line in capitals with a word too long for an abbreviation."""
    return sentence.isupper() and any(len(word) > 6 for word in re.findall(r"[A-Z]+", sentence))


@lru_cache(maxsize=8192)
def short_forms(sentence: str) -> list[tuple[str, int, int]]:
    """The words in capitals, and listed abbreviations in mixed case such as "Hb" and "SpO2", with their offsets."""
    found = {(match[0], match.start(), match.end()) for match in UNDEFINED.finditer(sentence)}
    for match in SHORT_WORD.finditer(sentence):
        if match[0] in LONG_FORMS:
            found.add((match[0], match.start(), match.end()))
    return sorted(found, key=lambda short: short[1])


def kind_of_short(long: str) -> str:
    entities = find_entities(long)
    kind = KIND_NAMES.get(entities[-1].kind, "finding") if entities else "abbreviation"
    return "abbreviation" if kind == "site" else kind


SHORT_KIND = {short: kind_of_short(longs[0]) for short, longs in ABBREVIATIONS.items()}
