"""The time and the side that a number belongs to: "6.2 at admission and 9.8 at discharge", "20/40 in the right eye".

A number contradicts the source if the source gives another number of the same thing for that time or side, and this
number for none or another one.
"""

import re
from functools import lru_cache

from data_prep.faithfulness.atoms.kinds import Atom
from data_prep.faithfulness.atoms.read import Reading
from data_prep.faithfulness.checks.context import same_thing
from data_prep.faithfulness.checks.source import Source
from data_prep.faithfulness.dimensions.values import values_of

MEASURED = ("number", "quantity", "dose")
# What parts the items of a list of values.
EDGE = re.compile(r"[,;]\s|\.(?=\s|$)|\s(?:and|while|whereas|then|but)\s")
Anchor = tuple[object, ...]


@lru_cache(maxsize=8192)
def anchored(reading: Reading) -> dict[tuple[int, int], Anchor]:
    """(start, end) of a number -> the time or side next to it, within its item of a list."""
    numbers = [a for a in reading.atoms if a.kind in MEASURED and (a.value[1] == "pair" or not in_pair(a, reading))]
    edges = [match.start() for match in EDGE.finditer(reading.text)]
    found: dict[tuple[int, int], tuple[int, Anchor]] = {}
    for start, end, anchor in anchors(reading):
        item = sum(edge <= start for edge in edges)
        near = [a for a in numbers if sum(edge <= a.start for edge in edges) == item]
        if not near:
            continue
        # "On day 4 it rose from 1.1 to 3.4": the last one is that of the day. Otherwise the nearest one.
        after = [a for a in near if a.start >= end]
        nearest = after[-1] if len(after) == len(near) else min(near, key=lambda a: gap(a, start, end))
        key = (nearest.start, nearest.end)
        if key not in found or gap(nearest, start, end) < found[key][0]:
            found[key] = (gap(nearest, start, end), anchor)
    return {key: anchor for key, (_, anchor) in found.items()}


def in_pair(atom: Atom, reading: Reading) -> bool:
    return any(
        other.kind == "quantity" and other.value[1] == "pair" and other.start <= atom.start and atom.end <= other.end
        for other in reading.atoms
    )


def gap(atom: Atom, start: int, end: int) -> int:
    return max(start - atom.end, atom.start - end, 0)


def anchors(reading: Reading) -> list[tuple[int, int, Anchor]]:
    found: list[tuple[int, int, Anchor]] = [
        (value.start, value.end, (value.dimension, value.value))
        for value in values_of(reading.text)
        if value.dimension == "occasion"
    ]
    for atom in reading.atoms:
        if atom.kind == "side" and atom.value[0] == "across":
            found.append((atom.start, atom.end, ("side", atom.value[1])))
        elif atom.kind == "date":
            found.append((atom.start, atom.end, ("date", *atom.value)))
    return found


def of_another(claim_atom: Atom, reading: Reading, source: Source) -> bool:
    """Return True if the source gives another number of the same thing for the claim's time or side."""
    anchor = anchored(reading).get((claim_atom.start, claim_atom.end))
    if anchor is None:
        return False
    others = False
    for number, atom in source.atoms_of(*MEASURED):
        alike = atom.value[1] == claim_atom.value[1] or not (atom.value[1] and claim_atom.value[1])
        if not alike or anchored(source.readings[number]).get((atom.start, atom.end)) != anchor:
            continue
        if same_number(atom, claim_atom):
            return False
        bound = claim_atom.thing and is_of(atom, source.readings[number], claim_atom.thing)
        others = others or bool(bound or (not claim_atom.thing and shares_a_word(reading, source.readings[number])))
    return others


def is_of(atom: Atom, reading: Reading, thing: tuple[str, ...]) -> bool:
    """Return True if the number is of this thing, or of none while its sentence names the thing: a list of values."""
    if atom.thing:
        return same_thing(thing, atom.thing)
    return any(same_thing(thing, (a.kind, *map(str, a.value))) for a in reading.atoms if a.kind in ("test", "drug"))


def same_number(one: Atom, other: Atom) -> bool:
    if one.value[1] == other.value[1] == "pair" and one.value[5] != other.value[5]:
        return False
    written = one.amount / float(one.value[2] or 1), other.amount / float(other.value[2] or 1)
    return abs(one.amount - other.amount) <= 1e-3 * abs(other.amount) or abs(written[0] - written[1]) <= 1e-3 * abs(
        written[1]
    )


def shares_a_word(reading: Reading, other: Reading) -> bool:
    """Return True for two thirds of the words, or for a side's value alone: "OD 20/40"."""
    mine = {word.stem for word in reading.words if len(word.stem) > 3}
    return not mine or len(mine & {word.stem for word in other.words}) >= 0.6 * len(mine)
