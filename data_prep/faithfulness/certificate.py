"""Check of a text against its source: a verdict for every atom, and the certificate that is saved with the text."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from data_prep.clinical_text.abbreviations import find_pairs
from data_prep.clinical_text.sentences import INVISIBLE
from data_prep.clinical_text.words import stems
from data_prep.contract.records import Certificate
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading, read_text
from data_prep.faithfulness.checks.context import Claim, Verdict
from data_prep.faithfulness.checks.source import Source, affirmed_phrases
from data_prep.faithfulness.checks.table import judge

HEADING = re.compile(r"^[#*\s]*[A-Z][A-Z ,/&()-]{2,60}[*\s]*:?[*\s]*$")
# Statements that the source does not mention something, which are not facts about the patient.
SAID_ABSENT = re.compile(
    r"\b(?:not|never|nothing(?: is)?|no (?:mention|information|record|statement|data|details?)(?: (?:is|was|are)"
    r" )?)\s?(?:\w+ ){0,2}?"
    r"(?:stated|mentioned|recorded|documented|specified|described|reported in the note|given in the note|of|about|on)\b"
    r"|\b(?:note|report|text|summary|it) (?:does|do|did) not (?:\w+ )?(?:state|mention|say|specify|record|document)\b"
    r"|\bno\b[^.;]{0,80}\b(?:is|are) (?:mentioned|stated|recorded|documented|given)\b|\bwithout being (?:spelled"
    r" out|explained)\b",
    re.IGNORECASE,
)


# A character that sentence splitting keeps: neither white space nor invisible.
SOLID = re.compile(rf"(?!{INVISIBLE.pattern})\S")


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
    """Every atom of a text, sentence by sentence, with its verdict against the source."""
    facts = source_of(source)
    pairs = {short: tuple(stems(long)) for short, long in find_pairs(text).items()}
    found = []
    for reading, start in placed(text):
        if HEADING.match(reading.text):
            continue
        within = start(0), start(len(reading.text) - 1) + 1
        for atom in (*reading.atoms, *affirmed_phrases(reading, facts)):
            verdict = judge(Claim(atom, reading, pairs), facts)
            if verdict.status == "unsupported" and SAID_ABSENT.search(reading.text):
                verdict = Verdict("derived", "said to be absent")
            found.append(Finding(atom, verdict, reading.text, start(atom.start), start(atom.end - 1) + 1, within))
    return found


def placed(text: str) -> Iterator[tuple[Reading, "Place"]]:
    """The sentences of a text, each with a function that maps an offset in the sentence to an offset in the text.

    Sentences contain every character of the text except white space, so counting the other characters gives the offset.
    """
    solid = [match.start() for match in SOLID.finditer(text)]
    passed = 0
    for reading in read_text(text):
        yield reading, Place(reading.text, solid, passed)
        passed += solid_before(reading.text, len(reading.text))


def solid_before(text: str, offset: int) -> int:
    return len("".join(text[:offset].split()))


@dataclass(frozen=True)
class Place:
    sentence: str
    solid: list[int]  # offsets of the text's solid characters
    passed: int  # number of solid characters before this sentence

    def __call__(self, offset: int) -> int:
        return self.solid[self.passed + solid_before(self.sentence, offset)]


def certify(text: str, source: str) -> Certificate:
    return certificate(check(text, source), source)


def certificate(found: list[Finding], source: str) -> Certificate:
    counts = {status: sum(f.verdict.status == status for f in found) for status in ("stated", "derived", "unsupported")}
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
        **counts,
        omitted=omitted(found, source),
        details=json.dumps(details, ensure_ascii=False) if details else "",
    )


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
