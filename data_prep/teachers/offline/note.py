"""Conversion of a case report to a note: the report's own sentences under the headings of a chart.

DISCHARGE SUMMARY

PATIENT: 36-year-old female

CHIEF COMPLAINT: aggravating right upper abdominal pain for 2 hours

HISTORY OF PRESENT ILLNESS:
36-year-old female presented at the emergency department with aggravating right upper abdominal pain for 2 hours.
"""

import re

from data_prep.clinical_text.number_words import SPELLED
from data_prep.clinical_text.sentences import normalise, split_sentences, tidy
from data_prep.teachers.offline.layouts import LAYOUTS
from data_prep.teachers.offline.sections import CHIEF_COMPLAINT, LEAD_IN, assign_sections, is_about_patient

PATIENT = "PATIENT"

SEXES = r"(?:male|female|man|woman|boy|girl|gentleman|lady|infant|neonate|newborn|child|toddler|adolescent|teenager)"
WHO = re.compile(
    rf"\b((?:\d{{1,3}}(?:\.\d)?|(?<!and a )(?:one|{SPELLED}))[- ](?:years?|yr|y|months?|weeks?|days?)[- ](?:old|"
    rf"of age)\b(?:,?[ -](?:[A-Za-z-]+\s){{0,4}}?{SEXES}\b)?"
    rf"|{SEXES} aged (?:of )?\d{{1,3}} (?:years|months|weeks|days))",
    re.IGNORECASE,
)
LONGEST_COMPLAINT = 22  # words
# More than one patient in one note, so that it is unclear who "she" is.
SEVERAL = re.compile(
    r"\b(?:two|three|four|five|both|all|these|our|\d) (?:\w+ )?(?:patients|cases|siblings|twins)\b|\b(?:second|third|"
    r"other|first) (?:patient|case)\b|\b(?:case|patient) (?:no\. ?)?[12]\b",
    re.IGNORECASE,
)
COMPLAINT = re.compile(
    r"\b(?:present(?:ed|ing|s)|admitted|referred|complain(?:ed|ing|s|ts?)|visited|consulted|evaluated|seen|brought|"
    r"attended|came|hospitali[sz]ed|suffer(?:ed|ing))\b"
    r"[^.;]{0,90}?\b(?:with|for|of|due to|because of|from|complaining of)\s+(?:a\s+|an\s+|the\s+)?"
    r"((?!her |his |further|evaluation|our |management|medical|surgical|treatment|\d+[- ]year|age\b|"
    r"investigation)(?:[^.;()]|\.(?=\d)){5,})",
    re.IGNORECASE,
)
COMPLAINT_END = re.compile(
    r",?\s+(?:and (?:was|had|he|she|is|his|her|the|underwent)\b|which\b|who\b|that\b|where\b|he\b|she\b|was\b|were\b|"
    r"had (?!been)|but\b|after which|as well as he)"
    r"|,\s+(?=[A-Z][a-z])|,\s+(?:and\s+)?(?:associated|accompanied|without|with no|starting|started|beginning|"
    r"although|since|all|but|except)\b"
)
# Articles that a chart leaves out, only before these words: "a few" without its article is a different quantity.
LEADING_ARTICLE = re.compile(
    r"^(?:The (?=(?:patient|abdomen|lungs?|remainder|rest|examination|physical|laboratory|neurological|"
    r"cardiovascular|initial|blood|serum|chest|"
    r"white|liver|renal|electrocardiogram|echocardiogram|urine|histolog\w+|patholog\w+|biopsy|histopath\w+|past|"
    r"family|vital)\b)"
    r"|An? (?=(?:\d|[a-z]+[- ]year|chest|abdominal|computed|magnetic|CT|MRI|repeat|biopsy)))"
)
THERE_WAS = re.compile(
    r"^There (?:was|were|is|are) (?=(?:no|also no|a|an|mild|moderate|severe|bilateral|marked|diffuse)\b)(?:an? )?"
)
EMPTY_OPENING = re.compile(r"^(?:On|At|In) (?:the )?(?:physical |clinical )?examination,\s+(?=\w)", re.IGNORECASE)

