"""Recognition of drugs, problems, tests, procedures and anatomy in a sentence, by lexicon and suffix, with negation.

find_entities("She denied chest pain after aspirin.")
-> [Entity("chest pain", "problem", 11, 21, negated=True), Entity("aspirin", "drug", 28, 35, negated=False)]
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from data_prep.clinical_text.statuses.cue_patterns import ABSENT
from data_prep.clinical_text.statuses.scopes import statuses_at
from data_prep.clinical_text.vocabulary import lexicon
from data_prep.clinical_text.words import word_set

KINDS = ("drug", "problem", "test", "procedure", "anatomy")
TABLES = {
    "drug": (lexicon.DRUGS, lexicon.DRUG_SUFFIXES),
    "problem": (lexicon.PROBLEMS, lexicon.PROBLEM_SUFFIXES),
    "test": (lexicon.TESTS, lexicon.TEST_SUFFIXES),
    "procedure": (lexicon.PROCEDURES, lexicon.PROCEDURE_SUFFIXES),
    "anatomy": (lexicon.ANATOMY, ()),
}
KIND_OF = {term: kind for kind in reversed(KINDS) for term in TABLES[kind][0]}
# Number of words of the longest term that begins with a given word. Most words begin no term and need no lookup.
LONGEST_TERM: dict[str, int] = {}
for _term in KIND_OF:
    _first = _term.split()[0]
    LONGEST_TERM[_first] = max(LONGEST_TERM.get(_first, 0), _term.count(" ") + 1)
SUFFIX_KINDS = {suffix: kind for kind in reversed(KINDS) for suffix in TABLES[kind][1]}
SUFFIX = re.compile(r"[a-z'’-]{2,}(?:" + "|".join(sorted(SUFFIX_KINDS, key=len, reverse=True)) + r")s?$")
ENDING = re.compile(r"(?:" + "|".join(sorted(SUFFIX_KINDS, key=len, reverse=True)) + r")$")

WORD = re.compile(r"[A-Za-zÀ-ÿα-ω0-9][\wÀ-ÿα-ω'’/.-]*[\wÀ-ÿα-ω]|[A-Za-z0-9]")
CAPITALISED = re.compile(r"(?<![\w'’-])[A-Z][a-z]+\b(?!['’]s)")
PROPER = word_set("""
Gram Doppler Glasgow Mantoux Holter Hodgkin Ewing Kaposi Wegener Candida Japanese
""")
# "insulin resistance", "steroid receptor": a substance in the body, not a treatment.
NOT_GIVEN = re.compile(
    r"[- ](?:regulated|receptors?|levels?|resistan\w+|antibod\w+|deficien\w+|dependent|"
    r"sensitivity|allergy|growth factor|secretion)\b",
    re.IGNORECASE,
)
SIDES = word_set("""
left right upper lower bilateral both proximal distal anterior posterior
""")


@dataclass(frozen=True)
class Entity:
    text: str
    kind: str
    start: int
    end: int
    negated: bool
    term: str = ""  # the lexicon entry, or the word with the suffix: lower case, without qualifiers


@lru_cache(maxsize=4096)
def find_entities(sentence: str) -> tuple[Entity, ...]:
    """The entities of one sentence from left to right, without overlaps; the longest term wins."""
    words = [(match.start(), match.end(), match[0].lower().replace("’", "'")) for match in WORD.finditer(sentence)]
    found, index = [], 0
    taken = 0
    while index < len(words):
        if not may_begin(words[index][2]):
            index += 1
            continue
        kind, length = match_at(words, index)
        if not kind or (kind == "drug" and NOT_GIVEN.match(sentence, words[index + length - 1][1])):
            index += 1
            continue
        first = extend_left(sentence, words, index, taken, kind)
        start, end = words[first][0], words[index + length - 1][1]
        found.append(
            Entity(
                in_small_letters(sentence[start:end]),
                kind,
                start,
                end,
                kind == "problem" and is_negated(sentence, start, end),
                " ".join(word for _, _, word in words[index : index + length]),
            )
        )
        index += length
        taken = index
    return tuple(merge_sites(found))


def in_small_letters(term: str) -> str:
    """The term as it reads inside a sentence: "Abdominal CT" -> "abdominal CT", "Crohn's disease" unchanged."""
    return CAPITALISED.sub(lambda match: match[0].lower() if match[0] not in PROPER else match[0], term)


def merge_sites(found: list[Entity]) -> list[Entity]:
    """Merge an anatomical term with the term right after it: "thyroid" and "nodule" become "thyroid nodule"."""
    merged: list[Entity] = []
    for entity in found:
        before = merged[-1] if merged else None
        if (
            before
            and before.kind == "anatomy"
            and entity.kind not in ("anatomy", "drug")
            and entity.start == before.end + 1
        ):
            text = f"{before.text} {entity.text}"
            merged[-1] = Entity(text, entity.kind, before.start, entity.end, entity.negated, entity.term)
        else:
            merged.append(entity)
    return merged


def match_at(words: list[tuple[int, int, str]], index: int) -> tuple[str, int]:
    """The kind and the number of words of the term that begins at `index`; the kind is "" if there is none."""
    for length in range(min(LONGEST_TERM.get(words[index][2], 0), len(words) - index), 0, -1):
        term = " ".join(word for _, _, word in words[index : index + length])
        kind = KIND_OF.get(term)
        if kind and adjacent(words, index, length):
            return kind, length
    return suffix_kind(words[index][2]), 1


def adjacent(words: list[tuple[int, int, str]], index: int, length: int) -> bool:
    """Return True if the words are separated only by single spaces, without a comma or bracket."""
    return all(words[i + 1][0] - words[i][1] == 1 for i in range(index, index + length - 1))


@lru_cache(maxsize=65536)
def may_begin(word: str) -> bool:
    return word in LONGEST_TERM or bool(suffix_kind(word))


@lru_cache(maxsize=16384)
def suffix_kind(word: str) -> str:
    if word in lexicon.NOT_TERMS or len(word) < 6 or not SUFFIX.match(word):
        return ""
    ending = ENDING.search(word) or ENDING.search(word.rstrip("s"))
    return SUFFIX_KINDS[ending[0]] if ending else ""


def extend_left(sentence: str, words: list[tuple[int, int, str]], index: int, taken: int, kind: str) -> int:
    """The index of the first word of a term including its qualifiers: "severe left-sided chest pain"."""
    first = index
    while kind != "drug" and first > taken and index - first < 4:
        _, end, word = words[first - 1]
        if sentence[end : words[first][0]] != " " or not (word in SIDES if kind == "anatomy" else is_qualifier(word)):
            break
        first -= 1
    return first


@lru_cache(maxsize=16384)
def is_qualifier(word: str) -> bool:
    if word in lexicon.QUALIFIERS:
        return True
    return len(word) > 4 and word.endswith(lexicon.QUALIFIER_SUFFIXES) and word not in NOT_QUALIFIERS


NOT_QUALIFIERS = word_set("""
several hospital clinic medical topic arrival approval removal survival withdrawal total referral interval
initial general clinical physical historical final additional additional usual external typical gradual critical
during examine determine urine routine remarkable similar particular regular five give receive have twelve above
active positive negative significant specific public previous various obvious material biological radiological
surgical medicine line combine magazine summary january february necessary ordinary arrive alive achieve
individual normal abnormal
""")


def is_negated(sentence: str, start: int, end: int) -> bool:
    """Return True if the sentence says that the span is absent or was not done."""
    return ABSENT in statuses_at(sentence, start, end)
