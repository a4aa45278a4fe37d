"""The check of each kind of atom: whether the source states it, or it follows from the source by a named rule."""

from collections.abc import Callable

from data_prep.faithfulness.checks.anchors import of_another
from data_prep.faithfulness.checks.context import CONTRADICTED, Claim, Verdict
from data_prep.faithfulness.checks.names import NAMED, check_abbreviation, check_finding, check_name, check_side
from data_prep.faithfulness.checks.numbers import MEASURED, check_code, check_frequency, check_measured
from data_prep.faithfulness.checks.source import FINDINGS, Source
from data_prep.faithfulness.checks.times import check_age, check_date, check_duration
from data_prep.faithfulness.dimensions.roots import root

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


FIRST_LETTERS = 4


def defined_otherwise(claim: Claim, source: Source) -> bool:
    """Return True for an abbreviation that text and source both define, and not as the same words."""
    short = str(claim.atom.value[0])
    mine, theirs = claim.pairs.get(short, ()), source.pairs.get(short, ())
    # Both long forms have the abbreviation as a synonym, so that only their own words tell them apart: all words of the
    # shorter form, by their first letters.
    shorter, longer = sorted((mine, theirs), key=len)
    begun = [word[:FIRST_LETTERS] for word in map(root, longer)]
    return bool(shorter) and not all(root(word)[:FIRST_LETTERS] in begun for word in shorter)


def judge(claim: Claim, source: Source) -> Verdict:
    if defined_otherwise(claim, source):
        return CONTRADICTED
    verdict = CHECKS[claim.atom.kind](claim, source)
    if (
        verdict.status != "unsupported"
        and claim.atom.kind in MEASURED
        and of_another(claim.atom, claim.reading, source)
    ):
        return Verdict("unsupported", "the source says it of another time or side")
    return verdict
