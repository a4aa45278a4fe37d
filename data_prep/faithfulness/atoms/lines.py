"""Lines and clauses that state nothing of the patient: headings, and what a text says of its source."""

import itertools
import re

from data_prep.clinical_text.synonyms import LONG_FORMS
from data_prep.clinical_text.words import word_set

# Words of headings. A line in capitals with other words states something: "ANKLE SPRAIN".
HEADING_WORDS = word_set("""
ACCESS ADMISSION ADMITTING AND ASSESSMENT AT CARDIAC CARE CASE CHEST CHIEF CLINIC CLINICAL COMPLAINT COMPLAINTS
CONCLUSION CONCLUSIONS CONDITION CONSULTATION COURSE DATA DATE DEAR DEPARTMENT DESCRIPTION DETAILS DIAGNOSES
DIAGNOSIS DIAGNOSTIC DISCHARGE DISPOSITION DRUG DRUGS EMERGENCY EVENTS EXAM EXAMINATION EXAMINATIONS FAMILY FINAL
FINDINGS FOLLOW FOLLOW-UP FOR FROM GENERAL GIVEN GOALS HISTORY HOME HOSPITAL ILLNESS IMAGING IMPRESSION IN
INDICATION INDICATIONS INFORMATION INSTRUCTIONS INTERVAL INVESTIGATIONS LAB LABORATORY LABS LATER LETTER LIST MAIN
MANAGEMENT MEDICAL MEDICATION MEDICATIONS NARRATIVE NOTE NOTES NURSING OBJECTIVE OBSERVATIONS OF ON OPERATION
OPERATIVE OPINION OTHER OUTCOME PAST PATHOLOGY PATIENT PERSONAL PHYSICAL PLAN PREOPERATIVE POSTOPERATIVE PRESENT
PRESENTATION PRESENTING PREVIOUS PRIMARY PRINCIPAL PROBLEM PROBLEMS PROCEDURE PROCEDURES PROGRESS RADIOLOGY REASON
RECOMMENDATION RECOMMENDATIONS REPORT RESULTS REVIEW SECONDARY SIGNS SOCIAL SPECIMEN SPECIMENS STATUS STAY STUDIES
SUBJECTIVE SUMMARY SURGICAL SYMPTOMS SYSTEMS TECHNIQUE TEST TESTS THE THERAPY TO TREATMENT TREATMENTS UP VITAL
VITALS VISIT WITH BLOOD ALLERGIES IDENTIFICATION AGE SEX NAME BIRTH OBSTETRIC WORK WORK-UP FURTHER
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
CLAUSE = re.compile(
    r"[;:]|,? (?:and|but|while|whereas) (?=[^,;]*\b(?:was|were|is|are|had|has|received|developed)\b)|\. "
)


def is_said_absent(sentence: str, start: int) -> bool:
    """Return True if the clause around `start` says that the source does not mention something."""
    edges = [0, *(match.start() for match in CLAUSE.finditer(sentence)), len(sentence)]
    return any(
        first <= start < last and SAID_ABSENT.search(sentence, first, last) for first, last in itertools.pairwise(edges)
    )


def is_heading(line: str) -> bool:
    return not re.search(r"\d", line) and all(
        word in HEADING_WORDS or len(word) < 2 for word in re.findall(r"[A-Z][A-Z-]*", line)
    )


def in_small_letters(line: str) -> str:
    """The line without capitals, but for its abbreviations, if it has a word too long for one."""
    if not re.search(r"[A-Z]{5}", line):
        return line
    return re.sub(r"[A-Z]{2,}", lambda match: match[0] if match[0] in LONG_FORMS else match[0].lower(), line)
