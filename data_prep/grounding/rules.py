"""Whether an atom stands in the source, or follows from it by a named rule.

Each check looks for what supports an atom and returns a `Verdict`. Support has a context: a value that the source gives
to another test, or that stands only where the source speaks of something else while the sentence that the note retells
has another value, is no support.
"""

import datetime
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data_prep.grounding.atoms import Reading
from data_prep.grounding.kinds import Atom
from data_prep.grounding.source import FINDINGS, Found, Source
from data_prep.grounding.terms import PHRASE
from data_prep.language.synonyms import other_names

MEASURED = ("number", "quantity", "dose")
NAMED = ("drug", "test", "procedure")

# The sentence that a clause retells shares most of its words; one that merely shares the value shares few.
RETOLD, RATIO = 0.6, 1.5
# A clause that is copied almost word for word needs less of a lead.
COPIED, COPIED_RATIO = 0.9, 1.1
# What a bare number must have in common with the place where the source gives it a unit.
SHARED = 0.3


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


def judge(claim: Claim, source: Source) -> Verdict:
    return CHECKS[claim.atom.kind](claim, source)


# ---------------------------------------------------------------- context


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


# ---------------------------------------------------------------- numbers


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 2e-4 * max(abs(a), abs(b))


def check_measured(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom
    value, dimension = float(ours.value[0] or 0), ours.value[1]
    every = [(n, a) for n, a in source.of(*MEASURED) if a.value[1] == dimension]
    exact = [(n, a) for n, a in every if close(float(a.value[0] or 0), value)]
    if exact:
        return in_context(claim, source, exact, how_written(ours, exact))
    if not dimension and (held := [n for n, number in source.numbers if close(number, value)]):
        akin = source.akin(claim.reading.near(ours))
        return Verdict("derived", "unit left out") if any(akin.get(n, 0.0) >= SHARED for n in held) else ELSEWHERE
    for rule, holds in (("rounding", is_rounded), ("estimate", is_estimated)):
        if found := [(n, a) for n, a in every if holds(ours, a)]:
            return in_context(claim, source, found, Verdict("derived", rule))
    return check_unit(claim, source)


def how_written(ours: Atom, found: list[Found]) -> Verdict:
    if any(a.value[2] == ours.value[2] and a.text[0].isdigit() == ours.text[0].isdigit() for _, a in found):
        return STATED
    return Verdict("derived", "unit conversion" if any(a.value[2] != ours.value[2] for _, a in found) else "spelled number")


def in_context(claim: Claim, source: Source, found: list[Found], verdict: Verdict) -> Verdict:
    ours = claim.atom
    fitting = [(n, a) for n, a in found if same_thing(ours.thing, a.thing)]
    if not fitting:
        return ELSEWHERE
    # Where the name stands beside the value on both sides, nothing else needs to agree.
    if ours.thing and any(a.thing for _, a in fitting):
        return verdict

    def rival(other: Atom) -> bool:
        return other.kind in MEASURED and other.value[1] == ours.value[1] and not close(float(other.value[0] or 0), float(ours.value[0] or 0))

    return CONTRADICTED if retells_otherwise(claim, source, (n for n, _ in fitting), rival) else verdict


def is_rounded(ours: Atom, theirs: Atom) -> bool:
    """37.46 as 37.5 or 37; never 37 as 40."""
    decimals, factor = int(ours.value[3] or 0), float(ours.value[2] or 1)
    exact = float(theirs.value[0] or 0) / factor if ours.value[1] != "temperature" else float(theirs.value[0] or 0)
    wanted = float(ours.value[0] or 0) / factor if ours.value[1] != "temperature" else float(ours.value[0] or 0)
    finer = int(theirs.value[3] or 0) > decimals or theirs.value[2] != ours.value[2]
    # Half a unit of the last place, either way: both 2.5 to 3 and 2.5 to 2 are in use.
    return finer and abs(exact - wanted) <= 0.5 * 10.0**-decimals * 1.001 and abs(exact) >= 1


def is_estimated(ours: Atom, theirs: Atom) -> bool:
    """ "about 1,500" of 1,480; never "about 1,480" of 1,500."""
    value, exact = float(ours.value[0] or 0), float(theirs.value[0] or 0)
    coarser = len(f"{value:g}".strip("0.").replace(".", "")) < len(f"{exact:g}".strip("0.").replace(".", ""))
    return bool(ours.value[4]) and coarser and abs(value - exact) <= 0.05 * abs(exact)


# A unit that goes without saying, with the words of which one must stand by.
CUSTOMARY = {
    "pressure": ("pressure", "bp", "BP", "systolic", "diastolic"), "temperature": ("temperature", "fever", "febrile", "Temp", "temp", "t"),
    "percent": ("saturation", "spo", "SpO2", "hematocrit", "oxygen", "sat"), "1/time": ("pulse", "heart", "HR", "RR", "respiratory", "respiration", "rate"),
}  # fmt: skip


def check_unit(claim: Claim, source: Source) -> Verdict:
    """The source gives the bare number of a value whose unit is always the same."""
    ours = claim.atom
    value, dimension, factor = float(ours.value[0] or 0), str(ours.value[1]), float(ours.value[2] or 1)
    raw = value if dimension == "temperature" else value / factor
    words = CUSTOMARY.get(dimension, ())
    for number, bare in source.of("number"):
        stems = source.readings[number].stems
        if close(float(bare.value[0] or 0), raw) and any(word in stems for word in words):
            return Verdict("derived", "customary unit")
    return ABSENT


def check_frequency(claim: Claim, source: Source) -> Verdict:
    ours = float(claim.atom.value[0] or 0)
    found = [(n, a) for n, a in source.of("frequency") if abs(float(a.value[0] or 0) - ours) <= 0.02 * ours]
    if not found:
        return ABSENT

    def rival(other: Atom) -> bool:
        return other.kind == "frequency" and abs(float(other.value[0] or 0) - ours) > 0.02 * ours

    if retells_otherwise(claim, source, (n for n, _ in found), rival):
        return CONTRADICTED
    same = any(a.text.lower() == claim.atom.text.lower() for _, a in found)
    return STATED if same else Verdict("derived", "frequency words")


def check_code(claim: Claim, source: Source) -> Verdict:
    value = claim.atom.value
    if any(a.value == value for _, a in source.of("code")):
        return STATED
    if len(value) == 3:
        label, level, _ = value
        # "type 2 DM" of "type 2 diabetes mellitus", where the number is part of the name.
        if f"{label}{level}{value[2]}" in source.compact:
            return STATED
        alike = [a for _, a in source.of("code") if len(a.value) == 3 and a.value[1] == level and a.value[0] == label]
        return Verdict("derived", "less precise") if alike and not value[2] else ABSENT
    return STATED if str(value[0]) in source.compact else ABSENT


# ---------------------------------------------------------------- times


def check_date(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom.value
    if isinstance(ours[0], str):
        return check_day(claim, source)
    verdict, support = ABSENT, []
    for number, theirs in source.of("date"):
        if isinstance(theirs.value[0], str):
            continue
        if ours == theirs.value or swapped(ours) == theirs.value:
            verdict, support = STATED, [number, *support]
        elif all(a is None or a == b for a, b in zip(ours, theirs.value, strict=True)):
            verdict = verdict if verdict is STATED else Verdict("derived", "less precise")
            support = [number, *support]
    # "12 March" of a year that a sentence before gave.
    if verdict is ABSENT and ours[0]:
        parts = [t.value for _, t in source.of("date") if not isinstance(t.value[0], str)]
        year = any(part[0] == ours[0] for part in parts)
        rest = any(part[0] is None and part[1:] == ours[1:] for part in parts)
        return Verdict("derived", "year from another date") if year and rest else ABSENT

    def rival(other: Atom) -> bool:
        return other.kind == "date" and not isinstance(other.value[0], str) and other.value != ours

    return CONTRADICTED if support and retells_otherwise(claim, source, support, rival) else verdict


def swapped(value: tuple[str | float | int | None, ...]) -> tuple[str | float | int | None, ...]:
    """03/04/2019 may be of March or of April."""
    return (value[0], value[2], value[1])


def check_day(claim: Claim, source: Source) -> Verdict:
    unit, origin, count = claim.atom.value
    for _, theirs in source.of("date"):
        if theirs.value[0] == unit and theirs.value[2] == count and (not origin or not theirs.value[1] or origin == theirs.value[1]):
            return STATED
    length = float(count or 0) * {"day": 1.0, "week": 7.0, "month": 30.4375}[str(unit)]
    if any(abs(float(a.value[0] or 0) - length) < 0.01 for _, a in source.of("duration")):
        return Verdict("derived", "days counted")
    return ABSENT


UNIT_LETTER = re.compile(r"(?:^|[\d\s.-])([a-z])[a-z]*\W*$", re.IGNORECASE)


def check_duration(claim: Claim, source: Source) -> Verdict:
    ours = float(claim.atom.value[0] or 0)

    def equal(theirs: float) -> bool:
        return abs(theirs - ours) <= 0.005 * max(ours, theirs)

    found = [(n, a) for n, a in source.of("duration") if equal(float(a.value[0] or 0))]
    if found:

        def rival(other: Atom) -> bool:
            return other.kind == "duration" and not equal(float(other.value[0] or 0))

        if retells_otherwise(claim, source, (n for n, _ in found), rival):
            return CONTRADICTED
        units = {letter(a.text) for _, a in found}
        return STATED if letter(claim.atom.text) in units else Verdict("derived", "unit conversion")
    if any(equal(in_days(a)) for _, a in source.of("age")):
        return Verdict("derived", "age")
    if any(theirs.value[0] == "day" and equal(float(theirs.value[2] or 0)) for _, theirs in source.of("date")):
        return Verdict("derived", "days counted")
    return Verdict("derived", "difference of dates") if any(map(equal, differences(source))) else ABSENT


def letter(text: str) -> str:
    match = UNIT_LETTER.search(text)
    return match[1].lower() if match else ""


def in_days(age: Atom) -> float:
    return float(age.value[0] or 0) * {"day": 1.0, "week": 7.0, "month": 30.4375, "year": 365.25}[str(age.value[1])]


def differences(source: Source) -> list[float]:
    """Days between any two dates of the source, and months where only these are given."""
    values = {a.value for _, a in source.of("date") if not isinstance(a.value[0], str)}
    full = [day for y, m, d in values if y and m and d and (day := calendar_day(int(y), int(m), int(d)))]
    months = [int(y) * 12 + int(m) for y, m, d in values if y and m and not d]
    years = [int(y) for y, m, _ in values if y and not m]
    apart = [float(abs(a - b)) for a, b in itertools.combinations(full, 2)]
    apart += [abs(a - b) * 30.4375 for a, b in itertools.combinations(months, 2)]
    return apart + [abs(a - b) * 365.25 for a, b in itertools.combinations(years, 2)]


def calendar_day(year: int, month: int, day: int) -> int | None:
    try:
        return datetime.date(year, month, day).toordinal()
    except ValueError:  # 31 February, as reports have it
        return None


# "A man, 45 years": no course of an illness is that long, where shorter times are.
ADULT = 15 * 365.25


def check_age(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom
    if any(a.value == ours.value for _, a in source.of("age")):
        return STATED
    days = in_days(ours)
    if any(abs(in_days(a) - days) < 0.01 * days for _, a in source.of("age")):
        return Verdict("derived", "unit conversion")
    for number, theirs in source.of("duration"):
        speaks_of_age = days > ADULT or not source.readings[number].stems.isdisjoint(("age", "aged", "old"))
        if speaks_of_age and abs(float(theirs.value[0] or 0) - days) < 0.005 * days:
            return Verdict("derived", "time as age")
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
            return other.kind == "side" and other.value[0] == axis and other.value[1] not in (side, "both") and bool(heads & set(other.thing))

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
    return bool(copied) and times_said(claim.atom, claim.reading) > max(times_said(claim.atom, r) for r in copied)


def times_said(side: Atom, reading: Reading) -> int:
    return sum(atom.kind == "side" and atom.value == side.value for atom in reading.atoms)


# ---------------------------------------------------------------- names


def names_of(claim: Claim, source: Source) -> list[tuple[str, tuple[str, ...]]]:
    """(rule, words) under which the source may have the thing; the note's own words first."""
    own = tuple(str(part) for part in claim.atom.value)
    spelled = [pairs[own[0]] for pairs in (source.pairs, claim.pairs) if len(own) == 1 and own[0] in pairs]
    shortened = [(short,) for pairs in (source.pairs, claim.pairs) for short, long in pairs.items() if long == own]
    found = [("", own), *([("less precise", own[-1:])] if claim.atom.thing == PHRASE else [])]
    found += [("abbreviation", name) for name in (*spelled, *shortened)] + list(other_names(own))
    # One more step, for a long form that has another name itself.
    return found + [("synonym", name) for long in spelled for _, name in other_names(long)]


def check_name(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            support = source.holding(words)
            if claim.atom.kind == "drug" and another_drug(claim, source, support):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
    return ABSENT


def another_drug(claim: Claim, source: Source, support: list[int]) -> bool:
    """The retold sentence names a drug that the note's sentence does not, and not this one."""
    named = {a.value for a in claim.reading.atoms if a.kind == "drug"}
    return retells_otherwise(claim, source, support, lambda other: other.kind == "drug" and other.value not in named)


def check_finding(claim: Claim, source: Source) -> Verdict:
    ours = claim.atom.kind
    theirs = FINDINGS[1 - FINDINGS.index(ours)]
    against = False
    for rule, words in names_of(claim, source):
        polarities = source.polarities(words)
        support = [n for n, kinds in polarities.items() if ours in kinds]
        against = against or bool(polarities)
        if support:
            head = words[-1]
            if retells_otherwise(claim, source, support, lambda other, head=head: other.kind == theirs and head in other.value):
                return CONTRADICTED
            return Verdict("derived", rule) if rule else STATED
        # Plain words have no other name: what the source says of all of them stands against what it says of one.
        if against and claim.atom.thing == PHRASE:
            break
    return CONTRADICTED if against else ABSENT


def check_abbreviation(claim: Claim, source: Source) -> Verdict:
    for rule, words in names_of(claim, source):
        if source.holding(words):
            return Verdict("derived", rule) if rule else STATED
    return ABSENT


CHECKS: dict[str, Callable[[Claim, Source], Verdict]] = {
    **dict.fromkeys(MEASURED, check_measured),
    "frequency": check_frequency,
    "code": check_code,
    "date": check_date,
    "duration": check_duration,
    "age": check_age,
    "side": check_side,
    **dict.fromkeys(NAMED, check_name),
    **dict.fromkeys(FINDINGS, check_finding),
    "abbreviation": check_abbreviation,
}
