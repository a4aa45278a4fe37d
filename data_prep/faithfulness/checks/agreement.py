"""Agreement between the statuses of a thing in a text and in its source."""

from data_prep.clinical_text.statuses.cue_patterns import (
    ABSENT,
    ALLERGY,
    CONDITIONAL,
    PLANNED,
    SOFT,
    SUBJECT,
    SUSPECTED,
)
from data_prep.clinical_text.statuses.people import ANY_OF, FAMILY, MAY_BE_PATIENT

OPEN = frozenset((SUSPECTED, PLANNED, CONDITIONAL, ALLERGY))


def agree(claimed: frozenset[str], original: frozenset[str]) -> bool:
    """Return True if what the source says under `original` supports a statement under `claimed`.

    A doubt may neither be left out nor added. A plan may be told of what was done; what was only planned was not done.
    """
    # "The test for malaria was negative": a result, which says nothing of malaria.
    if claimed == original or {ABSENT, CONDITIONAL} <= claimed:
        return True
    if (ABSENT in claimed) != (ABSENT in original) or not same_subject(subjects(claimed), subjects(original)):
        return False
    if ABSENT in claimed:
        return True
    # "Indicative of" is neither a doubt nor a certainty.
    if SOFT in claimed | original:
        claimed, original = claimed - {SOFT, SUSPECTED}, original - {SOFT, SUSPECTED}
    left_open = original & OPEN
    return (
        bool(left_open & claimed)
        or not (left_open or claimed & {SUSPECTED, ALLERGY})
        or bool(left_open and claimed & OPEN)
    )


def subjects(statuses: frozenset[str]) -> frozenset[str]:
    return frozenset(s.removeprefix(SUBJECT) for s in statuses if s.startswith(SUBJECT))


def same_subject(claimed: frozenset[str], original: frozenset[str]) -> bool:
    """Return True if both may speak of one person. "Family" is any relative; a newborn may be the patient."""
    a, b = claimed - MAY_BE_PATIENT, original - MAY_BE_PATIENT
    if not a or not b:
        return not a and not b and not (claimed and original and claimed.isdisjoint(original))
    a |= {member for name in a for member in ANY_OF.get(name, ())}
    b |= {member for name in b for member in ANY_OF.get(name, ())}
    return bool(a & b) or ("family" in a | b and a <= FAMILY and b <= FAMILY)
