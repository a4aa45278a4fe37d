"""Check of a text against its source: a verdict for every atom, and the certificate that is saved with the text."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from data_prep.clinical_text.abbreviations import find_pairs
from data_prep.clinical_text.sentences import INVISIBLE
from data_prep.clinical_text.synonyms import LONG_FORMS
from data_prep.clinical_text.words import stems, word_set
from data_prep.contract.records import Certificate
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading, read, read_text
from data_prep.faithfulness.checks.context import STATED, Claim, Verdict
from data_prep.faithfulness.checks.source import Source, unqualified
from data_prep.faithfulness.checks.table import judge
KIND_OF={}

# Words of headings. A line in capitals with other words states something: "ANKLE SPRAIN".
HEADING_WORDS = word_set("""
ACCESS ADMISSION ADMITTING AND ASSESSMENT AT CARDIAC CARE CASE CHEST CHIEF CLINIC CLINICAL COMPLAINT COMPLAINTS CONCLUSION
CONCLUSIONS CONDITION CONSULTATION COURSE DATA DATE DEAR DEPARTMENT DESCRIPTION DETAILS DIAGNOSES DIAGNOSIS DIAGNOSTIC
DISCHARGE DISPOSITION DRUG DRUGS EMERGENCY EVENTS EXAM EXAMINATION EXAMINATIONS FAMILY FINAL FINDINGS FOLLOW FOLLOW-UP FOR
FROM GENERAL GIVEN GOALS HISTORY HOME HOSPITAL ILLNESS IMAGING IMPRESSION IN INDICATION INDICATIONS INFORMATION
INSTRUCTIONS INTERVAL INVESTIGATIONS LAB LABORATORY LABS LATER LETTER LIST MAIN MANAGEMENT MEDICAL MEDICATION MEDICATIONS
NARRATIVE NOTE NOTES NURSING OBJECTIVE OBSERVATIONS OF ON OPERATION OPERATIVE OPINION OTHER OUTCOME PAST PATHOLOGY PATIENT
PERSONAL PHYSICAL PLAN PREOPERATIVE POSTOPERATIVE PRESENT PRESENTATION PRESENTING PREVIOUS PRIMARY PRINCIPAL PROBLEM
PROBLEMS PROCEDURE PROCEDURES PROGRESS RADIOLOGY REASON RECOMMENDATION RECOMMENDATIONS REPORT RESULTS REVIEW SECONDARY
SIGNS SOCIAL SPECIMEN SPECIMENS STATUS STAY STUDIES SUBJECTIVE SUMMARY SURGICAL SYMPTOMS SYSTEMS TECHNIQUE TEST TESTS THE
THERAPY TO TREATMENT TREATMENTS UP VITAL VITALS VISIT WITH BLOOD ALLERGIES IDENTIFICATION AGE SEX NAME BIRTH OBSTETRIC
""")
LINE_IN_CAPITALS = re.compile(r"^[#*\s-]*[A-Z][A-Z0-9 ,/&()'-]{2,80}[*\s.]*:?[*\s]*$")
# Statements about the source, that it does not mention something; they hold for their clause alone.
SAID_ABSENT = re.compile(
    r"\b(?:not|never|nowhere|nothing(?: (?:is|was))?) (?:\w+ly |been |further )?(?:stated|mentioned|recorded|documented"
    r"|specified|described|given in the (?:note|report|text))\b"
    r"|\bno (?:mention|information|record|statement|documentation|details?|data)\b"
    r"|\b(?:note|report|text|summary|record|source|it) (?:does|do|did) not (?:\w+ )?(?:state|mention|say|specify|record"
    r"|document|describe|give|contain|report)\b|\bwithout being (?:spelled out|explained)\b"
    r"|\bno\b[^.;,]{0,80}\b(?:is|are|was|were) (?:mentioned|stated|recorded|documented)\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[;:]|,? (?:and|but|while|whereas) (?=[^,;]*\b(?:was|were|is|are|had|has|received|developed)\b)|\. ")


def is_said_absent(sentence: str, start: int) -> bool:
    """Return True if the clause around `start` says that the source does not mention something."""
    edges = [0, *(match.start() for match in CLAUSE.finditer(sentence)), len(sentence)]
    return any(
        first <= start < last and SAID_ABSENT.search(sentence, first, last)
        for first, last in itertools.pairwise(edges)
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
        if LINE_IN_CAPITALS.match(reading.text):
            if is_heading(reading.text):
                continue
            reading = read(in_small_letters(reading.text))
        within = start(0), start(len(reading.text) - 1) + 1
        for atom in (*reading.atoms, *unqualified(reading, facts)):
            verdict = judge(Claim(atom, reading, pairs), facts)
            if verdict.status == "unsupported" and is_said_absent(reading.text, atom.start):
                verdict = Verdict("derived", "said to be absent")
            found.append(Finding(atom, verdict, reading.text, start(atom.start), start(atom.end - 1) + 1, within))
        for one in facts.compare(reading.text):
            atom = Atom(KIND_OF.get(one.dimension, "quality"), reading.text[one.start : one.end], one.start, one.end, (one.dimension, one.value))
            verdict = Verdict("unsupported", one.reason) if one.reason else STATED
            found.append(Finding(atom, verdict, reading.text, start(atom.start), start(atom.end - 1) + 1, within))
    return found


def is_heading(line: str) -> bool:
    return not re.search(r"\d", line) and all(
        word in HEADING_WORDS or len(word) < 2 for word in re.findall(r"[A-Z][A-Z-]*", line)
    )


def in_small_letters(line: str) -> str:
    """The line without capitals, but for its abbreviations, if it has a word too long for one."""
    if not re.search(r"[A-Z]{5}", line):
        return line
    return re.sub(r"[A-Z]{2,}", lambda match: match[0] if match[0] in LONG_FORMS else match[0].lower(), line)


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
