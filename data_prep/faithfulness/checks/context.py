"""A claim, what can be said of it, and in which context something in the source supports it.

Support has a context: a value that the source gives to another test, or that stands only where the source speaks of
something else while the sentence that the note retells has another value, is no support.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data_prep.clinical_text.synonyms import other_names
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading
from data_prep.faithfulness.checks.source import Source

# The sentence that a clause retells shares most of its words; one that merely shares the value shares few.
RETOLD, RATIO = 0.6, 1.5
# A clause that is copied almost word for word needs less of a lead.
COPIED, COPIED_RATIO = 0.9, 1.1


@dataclass(frozen=True)
class Verdict:
    status: str  # "stated", "derived" or "unsupported"
    rule: str = ""  # by which rule it is derived, or why it is not supported


STATED = Verdict("stated")
ABSENT = Verdict("unsupported", "absent")
CONTRADICTED = Verdict("unsupported", "the source says otherwise")
ELSEWHERE = Verdict("unsupported", "the source says it of something else")


@dataclass(frozen=True)
class Claim:
    """An atom in its sentence, and what the text itself says its abbreviations mean."""

    atom: Atom
    reading: Reading
    pairs: dict[str, tuple[str, ...]]


def retells_otherwise(claim: Claim, source: Source, support: Iterable[int], rival: Callable[[Atom], bool]) -> bool:
    """Whether another sentence than those that support the atom is the one retold, and holds a rival of it."""
    akin = source.akin(claim.reading.near(claim.atom))
    if not akin:
        return False
    supporting = set(support)
    ours = max((akin.get(number, 0.0) for number in supporting), default=0.0)

    def retold(score: float) -> bool:
        return (score >= RETOLD and score > RATIO * ours) or (score >= COPIED and score > COPIED_RATIO * ours)

    return any(
        retold(score) and number not in supporting and any(map(rival, source.readings[number].atoms))
        for number, score in akin.items()
    )


def same_thing(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two names may be of one thing; a number without a name beside it may belong to any."""
    if not ours or not theirs:
        return True
    a, b = ours[1:], theirs[1:]
    if set(a) <= set(b) or set(b) <= set(a):
        return True
    names_a = {a, *(name for _, name in other_names(a))}
    names_b = {b, *(name for _, name in other_names(b))}
    return bool(names_a & names_b) or any(set(x) <= set(y) or set(y) <= set(x) for x in names_a for y in names_b)
