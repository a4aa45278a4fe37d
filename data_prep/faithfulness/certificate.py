"""Check of a text against its source: a verdict for every atom, and the certificate that is saved with the text."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from data_prep.clinical_text.abbreviations import find_pairs
from data_prep.clinical_text.sentences import SOLID, rejoined, split_sentences
from data_prep.clinical_text.words import stems
from data_prep.contract.prompt.cited_sentences import Places, has_citation, without_citations
from data_prep.contract.records import Certificate
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.lines import LINE_IN_CAPITALS, in_small_letters, is_heading, is_said_absent
from data_prep.faithfulness.atoms.read import Reading, read
from data_prep.faithfulness.checks.context import Claim, Verdict
from data_prep.faithfulness.checks.source import Source, unqualified
from data_prep.faithfulness.checks.table import judge
from data_prep.faithfulness.dimensions.tables import kind_of
from data_prep.faithfulness.dimensions.values import values_of, words_of

BULLET = re.compile(r"^[-•*] +(?=\w)")


@dataclass(frozen=True)
class Finding:
    """An atom of the text with its verdict and sentence, and the offsets of both in the text."""

    atom: Atom
    verdict: Verdict
    sentence: str
    start: int
    end: int
    within: tuple[int, int]  # start and end of the sentence in the text

    @property
    def supported(self) -> bool:
        return self.verdict.status != "unsupported"


@lru_cache(maxsize=64)
def source_of(text: str) -> Source:
    return Source(text)


def check(text: str, source: str) -> list[Finding]:
    """Every statement of a text, sentence by sentence, with its verdict against the source.

    The markers of citations are not read: the 4 of "fever [4]" is no number that a source must have.
    """
    if not has_citation(text):
        return check_plain(text, source)
    place = Places(text)
    return [
        replace(
            found,
            start=place(found.start),
            end=place(found.end - 1) + 1,
            within=(place(found.within[0]), place(found.within[1])),
        )
        for found in check_plain(without_citations(text), source)
    ]


def check_plain(text: str, source: str) -> list[Finding]:
    """The findings in a text without citations."""
    facts = source_of(source)
    pairs = {short: tuple(stems(long)) for short, long in find_pairs(text).items()}
    found: list[Finding] = []
    for reading, place in placed(text):
        if LINE_IN_CAPITALS.match(reading.text):
            if is_heading(reading.text):
                continue
            reading = read(in_small_letters(reading.text))
        within = place.opens, place(len(reading.text) - 1) + 1
        for atom, verdict in verdicts(reading, pairs, facts):
            found.append(Finding(atom, verdict, reading.text, place(atom.start), place(atom.end - 1) + 1, within))
    return found


def verdicts(reading: Reading, pairs: dict[str, tuple[str, ...]], facts: Source) -> Iterator[tuple[Atom, Verdict]]:
    """The statements of one sentence: its atoms, and its values in the dimensions that the source speaks of too."""
    copied = facts.copy_of(reading.text)
    if copied is not None:
        yield from ((atom, Verdict("stated", sentences=(copied,))) for atom in reading.atoms)
        for value in values_of(reading.text):
            yield (
                atom_of(value.dimension, value.value, reading, value.start, value.end),
                Verdict("stated", "", (copied,)),
            )
        return
    wrong = []
    for atom in (*reading.atoms, *unqualified(reading, facts)):
        verdict = judge(Claim(atom, reading, pairs), facts)
        if verdict.status == "unsupported" and is_said_absent(reading.text, atom.start):
            verdict = Verdict("derived", "said to be absent")
        if verdict.status == "unsupported":
            wrong.append(atom)
        yield atom, verdict
    for one in facts.compare(reading.text):
        if one.reason and any(atom.start < one.end and one.start < atom.end for atom in wrong):
            continue  # said already
        verdict = Verdict("unsupported" if one.reason else "stated", one.reason, (one.sentence,))
        yield atom_of(one.dimension, one.value, reading, one.start, one.end), verdict


def atom_of(dimension: str, value: str, reading: Reading, start: int, end: int) -> Atom:
    return Atom(kind_of(dimension), reading.text[start:end], start, end, (dimension, value))


def placed(text: str) -> Iterator[tuple[Reading, "Place"]]:
    """The sentences of a text, each with a function that maps an offset in the sentence to an offset in the text.

    Sentences contain every character of the text except white space, so counting the other characters gives the offset.
    """
    solid = [match.start() for match in SOLID.finditer(text)]
    passed = 0
    for sentence in split_sentences(text):
        # Without its bullet, a copied sentence is one of the source.
        bare = BULLET.sub("", sentence)
        opens = solid[passed]
        passed += solid_before(sentence, len(sentence) - len(bare))
        bare = rejoined(bare)
        yield read(bare), Place(bare, solid, passed, opens)
        passed += solid_before(bare, len(bare))


def solid_before(text: str, offset: int) -> int:
    return len("".join(text[:offset].split()))


@dataclass(frozen=True)
class Place:
    sentence: str
    solid: list[int]  # offsets of the text's solid characters
    passed: int  # number of solid characters before this sentence
    opens: int  # offset of the sentence with its bullet

    def __call__(self, offset: int) -> int:
        return self.solid[self.passed + solid_before(self.sentence, offset)]


def certify(text: str, source: str) -> Certificate:
    return certificate(check(text, source), source)


def certificate(found: list[Finding], source: str) -> Certificate:
    counts = Counter(f.verdict.status for f in found)
    details = [
        {
            "kind": f.atom.kind,
            "text": f.atom.text,
            "start": f.start,
            "end": f.end,
            "status": f.verdict.status,
            "rule": f.verdict.rule,
        }
        for f in found
        if f.verdict.status != "stated"
    ]
    return Certificate(
        rules=rules_version(),
        stated=counts["stated"],
        derived=counts["derived"],
        unsupported=counts["unsupported"],
        omitted=omitted(found, source),
        details=json.dumps(details, ensure_ascii=False) if details else "",
        evidence=json.dumps(evidence(found, source), separators=(",", ":")),
    )


MOST_CITED = 3  # sentences


def evidence(found: list[Finding], source: str) -> list[list[int]]:
    """[start, end, source start, source end, ...] of each statement and of up to three sentences of the source.

    They support the statement, or contradict it. A statement that no sentence does either is left out.
    """
    spans = source_of(source).spans
    return [
        [finding.start, finding.end, *(offset for number in cited(finding, source) for offset in spans[number])]
        for finding in found
        if finding.verdict.sentences
    ]


def cited(finding: Finding, source: str) -> list[int]:
    """The sentences of the source that a verdict rests on; of many, those with most of the text's words."""
    numbers = finding.verdict.sentences
    if len(numbers) <= MOST_CITED:
        return list(numbers)
    words = {word.root for word in words_of(finding.sentence) if word.content}
    roots = source_of(source).statements.roots
    return sorted(sorted(numbers, key=lambda number: -len(words.intersection(roots[number])))[:MOST_CITED])


def omitted(found: list[Finding], source: str) -> int:
    """The number of distinct atoms of the source that the text does not state in the same form."""
    in_text = {(finding.atom.kind, finding.atom.value[:2]) for finding in found}
    in_source = {(atom.kind, atom.value[:2]) for reading in source_of(source).readings for atom in reading.atoms}
    return len(in_source - in_text)


@cache
def rules_version() -> str:
    """A hash of the code and word tables of `faithfulness` and `clinical_text`: every change gives a new version."""
    here = Path(__file__).parent
    found = [*here.rglob("*"), *(here.parent / "clinical_text").rglob("*")]
    files = sorted(file for file in found if file.suffix in (".py", ".txt"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(here.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
