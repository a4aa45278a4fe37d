"""Checks of numbers, quantities, doses, frequencies and codes."""

import re
from dataclasses import replace

from data_prep.clinical_text.synonyms import LONG_FORMS
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.checks.context import (
    ABSENT,
    CONTRADICTED,
    ELSEWHERE,
    STATED,
    Claim,
    Verdict,
    is_of,
    retells_otherwise,
    same_thing,
)
from data_prep.faithfulness.checks.source import Found, Source

# Words for a level that do not say of which scale.
UNNAMED = frozenset(("grade", "stage", "type", "class", "score", "degree", "group", "level", "category"))
# "G12 P11": pregnancies and births.
PARITY = {"g": "gravida", "p": "para"}
SHORT_CODE = re.compile(r"([a-z]+)(\d+)")
MEASURED = ("number", "quantity", "dose")
# Least share of a clause's word weight in the source sentence that states a unit which the text leaves out.
SHARED = 0.3


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 2e-4 * max(abs(a), abs(b))


def check_measured(claim: Claim, source: Source) -> Verdict:
    """The check of a number with or without a unit. A number of a pair is not taken for that of another time."""
    verdict = check_number(claim, source)
    if verdict.rule != CONTRADICTED.rule:
        return verdict
    start, end = claim.atom.start, claim.atom.end
    pairs = (a for a in claim.reading.atoms if is_pair(a) and a.start <= start and end <= a.end)
    of_pairs = (check_pair(replace(claim, atom=pair), source) for pair in pairs)
    return next((found for found in of_pairs if found.status != "unsupported"), verdict)


def check_number(claim: Claim, source: Source) -> Verdict:
    claimed = claim.atom
    value, dimension = claimed.amount, claimed.value[1]
    if dimension == "pair":
        return check_pair(claim, source)
    every = [(n, a) for n, a in source.atoms_of(*MEASURED) if a.value[1] == dimension]
    exact = [(n, a) for n, a in every if close(a.amount, value)]
    if exact:
        return in_context(claim, source, exact, how_written(claimed, exact))
    if found := in_other_units(claimed, source):
        return in_context(claim, source, found, Verdict("derived", "unit left out" if not dimension else "fraction"))
    if not dimension and any(a.amount == value for _, a in source.atoms_of("age")):
        return Verdict("derived", "age").citing(n for n, a in source.atoms_of("age") if a.amount == value)
    if is_small_count(claim, source):
        return Verdict("derived", "count of two")
    if not dimension and (held := [n for n, number in source.numbers if close(number, value)]):
        akin = source.akin(claim.reading.near(claimed))
        near = [n for n in held if akin.get(n, 0.0) >= SHARED]
        return Verdict("derived", "unit left out").citing(near) if near else ELSEWHERE.citing(held)
    for rule, holds in (("rounding", is_rounded), ("estimate", is_estimated)):
        if found := [(n, a) for n, a in every if holds(claimed, a)]:
            return in_context(claim, source, found, Verdict("derived", rule))
    if is_small_count(claim, source):
        return Verdict("derived", "count of two")
    return check_unit(claim, source)


def is_small_count(claim: Claim, source: Source) -> bool:
    """Return True for a "two" of things that the source need not count: "both curves", "the left and the right"."""
    return claim.atom.text.lower() == "two" and not counted_otherwise(claim, source)


def counted_otherwise(claim: Claim, source: Source) -> bool:
    """Return True if the source counts the thing behind the number, with another number."""
    head = next((word.stem for word in claim.reading.words if word.start >= claim.atom.end), "")
    for number, atom in source.atoms_of("number"):
        behind = [word.stem for word in source.readings[number].words if word.start >= atom.end][:3]
        if head in behind:
            return True
    return False


def in_other_units(claimed: Atom, source: Source) -> list[Found]:
    """Quantities of the same number without its unit, or a fraction of one as a percentage: 128 and 128 mmol/L."""
    value, dimension = claimed.amount, claimed.value[1]
    measured = source.atoms_of("quantity", "dose", "number")
    if not dimension and claimed.thing:
        same = [(n, a) for n, a in measured if a.value[1] not in ("", "pair") and close(a.amount / factor_of(a), value)]
        return [(n, a) for n, a in same if is_of(a, source.readings[n], claimed.thing)]
    if dimension == "percent":
        return [(n, a) for n, a in measured if not a.value[1] and a.amount <= 1 and close(a.amount * 100, value)]
    if not dimension and value <= 1:
        return [(n, a) for n, a in measured if a.value[1] == "percent" and close(a.amount, value * 100)]
    return []


