"""Claims and verdicts, and the rules for whether a claim's context agrees with the source.

A value in the source does not support a claim if it belongs to another test, or if the sentence that the text retells
states a different value.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data_prep.clinical_text.synonyms import other_names
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading
from data_prep.faithfulness.checks.source import Source

# A sentence counts as retold if it has at least the share RETOLD of the clause's word weight, and more than RATIO times
# the share of any supporting sentence. A sentence that merely contains the value shares few words.
RETOLD, RATIO = 0.8, 1.5
# A sentence that is copied almost verbatim needs a smaller lead.
COPIED, COPIED_RATIO = 0.9, 1.1


@dataclass(frozen=True)
class Verdict:
    status: str  # "stated", "derived" or "unsupported"
    rule: str = ""  # the rule by which the atom is derived, or the reason why it is unsupported
    sentences: tuple[int, ...] = ()  # numbers of the source's sentences that support or contradict the atom

    def citing(self, sentences: Iterable[int]) -> "Verdict":
        return Verdict(self.status, self.rule, tuple(dict.fromkeys(sentences)))


STATED = Verdict("stated")
ABSENT = Verdict("unsupported", "absent")
CONTRADICTED = Verdict("unsupported", "the source says otherwise")
ELSEWHERE = Verdict("unsupported", "the source says it of something else")


@dataclass(frozen=True)
class Claim:
    """An atom in its sentence, and the text's own definitions of abbreviations (short form -> stems)."""

    atom: Atom
    reading: Reading
    pairs: dict[str, tuple[str, ...]]


def retells_otherwise(
    claim: Claim, source: Source, support: Iterable[int], rival: Callable[[Atom], bool], least: float = RETOLD
) -> bool:
    """Return True if the text retells a sentence that does not support the atom but has a rival of it.

    `support` holds the numbers of the supporting sentences; `rival` recognizes atoms that contradict the claim; `least`
    is the share of the words that a sentence must have to count as retold.
    """
    akin = source.akin(claim.reading.near(claim.atom))
    if not akin:
        return False
    supporting = set(support)
    best = max((akin.get(number, 0.0) for number in supporting), default=0.0)

    def retold(score: float) -> bool:
        return (score >= least and score > RATIO * best) or (score >= COPIED and score > COPIED_RATIO * best)

    return any(
        retold(score) and number not in supporting and any(map(rival, source.readings[number].atoms))
        for number, score in akin.items()
    )


def same_thing(claimed: tuple[str, ...], original: tuple[str, ...]) -> bool:
    """Return True if two things may be the same; a number without an adjacent name may belong to anything."""
    if not claimed or not original:
        return True
    a, b = claimed[1:], original[1:]
    if set(a) <= set(b) or set(b) <= set(a):
        return True
    names_a = {a, *(name for _, name in other_names(a))}
    names_b = {b, *(name for _, name in other_names(b))}
    spelled = len(a) == len(b) == 1 and min(len(a[0]), len(b[0])) > 6 and a[0][:6] == b[0][:6]
    return (
        spelled
        or bool(names_a & names_b)
        or any(set(x) <= set(y) or set(y) <= set(x) for x in names_a for y in names_b)
    )


def is_of(atom: Atom, reading: Reading, thing: tuple[str, ...]) -> bool:
    """Return True if the number is of this thing, or of none while its sentence names the thing: a list of values."""
    if atom.thing:
        return same_thing(thing, atom.thing)
    return any(same_thing(thing, (a.kind, *map(str, a.value))) for a in reading.atoms if a.kind in ("test", "drug"))
