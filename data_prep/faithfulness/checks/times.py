"""Checks of dates, days of a stay, durations and ages."""

import datetime
import itertools
import re

from data_prep.clinical_text.number_words import DAYS_PER_UNIT
from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.checks.context import ABSENT, CONTRADICTED, STATED, Claim, Verdict, retells_otherwise
from data_prep.faithfulness.checks.source import Source


def check_date(claim: Claim, source: Source) -> Verdict:
    claimed = claim.atom.value
    if isinstance(claimed[0], str):
        return check_day(claim, source)
    verdict: Verdict = ABSENT
    support: list[int] = []
    for number, original in source.atoms_of("date"):
        if isinstance(original.value[0], str):
            continue
        if claimed == original.value or swapped(claimed) == original.value:
            verdict, support = STATED, [number, *support]
        elif all(a is None or a == b for a, b in zip(claimed, original.value, strict=True)):
            verdict = verdict if verdict is STATED else Verdict("derived", "less precise")
            support = [number, *support]
    # "12 March" in the source, with the year in an earlier sentence.
    if verdict is ABSENT and claimed[0]:
        dates = [t.value for _, t in source.atoms_of("date") if not isinstance(t.value[0], str)]
        year = any(date[0] == claimed[0] for date in dates)
        rest = any(date[0] is None and date[1:] == claimed[1:] for date in dates)
        support = [n for n, a in source.atoms_of("date") if a.value[0] == claimed[0] or a.value[1:] == claimed[1:]]
        return Verdict("derived", "year from another date").citing(support) if year and rest else ABSENT

    def rival(other: Atom) -> bool:
        return other.kind == "date" and not isinstance(other.value[0], str) and other.value != claimed

    return (CONTRADICTED if support and retells_otherwise(claim, source, support, rival) else verdict).citing(support)


def swapped(value: tuple[str | float | int | None, ...]) -> tuple[str | float | int | None, ...]:
    """The date with month and day swapped, because 03/04/2019 may be in March or April."""
    return (value[0], value[2], value[1])


def check_day(claim: Claim, source: Source) -> Verdict:
    unit, origin, count = claim.atom.value
    for number, original in source.atoms_of("date"):
        if (
            original.value[0] == unit
            and original.value[2] == count
            and (not origin or not original.value[1] or origin == original.value[1])
        ):
            return STATED.citing((number,))
    length = float(count or 0) * DAYS_PER_UNIT[str(unit)]
    counting = [n for n, a in source.atoms_of("duration") if abs(a.amount - length) < 0.01]
    return Verdict("derived", "days counted").citing(counting) if counting else ABSENT


ROUGH = re.compile(r"\d\.\d|half", re.IGNORECASE)
UNIT_LETTER = re.compile(r"(?:^|[\d\s.-])([a-z])[a-z]*\W*$", re.IGNORECASE)


def check_duration(claim: Claim, source: Source) -> Verdict:
    claimed = claim.atom.amount

    def equal(days: float) -> bool:
        return abs(days - claimed) <= 0.005 * max(claimed, days)

    def roughly(other: Atom) -> bool:
        """Six weeks for a month and a half."""
        if not (ROUGH.search(other.text) or ROUGH.search(claim.atom.text)):
            return False
        return letter(other.text) != letter(claim.atom.text) and abs(other.amount - claimed) <= 0.09 * claimed

    found = [(n, a) for n, a in source.atoms_of("duration") if equal(a.amount)]
    if found:

        def rival(other: Atom) -> bool:
            return other.kind == "duration" and not equal(other.amount)

        if retells_otherwise(claim, source, (n for n, _ in found), rival):
            return CONTRADICTED
        units = {letter(a.text) for _, a in found}
        verdict = STATED if letter(claim.atom.text) in units else Verdict("derived", "unit conversion")
        return verdict.citing(n for n, _ in found)
    completed = [n for n, a in source.atoms_of("duration") if a.thing and claimed == a.amount // 7 * 7]
    if completed and not claim.atom.thing:
        return Verdict("derived", "completed weeks").citing(completed)
    if rough := [n for n, a in source.atoms_of("duration") if claimed >= 7 and roughly(a)]:
        return Verdict("derived", "unit conversion").citing(rough)
    if ages := [n for n, a in source.atoms_of("age") if equal(in_days(a))]:
        return Verdict("derived", "age").citing(ages)
    if days := [n for n, a in source.atoms_of("date") if isinstance(a.value[0], str) and equal(counted(a))]:
        return Verdict("derived", "days counted").citing(days)
    return Verdict("derived", "difference of dates") if any(map(equal, differences(source))) else ABSENT


def counted(day: Atom) -> float:
    """The days until a counted day, week or month: "the 34th week"."""
    return float(day.value[2] or 0) * DAYS_PER_UNIT[str(day.value[0])]


def letter(text: str) -> str:
    match = UNIT_LETTER.search(text)
    return match[1].lower() if match else ""


def in_days(age: Atom) -> float:
    return age.amount * DAYS_PER_UNIT[str(age.value[1])]


def differences(source: Source) -> list[float]:
    """Differences in days between any two dates of the source with the same precision: days, months or years."""
    values = {a.value for _, a in source.atoms_of("date") if not isinstance(a.value[0], str)}
    full = [day for y, m, d in values if y and m and d and (day := calendar_day(int(y), int(m), int(d)))]
    months = [int(y) * 12 + int(m) for y, m, d in values if y and m and not d]
    years = [int(y) for y, m, _ in values if y and not m]
    apart = [float(abs(a - b)) for a, b in itertools.combinations(full, 2)]
    apart += [abs(a - b) * 30.4375 for a, b in itertools.combinations(months, 2)]
    return apart + [abs(a - b) * 365.25 for a, b in itertools.combinations(years, 2)]


def calendar_day(year: int, month: int, day: int) -> int | None:
    try:
        return datetime.date(year, month, day).toordinal()
    except ValueError:  # reports contain dates such as 31 February
        return None


# In days. "A man, 45 years": a longer duration can only be an age; a shorter one may be the course of an illness.
ADULT = 15 * 365.25


def check_age(claim: Claim, source: Source) -> Verdict:
    claimed = claim.atom
    if same := [n for n, a in source.atoms_of("age") if a.value == claimed.value]:
        return STATED.citing(same)
    days = in_days(claimed)
    counted_days = [(n, counted(a)) for n, a in source.atoms_of("date") if isinstance(a.value[0], str)]
    if equal := [n for n, length in counted_days if abs(length - days) < 0.01]:
        return Verdict("derived", "days counted").citing(equal)
    if equal := [n for n, a in source.atoms_of("age") if abs(in_days(a) - days) < 0.01 * days]:
        return Verdict("derived", "unit conversion").citing(equal)
    for number, original in source.atoms_of("duration"):
        speaks_of_age = days > ADULT or not source.readings[number].stems.isdisjoint(("age", "aged", "old"))
        if speaks_of_age and abs(original.amount - days) < 0.005 * days:
            return Verdict("derived", "time as age", (number,))
    return ABSENT