def factor_of(atom: Atom) -> float:
    return 1.0 if atom.value[1] == "temperature" else float(atom.value[2] or 1)


def is_pair(atom: Atom) -> bool:
    return atom.kind == "quantity" and atom.value[1] == "pair"


def check_pair(claim: Claim, source: Source) -> Verdict:
    """Two numbers with a slash: in this order, and not in the other one."""
    first, second = claim.atom.amount, float(claim.atom.value[5] or 0)
    found = [(n, a.amount, float(a.value[5] or 0)) for n, a in source.atoms_of("quantity") if a.value[1] == "pair"]
    if same := [n for n, a, b in found if close(first, a) and close(second, b)]:
        return STATED.citing(same)
    if turned := [n for n, a, b in found if close(first, b) and close(second, a)]:
        return CONTRADICTED.citing(turned)
    one, other = ([n for n, number in source.numbers if close(number, wanted)] for wanted in (first, second))
    return Verdict("derived", "numbers apart").citing((*one[:1], *other[:1])) if one and other else ABSENT


def how_written(claimed: Atom, found: list[Found]) -> Verdict:
    if any(a.value[2] == claimed.value[2] and a.text[0].isdigit() == claimed.text[0].isdigit() for _, a in found):
        return STATED
    return Verdict(
        "derived", "unit conversion" if any(a.value[2] != claimed.value[2] for _, a in found) else "spelled number"
    )


def in_context(claim: Claim, source: Source, found: list[Found], verdict: Verdict) -> Verdict:
    claimed = claim.atom
    fitting = [(n, a) for n, a in found if same_thing(claimed.thing, a.thing)]
    if not fitting and is_small_count(claim, source):
        return Verdict("derived", "count of two")
    if not fitting:
        return ELSEWHERE.citing(n for n, _ in found)
    verdict = verdict.citing(n for n, _ in fitting)
    if numbers_together(claim, source, fitting):
        return verdict
    # If text and source both name the thing next to the value, no other context needs to agree.
    if claimed.thing and any(a.thing for _, a in fitting):
        return verdict

    def rival(other: Atom) -> bool:
        return other.kind in MEASURED and other.value[1] == claimed.value[1] and not close(other.amount, claimed.amount)

    return CONTRADICTED if retells_otherwise(claim, source, (n for n, _ in fitting), rival) else verdict


def numbers_together(claim: Claim, source: Source, found: list[Found]) -> bool:
    """Return True if a sentence with this number has all numbers of the text's, which makes it the original."""
    amounts = {a.amount for a in claim.reading.atoms if a.kind in MEASURED and a.value[1] == claim.atom.value[1]}
    if len(amounts) < 2:
        return False
    for number, _ in found:
        theirs = [a.amount for a in source.readings[number].atoms if a.kind in MEASURED]
        if all(any(close(amount, other) for other in theirs) for amount in amounts):
            return True
    return False


def is_rounded(claimed: Atom, original: Atom) -> bool:
    """Return True if the claimed value is the original rounded: 37.46 as 37.5 or 37, but not 37 as 40."""
    decimals, factor = int(claimed.value[3] or 0), float(claimed.value[2] or 1)
    exact = original.amount / factor if claimed.value[1] != "temperature" else original.amount
    wanted = claimed.amount / factor if claimed.value[1] != "temperature" else claimed.amount
    finer = int(original.value[3] or 0) > decimals or original.value[2] != claimed.value[2]
    # Half a unit of the last place in either direction, because 2.5 is rounded to both 3 and 2.
    return finer and abs(exact - wanted) <= 0.5 * 10.0**-decimals * 1.001 and abs(exact) >= 1


def is_estimated(claimed: Atom, original: Atom) -> bool:
    """Return True if the claimed value is a coarser estimate: "about 1,500" for 1,480, but not the reverse."""
    value, exact = claimed.amount, original.amount
    coarser = len(f"{value:g}".strip("0.").replace(".", "")) < len(f"{exact:g}".strip("0.").replace(".", ""))
    return bool(claimed.value[4]) and coarser and abs(value - exact) <= 0.05 * abs(exact)


