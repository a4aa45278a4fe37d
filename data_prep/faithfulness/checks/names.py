"""Checks of findings with their polarity, drugs, tests, procedures, abbreviations, and of sides."""

import re
from collections.abc import Iterator

from data_prep.clinical_text.statuses.cue_patterns import ABSENT as ABSENT_STATUS
from data_prep.clinical_text.statuses.cue_patterns import PLANNED, SUBJECT
from data_prep.clinical_text.synonyms import CLASSES, LONG_FORMS, implying, other_names
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading
from data_prep.faithfulness.atoms.sides import EYES
from data_prep.faithfulness.atoms.terms import PHRASE
from data_prep.faithfulness.checks.agreement import agree
from data_prep.faithfulness.checks.context import (
    ABSENT,
    CONTRADICTED,
    COPIED,
    RETOLD,
    STATED,
    Claim,
    Verdict,
    retells_otherwise,
)
from data_prep.faithfulness.checks.source import FINDINGS, Source
from data_prep.faithfulness.dimensions.roots import root

FEW = 2  # sentences
LEAST_WORDS = 5
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
    found += [("abbreviation", name) for name in (*spelled, *shortened) if not means_another(name, own, source)]
    found += [(rule, name) for rule, name in other_names(own) if not means_another(name, own, source)]
    if claim.atom.kind in FINDINGS:
        # "joint pain" has a synonym that "pain" does not have.
        before = [word for word, _, end in claim.reading.words if end < claim.atom.start][-1:]
        longer = (*before, *own)
        found += [step for step in other_names(longer) if before and not means_another(step[1], longer, source)]
    if claim.atom.kind == "drug":
        # A brand name, its generic name, and the synonyms of the generic name.
        found += [step for _, name in other_names(own) for step in other_names(name)]
    # One more step, for the synonyms of a long form.
    return found + [("synonym", name) for long in spelled for _, name in other_names(long)]


def means_another(short: tuple[str, ...], name: tuple[str, ...], source: Source) -> bool:
    """Return True for an abbreviation that the source defines otherwise: "MS" where it says mitral stenosis (MS)."""
    shorts = ((short, name), (name, short))
    return any(len(one) == 1 and one[0] in source.pairs and source.pairs[one[0]] != long for one, long in shorts)


def looser_support(claim: Claim, source: Source) -> Iterator[tuple[str, list[int]]]:
    """(rule, sentences) of what supports a name that the source does not write: another form of it, or a member."""
    own = [str(word) for word in claim.atom.value]
    yield "another form", source.holding_roots([root(word) for word in own])
    if len(own) > 1 and own[-1] in TESTING | TREATING | DISEASES:
        yield "less precise", source.holding_roots([root(word) for word in own[:-1]])
    if claim.atom.kind == "test" and len(own) == 1 and len(own[0]) > 5:
        yield "implied by a finding", source.containing(own[0])  # "albumin" in hypoalbuminemia
    if len(own) == 1 and len(own[0]) >= 7:
        yield "spelling", source.spelled_like(own[0])
    if len(own) == 1 and len(own[0]) > 6:
        # "sarcoma" for a leiomyosarcoma
        yield "more general", source.ending_in(own[0])
    if " ".join(own) in CLASSES:
        yield "more general", source.matching(CLASSES[" ".join(own)])
    elif own[-1] in CLASSES:
        # "cervical cancer" for a carcinoma of the cervix
        members = source.matching(CLASSES[own[-1]])
        yield "more general", sorted(set(members).intersection(source.holding_roots([root(word) for word in own[:-1]])))
    if len(own) == 1 and own[0].isupper():
        yield "initials", source.with_initials(own[0].lower())


def check_name(claim: Claim, source: Source) -> Verdict:
    """The check of drugs, tests and procedures, which the source must not only name as refused or planned."""
    contradicted = False
    for rule, words in names_of(claim, source):
        support, against = supporting(claim, source, words)
        # What was done at one time may not have been done at another.
        contradicted = contradicted or 0 < len(against) <= (
            FEW if ABSENT_STATUS in claim.atom.statuses else len(against)
        )
        if support:
            if claim.atom.kind == "drug" and another_drug(claim, source, support):
                return CONTRADICTED
            return (Verdict("derived", rule) if rule else STATED).citing(support)
    if contradicted:
        return CONTRADICTED
    if loosely := by_looser_support(claim, source):
        return loosely
    if ABSENT_STATUS in claim.atom.statuses and any(source.holding(words) for _, words in names_of(claim, source)):
        return Verdict("derived", "done at another time")
    own = tuple(str(word) for word in claim.atom.value)
    if claim.atom.kind == "test" and (support := [n for words in implying(own) for n in source.holding(words)]):
        return Verdict("derived", "implied by a finding").citing(support)
    return ABSENT


