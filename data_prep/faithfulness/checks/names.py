"""Checks of findings with their polarity, drugs, tests, procedures, abbreviations, and of sides."""

from data_prep.clinical_text.synonyms import LONG_FORMS, implying, other_names
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading
from data_prep.faithfulness.atoms.terms import PHRASE
from data_prep.faithfulness.checks.context import (
    ABSENT,
    CONTRADICTED,
    COPIED,
    STATED,
    Claim,
    Verdict,
    retells_otherwise,
)
from data_prep.faithfulness.checks.source import FINDINGS, Source

NAMED = ("drug", "test", "procedure")


def names_of(claim: Claim, source: Source) -> list[tuple[str, tuple[str, ...]]]:
    """(rule, words) under which the source may have the thing; the note's own words first."""
    own = tuple(str(part) for part in claim.atom.value)
    spelled = [pairs[own[0]] for pairs in (source.pairs, claim.pairs) if len(own) == 1 and own[0] in pairs]
    shortened = [(short,) for pairs in (source.pairs, claim.pairs) for short, long in pairs.items() if long == own]
    found = [("", own)]
    if claim.atom.thing == PHRASE:
        # Which of the words say what is denied is not known: the first ones, or the last.
        found += [("less precise", own[:size]) for size in range(len(own) - 1, 0, -1)] + [("less precise", own[-1:])]
    found += [("abbreviation", name) for name in (*spelled, *shortened)] + list(other_names(own))
    if claim.atom.kind in FINDINGS:
        # "joint pain" has a name of its own, which "pain" has not.
        before = [word for word, _, end in claim.reading.words if end < claim.atom.start][-1:]
        found += other_names((*before, *own)) if before else ()
    if claim.atom.kind == "drug":
        # A brand, its generic name, and what that is called elsewhere.
        found += [step for _, name in other_names(own) for step in other_names(name)]
    # One more step, for a long form that has another name itself.
    return found + [("synonym", name) for long in spelled for _, name in other_names(long)]


def check_name(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            support = source.holding(words)
            if claim.atom.kind == "drug" and another_drug(claim, source, support):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
    own = tuple(str(part) for part in claim.atom.value)
    if claim.atom.kind == "test" and any(source.holding(words) for words in implying(own)):
        return Verdict("derived", "implied by a finding")
    return ABSENT


def another_drug(claim: Claim, source: Source, support: list[int]) -> bool:
    """The retold sentence names a drug that the note's sentence does not, and not this one."""
    named = {a.value for a in claim.reading.atoms if a.kind == "drug"}
    return retells_otherwise(claim, source, support, lambda other: other.kind == "drug" and other.value not in named)


def check_finding(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom.kind
    against = False
    for rule, words in names_of(claim, source):
        # What the source says of all of the words stands against what it says of one.
        if against and rule == "less precise":
            continue
        polarities = source.polarities(words)
        support = [n for n, kinds in polarities.items() if ours in kinds]
        against = against or bool(polarities)
        if support:
            if denied_where_retold(claim, source, support, words[-1]):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
    return CONTRADICTED if against else ABSENT


def denied_where_retold(claim: Claim, source: Source, support: list[int], head: str) -> bool:
    """Whether the retold sentence has the finding with the other polarity."""
    theirs = FINDINGS[1 - FINDINGS.index(claim.atom.kind)]
    return retells_otherwise(claim, source, support, lambda other: other.kind == theirs and head in other.value)


def check_abbreviation(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            return Verdict("derived", rule) if rule else STATED
    return ABSENT


# ---------------------------------------------------------------- sides


def check_side(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom
    axis, side = ours.value
    heads = set(ours.thing)
    spoken_of = [(n, a) for n, a in source.of("side") if a.value[0] == axis and heads & set(a.thing)]
    same = [(n, a) for n, a in spoken_of if a.value[1] == side]
    if same:

        def rival(other: Atom) -> bool:
            return (
                other.kind == "side"
                and other.value[0] == axis
                and other.value[1] not in (side, "both")
                and bool(heads & set(other.thing))
            )

        otherwise = retells_otherwise(claim, source, (n for n, _ in same), rival) or said_too_often(claim, source)
        return CONTRADICTED if otherwise else STATED
    if side != "both" and any(a.value[1] == "both" for _, a in spoken_of):
        return Verdict("derived", "one of both sides")
    if side == "both" and {"left", "right"} <= {str(a.value[1]) for _, a in spoken_of}:
        return Verdict("derived", "both sides")
    if spoken_of:
        return CONTRADICTED
    # Said of the same thing in other words: the sentence that is retold has the side too.
    akin = source.akin(claim.reading.near(ours) | heads)
    near = [n for n, score in akin.items() if score >= 0.5 * max(akin.values())]
    if any(a.value == ours.value for n, a in source.of("side") if n in near):
        return Verdict("derived", "same sentence")
    return ABSENT


def said_too_often(claim: Claim, source: Source) -> bool:
    """ "the right and right eye" of "the right and left eye": more often than the sentence that is copied has it."""
    akin = source.akin(claim.reading.near(claim.atom) | set(claim.atom.thing))
    copied = [source.readings[number] for number, score in akin.items() if score >= COPIED]
    if not copied:
        return False
    return times_said(claim.atom, claim.reading, {}) > max(times_said(claim.atom, r, source.pairs) for r in copied)


def times_said(side: Atom, reading: Reading, pairs: dict[str, tuple[str, ...]]) -> int:
    """A side within an abbreviation counts: "LVEF" speaks of the left."""
    word = str(side.value[1])
    shorts = [[pairs.get(short, ()), *LONG_FORMS.get(short, ())] for short, _, _ in reading.shorts]
    hidden = sum(any(word in long for long in longs) for longs in shorts)
    sides = [str(atom.value[1]) for atom in reading.atoms if atom.kind == "side" and atom.value[0] == side.value[0]]
    return hidden + sum(said in (word, "both") for said in sides)