# Dimensions whose unit is often left out, with words of which the sentence must contain one.
CUSTOMARY = {
    "pressure": ("pressure", "bp", "BP", "systolic", "diastolic"), "temperature": ("temperature", "fever", "febrile",
    "Temp", "temp", "t"),
    "percent": ("saturation", "spo", "SpO2", "hematocrit", "oxygen", "sat"), "1/time": ("pulse", "heart", "HR", "RR",
    "respiratory", "respiration", "rate"),
}  # fmt: skip


def check_unit(claim: Claim, source: Source) -> Verdict:
    """Derived if the source states the bare number of a value whose unit is customary; otherwise absent."""
    claimed = claim.atom
    value, dimension, factor = claimed.amount, str(claimed.value[1]), float(claimed.value[2] or 1)
    raw = value if dimension == "temperature" else value / factor
    words = CUSTOMARY.get(dimension, ())
    unit = claimed.text.lstrip("0123456789., ").lower()
    for number, bare in source.atoms_of("number"):
        # "71,550 HIV RNA copies/mL"
        behind = source.readings[number].text[bare.end : bare.end + 40].lower()
        if (
            unit
            and close(bare.amount, value / factor)
            and re.match(rf"(?:\s[a-z-]+){{1,4}} {re.escape(unit)}(?!\w)", behind)
        ):
            return Verdict("derived", "unit behind its thing", (number,))
        stems = source.readings[number].stems
        if close(bare.amount, raw) and any(word in stems for word in words):
            return Verdict("derived", "customary unit", (number,))
    return ABSENT


def check_frequency(claim: Claim, source: Source) -> Verdict:
    claimed = claim.atom.amount
    found = [(n, a) for n, a in source.atoms_of("frequency") if abs(a.amount - claimed) <= 0.02 * claimed]
    if not found:
        return ABSENT
    of_drug = [a for _, a in source.atoms_of("frequency") if a.thing and same_thing(claim.atom.thing, a.thing)]
    if claim.atom.thing and of_drug and all(abs(a.amount - claimed) > 0.02 * claimed for a in of_drug):
        return CONTRADICTED

    def rival(other: Atom) -> bool:
        return other.kind == "frequency" and abs(other.amount - claimed) > 0.02 * claimed

    if retells_otherwise(claim, source, (n for n, _ in found), rival):
        return CONTRADICTED
    same = any(a.text.lower() == claim.atom.text.lower() for _, a in found)
    return (STATED if same else Verdict("derived", "frequency words")).citing(n for n, _ in found)


def check_code(claim: Claim, source: Source) -> Verdict:
    value = claim.atom.value
    if same := [n for n, a in source.atoms_of("code") if a.value == value]:
        return STATED.citing(same)
    if len(value) == 3:
        label, level, _ = value
        # "type 2 DM" for "type 2 diabetes mellitus", where the number is part of a name.
        if f"{label}{level}{value[2]}" in source.compact:
            return STATED
        graded = [(n, a) for n, a in source.atoms_of("code") if len(a.value) == 3]
        alike = [n for n, a in graded if a.value[1] == level and a.value[0] == label]
        if alike and not value[2]:
            return Verdict("derived", "less precise").citing(alike)
        # "CCS 2" for "class II": one of the two does not name the scale.
        unnamed = [n for n, a in graded if a.value[1:] == value[1:] and (a.value[0] in UNNAMED or label in UNNAMED)]
        return Verdict("derived", "scale left out").citing(unnamed) if unnamed else ABSENT
    name = str(value[0])
    if name in source.compact:
        return STATED
    parts = SHORT_CODE.fullmatch(name)
    if parts and parts[1] in PARITY:
        spelled_out = (PARITY[parts[1]], int(parts[2]), "")
        if said := [n for n, a in source.atoms_of("code") if a.value == spelled_out]:
            return Verdict("derived", "abbreviation").citing(said)
    longs = LONG_FORMS.get(parts[1].upper(), ()) if parts else ()
    spelled = (
        any(
            "".join(long) + between + parts[2] in source.compact
            for long in longs
            for between in ("", "type", "virus", "virustype")
        )
        if parts
        else False
    )
    return Verdict("derived", "abbreviation") if spelled else ABSENT
