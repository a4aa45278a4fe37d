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
    """(rule, stems) of each name that the source may use for the atom; first the text's own name, with rule ""."""
    own = tuple(str(word) for word in claim.atom.value)
    spelled = [pairs[own[0]] for pairs in (source.pairs, claim.pairs) if len(own) == 1 and own[0] in pairs]
    shortened = [(short,) for pairs in (source.pairs, claim.pairs) for short, long in pairs.items() if long == own]
    found = [("", own)]
    if claim.atom.thing == PHRASE:
        # Any of the words may name the denied thing: try the first words, then the last.
        found += [("less precise", own[:size]) for size in range(len(own) - 1, 0, -1)] + [("less precise", own[-1:])]
    found += [("abbreviation", name) for name in (*spelled, *shortened)] + list(other_names(own))
    if claim.atom.kind in FINDINGS:
        # "joint pain" has a synonym that "pain" does not have.
        before = [word for word, _, end in claim.reading.words if end < claim.atom.start][-1:]
        found += other_names((*before, *own)) if before else ()
    if claim.atom.kind == "drug":
        # A brand name, its generic name, and the synonyms of the generic name.
        found += [step for _, name in other_names(own) for step in other_names(name)]
    # One more step, for the synonyms of a long form.
    return found + [("synonym", name) for long in spelled for _, name in other_names(long)]


def check_name(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            support = source.holding(words)
            if claim.atom.kind == "drug" and another_drug(claim, source, support):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
    own = tuple(str(word) for word in claim.atom.value)
    if claim.atom.kind == "test" and any(source.holding(words) for words in implying(own)):
        return Verdict("derived", "implied by a finding")
    return ABSENT


def another_drug(claim: Claim, source: Source, support: list[int]) -> bool:
    """Return True if the retold sentence names a drug that the text's sentence does not, instead of this one."""
    named = {a.value for a in claim.reading.atoms if a.kind == "drug"}
    return retells_otherwise(claim, source, support, lambda other: other.kind == "drug" and other.value not in named)


def check_finding(claim: Claim, source: Source) -> Verdict:
    contradicted = False
    for rule, words in names_of(claim, source):
        # A statement about all of the words takes precedence over one about some of them.
        if contradicted and rule == "less precise":
            continue
        polarities = source.polarities(words)
        support = [n for n, kinds in polarities.items() if claim.atom.kind in kinds]
        contradicted = contradicted or bool(polarities)
        if support:
            if denied_where_retold(claim, source, support, words[-1]):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
    return CONTRADICTED if contradicted else ABSENT


def denied_where_retold(claim: Claim, source: Source, support: list[int], head: str) -> bool:
    """Return True if the retold sentence has the finding with the opposite polarity."""
    opposite = FINDINGS[1 - FINDINGS.index(claim.atom.kind)]
    return retells_otherwise(claim, source, support, lambda other: other.kind == opposite and head in other.value)


def check_abbreviation(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            return Verdict("derived", rule) if rule else STATED
    return ABSENT


# ---------------------------------------------------------------- sides


def check_side(claim: Claim, source: Source) -> Verdict:
    axis, side = claim.atom.value
    heads = set(claim.atom.thing)
    of_heads = [(n, a) for n, a in source.atoms_of("side") if a.value[0] == axis and heads & set(a.thing)]
    same = [(n, a) for n, a in of_heads if a.value[1] == side]
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
    if side != "both" and any(a.value[1] == "both" for _, a in of_heads):
        return Verdict("derived", "one of both sides")
    if side == "both" and {"left", "right"} <= {str(a.value[1]) for _, a in of_heads}:
        return Verdict("derived", "both sides")
    if of_heads:
        return CONTRADICTED
    # The same thing in other words: the retold sentence has the side too.
    akin = source.akin(claim.reading.near(claim.atom) | heads)
    near = [n for n, score in akin.items() if score >= 0.5 * max(akin.values())]
    if any(a.value == claim.atom.value for n, a in source.atoms_of("side") if n in near):
        return Verdict("derived", "same sentence")
    return ABSENT


def said_too_often(claim: Claim, source: Source) -> bool:
    """Return True if the text states the side more often than the sentence that it copies.

    "The right and right eye" for "the right and left eye" is an example.
    """
    akin = source.akin(claim.reading.near(claim.atom) | set(claim.atom.thing))
    copied = [source.readings[number] for number, score in akin.items() if score >= COPIED]
    if not copied:
        return False
    return times_said(claim.atom, claim.reading, {}) > max(times_said(claim.atom, r, source.pairs) for r in copied)


def times_said(side: Atom, reading: Reading, pairs: dict[str, tuple[str, ...]]) -> int:
    """The number of times that the sentence states the side, including abbreviations such as "LVEF" (left)."""
    word = str(side.value[1])
    shorts = [[pairs.get(short, ()), *LONG_FORMS.get(short, ())] for short, _, _ in reading.shorts]
    hidden = sum(any(word in long for long in longs) for longs in shorts)
    sides = [str(atom.value[1]) for atom in reading.atoms if atom.kind == "side" and atom.value[0] == side.value[0]]
    return hidden + sum(said in (word, "both") for said in sides)
