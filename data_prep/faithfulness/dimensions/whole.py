"""Facts that a whole source gives about its patient: sex, death, a tube. A text may give no other value anywhere."""

import re
from collections.abc import Iterator

from data_prep.clinical_text.statuses.scopes import scopes
from data_prep.faithfulness.dimensions.comparison import Compared, Statements
from data_prep.faithfulness.dimensions.values import Value, values_of

WHOLE = ("outcome", "airway", "kinship", "parity")
# "A 61-year-old woman", "61 y/o F": the patient, and not somebody whom the text mentions.
FEMALE = r"woman|female|girl|lady|F(?![\w'’-])"
MALE = r"man|male|boy|gentleman|M(?![\w'’-])"
AGED = (
    r"\b\d{1,3}(?:\s?-?\s?(?:years?|yrs?|y|months?|mo|weeks?|days?)?[- /]*(?:old|o|of age)?\b[,-]?\s?|\s?)"
    r"(?:[A-Za-z-]+\s){0,3}?"
)
PATIENT_SEX = re.compile(rf"(?:{AGED})(?:(?P<female>{FEMALE})|(?P<male>{MALE}))(?![a-z-])")
# In a text about one patient, any of these words outside of a relative's scope.
NOUN = re.compile(
    r"\b(?:(?P<female>woman|female|girl|lady|mrs|she|her|herself)|(?P<male>man|male|boy|gentleman|mr|he|his|him|himself))\b",
    re.IGNORECASE,
)
SUBJECT_NOUN = re.compile(
    r"^\W*(?:(?:the|an?|this|our|his|her|little|young|elderly|old|\w+ed|baby|newborn|patient is an?"
    r"|the patient (?:is|was) an?)\s)*"
    r"(?:\w+\s){0,1}?(?:(?P<female>woman|female|girl|lady)|(?P<male>man|male|boy|gentleman))\b",
    re.IGNORECASE,
)


def sex_of(text: str) -> str:
    """The sex of the one patient of a text, or "": by "N-year-old woman", or by the words that it uses of one sex."""
    aged = {str(match.lastgroup) for match in PATIENT_SEX.finditer(text)}
    if len(aged) == 1:
        return aged.pop()
    if aged:
        return ""
    counts = {"female": 0, "male": 0}
    for match in NOUN.finditer(text):
        counts[str(match.lastgroup)] += 1
    major = max(counts, key=lambda sex: counts[sex])
    other = counts["male" if major == "female" else "female"]
    return major if counts[major] >= 3 and other * 5 <= counts[major] else ""


def of_whole(sentence: str, source: Statements, sex: str) -> Iterator[Compared]:
    yield from wrong_sex(sentence, sex, source)
    for value in values_of(sentence):
        if value.dimension in WHOLE and of_patient(sentence, value):
            said = [
                (number, other)
                for number, other in source.values.get(value.dimension, ())
                if of_patient(source.sentences[number], other)
            ]
            key = (value.value, value.negated)
            if said and all((other.value, other.negated) != key for _, other in said):
                number, other = said[0]
                words = source.sentences[number][other.start : other.end]
                yield Compared(
                    value.dimension, value.value, value.start, value.end, f"the source says “{words}” alone", number
                )


def of_patient(sentence: str, value: Value) -> bool:
    # Parents are those who are related.
    return value.dimension == "kinship" or not any(
        scope.status.startswith("of:") and scope.start <= value.start < scope.end for scope in scopes(sentence)
    )


# "Gave birth to a healthy boy", "a male infant": the sex of a child, who is not the patient of the whole text.
CHILD = (
    r"\b(?:baby|infant|newborn|neonate|stillborn|fetus|foetus|healthy|live|preterm|premature|delivered an?|birth to an?"
    r"|bore an?)\s(?:\w+\s){0,2}?(?:(?P<female>girl|female|daughter)|(?P<male>boy|male|son))\b"
)
CHILD_SEX = re.compile(CHILD, re.IGNORECASE)
SEX_CHILD = re.compile(
    r"\b(?:(?P<female>female)|(?P<male>male))\s(?:\w+\s)?(?:baby|infant|newborn|neonate|fetus|foetus)\b", re.IGNORECASE
)


def sexes_of_children(text: str) -> list[re.Match[str]]:
    return [*CHILD_SEX.finditer(text), *SEX_CHILD.finditer(text)]


def wrong_sex(sentence: str, sex: str, source: Statements) -> Iterator[Compared]:
    children = sexes_of_children(sentence)
    if children:
        said = {match.lastgroup for match in sexes_of_children(source.text)}
        for child in children:
            if said and child.lastgroup not in said:
                start, end = child.span(str(child.lastgroup))
                reason = f"the source's child is {' and '.join(sorted(map(str, said)))}"
                yield Compared("sex", str(child.lastgroup), start, end, reason, 0)
        return
    match = (PATIENT_SEX.search(sentence) or SUBJECT_NOUN.match(sentence)) if sex else None
    if match and match.lastgroup != sex:
        start, end = match.span(str(match.lastgroup))
        yield Compared("sex", str(match.lastgroup), start, end, f"the source's patient is {sex}", 0)