# The text before a list of values: "... were white cells 12,000/mm3 (70% poly), haemoglobin 12.8 g/dL, ...".
LIST_HEAD = re.compile(
    r"^(.{0,100}?\b(?:findings?|results?|values?|tests?|data|examinations?|parameters|analys[ie]s|investigations|"
    r"signs|studies|count|work-?up|profile)\b.{0,40}?"
    r"\b(?:were as follows|as follows|findings were|results were|values were|included|revealed|showed|were|was|"
    r"demonstrated|disclosed|indicated|with))[:,]?\s+(?=.*\d)"
)
# A value without a name, which shows that the comma before it does not separate items.
BARE_VALUE = re.compile(r"^[<>≥≤~]?\s?\d[\d.,]*\s?\S*$")
LIST_COMMA = re.compile(r"[,;]\s+(?:and\s+)?(?![^()]*\))")


def write_note(report: str, note_type: str = "discharge summary") -> str:
    """The note of one report, or "" if the report lacks a required section.

    Headings are added; sentences about the literature, and sentences of other types of notes, are left out.
    """
    layout = LAYOUTS[note_type]
    kept = [without_lead_in(tidy(s)) for s in split_sentences(normalise(report)) if is_about_patient(s)]
    sentences = [s for s in kept if len(s) > 2]
    placed = list(zip(sentences, assign_sections(sentences), strict=True))
    sections: dict[str, str] = {}
    for part in layout.parts:
        lines = [
            trim(sentence)
            for sentence, section in placed
            if section in part.takes and (part.only is None or part.only.search(sentence))
        ]
        if lines:
            body = " ".join(lines) if part.prose else "\n".join(bullet(line) for line in lines)
            sections[part.heading] = f"{part.heading}:\n{body}"
    if not all(heading in sections for heading in layout.needs):
        return ""
    return "\n\n".join(filter(None, [layout.title, header(sentences), layout.opening, *sections.values()]))


def without_lead_in(sentence: str) -> str:
    shorter = LEAD_IN.sub("", sentence)
    return sentence if shorter == sentence else shorter[0].upper() + shorter[1:]


def header(sentences: list[str]) -> str:
    """The header lines with age, sex and complaint, if the first four sentences state them explicitly."""
    if SEVERAL.search(" ".join(sentences)):
        return ""
    opening = sentences[:4]
    who = next((match[1] for match in map(WHO.search, opening) if match), "")
    complaint = next((found for found in map(find_complaint, opening) if found), "")
    lines = [f"{PATIENT}: {who}"] if who else []
    return "\n".join(lines + ([f"{CHIEF_COMPLAINT}: {complaint}"] if complaint else []))


def find_complaint(sentence: str) -> str:
    match = COMPLAINT.search(sentence)
    if not match:
        return ""
    phrase = COMPLAINT_END.split(match[1])[0].rstrip(" ,.")
    # A long phrase is cut at a comma or not used at all, so that it never ends in the middle of a thought.
    while len(phrase.split()) > LONGEST_COMPLAINT and ", " in phrase:
        phrase = phrase[: phrase.rindex(", ")]
    return phrase if len(phrase.split()) <= LONGEST_COMPLAINT and len(phrase) > 3 else ""


def trim(sentence: str) -> str:
    """The sentence without an opening that has no content, as in a chart; facts stay unchanged."""
    for pattern in (EMPTY_OPENING, THERE_WAS, LEADING_ARTICLE):
        shorter = pattern.sub("", sentence)
        if shorter != sentence and len(shorter) > 8:
            sentence = shorter[0].upper() + shorter[1:]
    return sentence if sentence[-1] in ".!?:" else sentence + "."


def bullet(sentence: str) -> str:
    """The sentence as one bullet, or as a bullet with one line for each value of at least four measurements."""
    match = LIST_HEAD.match(sentence)
    items = LIST_COMMA.split(sentence[match.end() :].rstrip(".")) if match else []
    measured = [item for item in items if re.search(r"\d", item) and len(item.split()) <= 12]
    if (
        match
        and not any(BARE_VALUE.match(item) for item in items)
        and len(items) >= 4
        and len(measured) >= 0.8 * len(items)
        and all(len(item) < 90 for item in items)
    ):
        return "\n".join([f"- {match[1]}:", *(f"  - {item.strip()}" for item in items)])
    return f"- {sentence}"