def supporting(claim: Claim, source: Source, words: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """The sentences that name the thing under statuses that agree with the claim's, and those that do not."""
    support: list[int] = []
    against: list[int] = []
    # A drug that was advised is one that was taken, unless another word says that it was not.
    ignored = {PLANNED} if claim.atom.kind == "drug" else set()
    for number, said in source.mentions(words).items():
        if MOTHER in claim.atom.statuses and PREGNANCY.search(source.readings[number].text):
            said = {statuses | {MOTHER} for statuses in said}  # the mother need not be named
        agreeing = any(agree(claim.atom.statuses, statuses - ignored) for statuses in said)
        (support if agreeing else against).append(number)
    return support, against


MOTHER = SUBJECT + "mother"
PREGNANCY = re.compile(
    r"pregnan|gestation|c(?:a|ae|e)sarean|c-section|trimester|obstetric|antenatal|prenatal|\b(?:labou?r|deliver(?:y|ed))\b",
    re.IGNORECASE,
)


def another_drug(claim: Claim, source: Source, support: list[int]) -> bool:
    """Return True if the retold sentence names a drug that the text's sentence does not, instead of this one."""
    named = {a.value for a in claim.reading.atoms if a.kind == "drug"}
    if sum(source.weight(word) > 0 for word in claim.reading.near(claim.atom)) < LEAST_WORDS:
        return False  # a few words may all be those of another sentence
    return retells_otherwise(
        claim, source, support, lambda other: other.kind == "drug" and other.value not in named, COPIED
    )


def check_finding(claim: Claim, source: Source) -> Verdict:
    contradicted = False
    for rule, words in names_of(claim, source):
        # A statement about all of the words takes precedence over one about some of them.
        if contradicted and rule == "less precise":
            continue
        support, against = supporting(claim, source, words)
        contradicted = contradicted or bool(against and rule != "less precise")
        if support:
            if denied_where_retold(claim, source, support, words[-1]):
                return CONTRADICTED
            return (Verdict("derived", rule) if rule else STATED).citing(support)
    if contradicted:
        return Verdict("derived", "denied in part") if denied_in_part(claim, source) else CONTRADICTED
    if loosely := by_looser_support(claim, source):
        return loosely
    # Plain words after "not" that the source does not have either: "was not examined" is no finding.
    return Verdict("derived", "words of no finding") if claim.atom.thing == PHRASE else ABSENT


# Words for a test that a source may leave out or say otherwise: "genetic testing", "confirmed genetically".
TREATING = frozenset(("care", "therapy", "treatment", "management"))
TESTING = frozenset(("testing", "test", "examination", "analysis", "study", "stain", "staining", "assay", "level"))
DISEASES = frozenset(("disease", "disorder", "phenomenon"))
PART = re.compile(
    r"\b(?:again|outside|elsewhere|other|another|further|new|more|residual|recurr\w*|beyond|anymore|any longer|since"
    r"|left|remain\w*|later|now|without)\b",
    re.IGNORECASE,
)


def denied_in_part(claim: Claim, source: Source) -> bool:
    """Return True if what is denied may have been there at another time or place: "no ulcer formed again".

    So may plain words after "not", and "healed without surgery", unless a sentence of the source is retold.
    """
    atom, text = claim.atom, claim.reading.text
    if ABSENT_STATUS not in atom.statuses:
        return False
    if PART.search(text, max(0, atom.start - 30), min(len(text), atom.end + 40)):
        return True
    akin = source.akin(claim.reading.near(atom))
    return atom.thing == PHRASE and max(akin.values(), default=1.0) < RETOLD


def by_looser_support(claim: Claim, source: Source) -> Verdict | None:
    """The verdict by other forms of the name and by members of its class; None if the source has none.

    A class may be named of one member and denied of another, so that only a text without any agreement contradicts.
    """
    contradicted = False
    for rule, numbers in looser_support(claim, source):
        for number in numbers:
            said = source.statuses_in(number)
            if claim.atom.statuses in said or any(agree(claim.atom.statuses, statuses) for statuses in said):
                return Verdict("derived", rule, (number,))
            contradicted = True
    return CONTRADICTED if contradicted else None


def denied_where_retold(claim: Claim, source: Source, support: list[int], head: str) -> bool:
    """Return True if the retold sentence has the finding with the opposite polarity."""
    opposite = FINDINGS[1 - FINDINGS.index(claim.atom.kind)]
    return retells_otherwise(claim, source, support, lambda other: other.kind == opposite and head in other.value)


def check_abbreviation(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if support := source.holding(words):
            return (Verdict("derived", rule) if rule else STATED).citing(support)
    for rule, numbers in looser_support(claim, source):
        if numbers:
            return Verdict("derived", rule).citing(numbers)
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

        otherwise = claim.atom.text not in EYES and (
            retells_otherwise(claim, source, (n for n, _ in same), rival) or said_too_often(claim, source)
        )
        return (CONTRADICTED if otherwise else STATED).citing(n for n, _ in same)
    numbers = [n for n, _ in of_heads]
    if side != "both" and any(a.value[1] == "both" for _, a in of_heads):
        return Verdict("derived", "one of both sides").citing(numbers)
    if side == "both" and {"left", "right"} <= {str(a.value[1]) for _, a in of_heads}:
        return Verdict("derived", "both sides").citing(numbers)
    if of_heads:
        return CONTRADICTED.citing(numbers)
    return side_nearby(claim, source, heads)


def side_nearby(claim: Claim, source: Source, heads: set[str]) -> Verdict:
    """The same thing in other words: the sentences that share words with the text's have the side, or another one."""
    axis, side = claim.atom.value
    names = {root(word) for word in claim.reading.near(claim.atom) | heads}
    sides: dict[int, set[object]] = {}
    for number, atom in source.atoms_of("side"):
        if atom.value[0] == axis:
            sides.setdefault(number, set()).add(atom.value[1])
    shared = {
        n: sum(source.statements.weight(name) for name in names if n in source.statements.holding.get(name, ()))
        for n in sides
    }
    same = max((weight for n, weight in shared.items() if sides[n] & {side, "both"}), default=0.0)
    other = max((weight for n, weight in shared.items() if not sides[n] & {side, "both"}), default=0.0)
    if same and same >= other:
        return Verdict("derived", "same sentence").citing(n for n, weight in shared.items() if weight == same)
    if other > same:
        return CONTRADICTED
    return Verdict("derived", "of a thing in other words") if any(side in found for found in sides.values()) else ABSENT


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
