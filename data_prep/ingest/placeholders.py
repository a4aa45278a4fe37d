"""Placeholders such as [NAME] for what the de-identification of real notes left in place of the removed words.

MIMIC-III                [**Known lastname 1234**]   [**2151-7-16**]   [** **]
MIMIC-IV                 ___
DE-ID (Pittsburgh)       **NAME[AAA BBB]   **DATE[Jan 05 2008]   **AGE[in 50s]
Philter                  *****   **/**/****
OpenI                    XXXX
angle or square brackets <NAME>   <DATE/>   [REDACTED]
"""

import re

# The words in a tag decide its placeholder; the first row that matches counts.
KINDS = (
    ("AGE", r"\bage\b"),
    ("PHONE", r"phone|\bfax\b|\bpager\b|extension|beeper"),
    (
        "ID",
        r"identifier|\bnumber\b|record|\bmrn\b|\bssn\b|\bid\b|\bidnum\b|-num\b|clip|\bjob\b|serial|e-?mail|\burl\b",
    ),
    ("HOSPITAL", r"hospital|clinic|\bward|\bunit\b|institution|nursing home|facility|\broom\b"),
    ("ORGANIZATION", r"company|employer|school|university|college|organi[sz]ation"),
    ("LOCATION", r"location|street|address|state\b|country|\bcity\b|\btown\b|\bzip\b|p\.?o\.? box|apartment|\bplace\b"),
    ("DATE", r"date|month|\byears?\b|holiday|\bdays?\b|\btime\b"),
    ("NAME", r"name|initial|attending|dictator|\bmd\b|doctor|contact info|\bpatient\b|physician|\bprofession\b"),
    # Dates without words: 2151-7-16, 12/11, 2118, 5-/2118.
    ("DATE", r"^(?=[^a-z]*\d)[\d\s/.,:-]+$"),
)
PLACEHOLDERS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in KINDS)
MIMIC_TAG = re.compile(r"\[\*\*(.*?)\*\*\]", re.DOTALL)
DE_ID_TAG = re.compile(
    r"\*\*(NAME|INITIALS|DATE|AGE|PLACE|INSTITUTION|PHONE|[A-Z]+-NUM(?:BER)?|DEVICE-ID|STREET-ADDRESS|ZIP-CODE|EMAIL|ROOM"
    r"|WEB-LOC)(?:\[[^\[\]\n]{0,80}\]|(?![\w*-]))"
)
WORD_TAG = re.compile(
    r"<(?:/?PHI:? ?)?(NAME|PATIENT|DOCTOR|DATE|TIME|AGE|LOCATION|CITY|STATE|HOSPITAL|PHONE|FAX|ID|IDNUM|MRN|SSN|EMAIL"
    r"|URL|ORGANIZATION|PROFESSION|CONTACT|REDACTED|REMOVED|PHI)(?:[-_ ]?\d+)? ?/?>"
    r"|\[(REDACTED|REMOVED|DEIDENTIFIED|DE-IDENTIFIED|PHI)\]"
)
BLANK = re.compile(r"(?<!_)_{3}(?!_)")  # longer runs are lines to write on
OPENI = re.compile(r"\bXXXX\b")
PHILTER_DATE = re.compile(r"(?<![*\w])\*{1,2}([/-])\*{1,2}\1\*{2,4}(?![*\w])")
PHILTER = re.compile(r"(?<![*\w\[])\*{3,}(?![*\w\]])")


def kind_of(words: str) -> str:
    return next((name for name, pattern in PLACEHOLDERS if pattern.search(words)), "REMOVED")


def without_asterisks(line: str) -> str:
    """A line with a placeholder for each word of asterisks. Rules and marks of headings are left as they are."""
    stripped = line.strip()
    if "***" not in stripped or (stripped.startswith("**") and stripped.endswith("**")):
        return line
    mark = re.match(r"\s*\*{3,}(?=\s*(?:[A-Z]|$))", line)
    start = mark.end() if mark else 0
    return line[:start] + PHILTER.sub("[REMOVED]", line[start:])


def with_placeholders(text: str) -> str:
    """The text with a placeholder for each tag or blank of the de-identification."""
    text = MIMIC_TAG.sub(lambda match: f"[{kind_of(match[1])}]", text)
    text = WORD_TAG.sub(lambda match: f"[{kind_of(match[1] or match[2])}]", text)
    text = OPENI.sub("[REMOVED]", BLANK.sub("[REMOVED]", text))
    if "**" in text:
        text = PHILTER_DATE.sub("[DATE]", DE_ID_TAG.sub(lambda match: f"[{kind_of(match[1])}]", text))
        text = "\n".join(map(without_asterisks, text.split("\n")))
    return text
