"""Extraction of numbers with and without a unit, doses, frequencies, grades and codes.

    find_quantities("WBC 12.5 x 10^9/L, aspirin 100 mg bid, grade III, L4-L5", ...)
    -> quantity (1.25e10, "1/volume") of WBC; dose (0.1, "mass") of aspirin; frequency 2 per day; codes grade 3, L4, L5

A unit after the last number of a range, fraction or product applies to all of them: "3 to 5 mg", "120/80 mmHg",
"4 x 3 cm".
"""

import itertools
import re
from collections.abc import Iterator

from data_prep.clinical_text.number_words import ONE_TO_NINETEEN, SPELLED, TENS
from data_prep.clinical_text.sentences import LIST_NUMBER
from data_prep.clinical_text.synonyms import LONG_FORMS
from data_prep.clinical_text.words import bag, word_set
from data_prep.faithfulness.atoms.kinds import Atom, Taken
from data_prep.faithfulness.atoms.units import UNIT, parse_unit

# "1,5 g/L" has a decimal comma: fewer than three digits follow it, and no space.
DIGITS = r"\d{1,3}(?:[,\u202f]\d{3})+(?:\.\d+)?|\d{1,3},\d{1,2}(?![\d,])|\d+(?:[.·]\d+)?|\.\d+"
DECIMAL_COMMA = re.compile(r"\d{1,3},\d{1,2}")
TWO_TO_NINETEEN = ONE_TO_NINETEEN[1:]
VALUES = {word: number for number, word in enumerate(ONE_TO_NINETEEN, start=1)} | TENS
# "10^9", and "109" if the superscript was lost.
POWER = r"\s?[x×X*·]\s?10\s?(?:\^\s?|\*\*|\(|E)?\s?(?P<power>-?\d{1,2}|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)\)?"
NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>(?<=[\s(:=])[-−](?=\d|\.\d))?(?:(?P<digits>{DIGITS})(?P<scaled>{POWER})?"
    rf"|(?P<spelled>{SPELLED})\b)"
    r"(?P<multiple>\s(?:thousand|million|billion)\b|K(?=[\s/,.;)]|$))?",
    re.IGNORECASE,
)
# In "4x2" there is no word boundary before the 2.
NEXT_NUMBER = re.compile(NUMBER.pattern.removeprefix(r"(?<![\w.])"), re.IGNORECASE)
JOINT = re.compile(r"\s?(?:[-–—~]|to|/|x|×|X|by|\*|and|or|±)\s?(?=\d|\.\d)")
MULTIPLES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "billion": 1e9}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")

# Tokens of letters and digits: vertebrae, stages, genes, markers, ECG leads.
CODE = re.compile(
    r"(?<![\w.])(?:\d\d-[A-C]\d(?:\.\d)?(?![\w])|[A-Za-zα-ω]{1,6}-?\d{1,4}[A-Za-z]{0,3}(?![\w])|\d{1,3}[A-Z][A-Za-z]{0,2}\d{0,3}(?![\w.]))"
)
CODE_RANGE = re.compile(r"[-–/]\s?([A-Z]?)(\d{1,2})(?!\w)")
SCALES = (
    r"grade|stage|type|class|phase|level|score|degree|group|zone|segment|category|BI-?RADS|NYHA|ASA|ECOG|WHO|FIGO|Mallampati"
    r"|Killip|Gleason|Fuhrman|Bosniak|mRS|Rankin(?: scale)?|Clavien(?:-Dindo)?|Fontaine|Rutherford|Wagner|Garden"
    r"|Salter-Harris|Hinchey|Marsh|Tanner|Ann Arbor|Dukes?|Clark|ISUP|CTCAE|KDIGO|METAVIR|Fitzpatrick"
    r"|Hunt(?: and |-)Hess|Fisher|Forrest|Gustilo|Binet|Rai|Siewert"
    r"|Kellgren(?:-Lawrence)?|Child-?(?: ?Turcotte-?)?(?: ?Pugh)?"
    r"|CCS|CEAP"
    r"|Apgar|Karnofsky|Frankel|ASIA|Stanford|DeBakey"
)
# "Child-Pugh B", "Stanford type A", "type B": a letter for a grade.
LETTERED = re.compile(rf"\b({SCALES})\s(?:class\s|grade\s|stage\s|type\s|score\s)?([A-E])(?![\w'’-])")
# "G2P1A0", "T2N1M0", "pT3N0": a letter with a number, several times.
SEVERAL = re.compile(r"(?<!\w)[cpyr]{0,2}(?:[A-Z]\d{1,2}[a-d]?|[NM][xX]){2,}(?!\w)")
ONE_OF_SEVERAL = re.compile(r"[A-Z](?:\d{1,2}[a-d]?|[xX])")
GRADED = re.compile(
    rf"\b[cpy]{{0,2}}({SCALES}|gra?vida|grava|para)[\s-](?:of\s|class\s|grade\s|stage\s|type\s|score\s)?"
    r"((?:\d{1,2}|I{1,3}|IV|VI{0,3}|IX)(?![\w,.]*\d)(?![A-Za-z]{2})(?!\s?[+]))([a-cA-C])?\b(?!\s?(?:mg|g|ml|mL|µg|mcg|kg|%|mm|cm|IU)\b)",
    re.IGNORECASE,
)
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9}

COUNT = rf"(?:\d{{1,2}}|once|twice|thrice|one|{'|'.join(TWO_TO_NINETEEN[:9])})"
PERIOD = r"(?:day|week|month|year|hour|night|d|wk)"
FREQUENCY = re.compile(
    rf"\b(?:(?P<latin>b\.i\.d\.|t\.i\.d\.|q\.i\.d\.|q\.d\.|q\.h\.s\.|bid|tid|qid|qd|qhs|qod)(?!\w)"
    rf"|q\.?\s?(?P<hours>\d{{1,2}})(?:\s?[-–]\s?\d{{1,2}})?\s?h(?:rs?|ours?)?\b"
    rf"|/\s?(?P<slash>\d{{1,2}})\s?(?:h|hrs?|hours?)\b"
    rf"|(?P<times>\d{{1,2}})\s?x\s?(?:/|per |a )?\s?(?P<of>day|d|daily|week|month)\b"
    rf"|(?P<count>{COUNT})(?:[- ]times?|\sdoses|\sinjections|\scycles)?(?:\s(?:a|an|per|each|every)\s|[\s/-])"
    rf"(?P<period>{PERIOD}|daily|weekly|monthly)\b"
    rf"|every\s(?:(?P<every>\d{{1,2}}|other|second|third|{'|'.join(TWO_TO_NINETEEN[:10])})[\s-])?(?P<unit>{PERIOD})s?\b"
    rf"|(?:(?:per|a|each)\s|/\s?)(?P<each>day|week|month|d|24 ?h(?:ours)?)\b"
    r"|(?P<adverb>daily|nightly|hourly|weekly|biweekly|fortnightly|monthly|yearly|annually|annual|at bedtime|"
    r"alternat(?:e|ing)[ -]days?|every morning|every evening)\b)",
    re.IGNORECASE,
)
LATIN = {"bid": 2.0, "tid": 3.0, "qid": 4.0, "qd": 1.0, "qhs": 1.0, "qod": 0.5}
ADVERBS = {
    "daily": 1.0, "nightly": 1.0, "hourly": 24.0, "weekly": 1 / 7, "monthly": 1 / 30, "yearly": 1 / 365,
    "annually": 1 / 365, "annual": 1 / 365, "fortnightly": 1 / 14,
    "at bedtime": 1.0, "every morning": 1.0, "every evening": 1.0, "biweekly": 1 / 14,
}  # fmt: skip
PERIODS = {
    "day": 1.0,
    "d": 1.0,
    "night": 1.0,
    "week": 1 / 7,
    "wk": 1 / 7,
    "month": 1 / 30,
    "year": 1 / 365,
    "hour": 24.0,
}
PERIODS |= {"daily": 1.0, "weekly": 1 / 7, "monthly": 1 / 30}
TIMES = {"once": 1, "twice": 2, "thrice": 3} | {word: VALUES[word] for word in ONE_TO_NINETEEN}

DAILY = re.compile(r"(?:\s?/\s?|\s(?:per|a)\s)(?:days?|d|24 ?h(?:ours)?)$")

# Text that may separate a name from its value.
LINK = re.compile(
    r"^(?:\s|[:=,(<>≥≤~≈±+]|\b(?:was|were|is|are|of|at|to|being|measured|level|levels|count|counts|value|values|only|"
    r"about|"
    r"approximately|reached|increased|decreased|elevated|raised|high|low|normal|up|down|from|concentration|dose|rate|"
    r"titer|titre|valued|estimated|measured|calculated|mesylate|hydrochloride|sodium|succinate|tartrate|sulfate|acetate|"
    r"phosphate|maleate|citrate|besylate|fumarate|bromide|tablets?|capsules?|the|a|an|total|as|and|had|rose|fell|dropped|with|mild|mildly|slightly|markedly|po|iv|im|"
    r"sc|oral|orally|"
    r"intravenous|intravenously|initial|maximum|daily|serum|her|his)\b)*$",
    re.IGNORECASE,
)
AFTER = re.compile(r"^\s?(?:of|per day of|daily of)\s(?:(?:oral|intravenous|iv|the|a)\s)?", re.IGNORECASE)
ESTIMATE = re.compile(
    r"(?:about|approximately|approx\.?|around|roughly|nearly|almost|~|≈|over|more than|under|close to)\s?$",
    re.IGNORECASE,
)


PARTS = {"half": 0.5, "½": 0.5, "quarter": 0.25, "two": 2.0, "2": 2.0, "three": 3.0, "3": 3.0}
PRODUCT = re.compile(r"(?<![\d.,])([2-9]) ?[x×] ?$")
TABLETS = re.compile(
    r"(half|½|quarter|two|three|2|3) (?:an? |of an? )?(?:tablets?|pills?|capsules?|ampoules?|vials?) of (?:[a-z]+ )?$",
    re.IGNORECASE,
)


def find_quantities(sentence: str, taken: Taken, terms: list[Atom]) -> list[Atom]:
    """The quantities of a sentence outside the taken spans. The spans of grades, frequencies and codes become taken."""
    number = LIST_NUMBER.match(sentence)
    if number:
        taken.take(0, number.end())
    found = [*grades(sentence, taken), *lettered(sentence, taken), *frequencies(sentence, taken, terms)]
    found += codes(sentence, taken)
    position = 0
    while match := NUMBER.search(sentence, position):
        position = match.end()
        if taken.free(match.start(), match.end()):
            group, position = joined(sentence, match, taken)
            atoms = list(as_atoms(sentence, group, terms))
            found += atoms
            found += pairs(sentence, atoms)
    return found


def pairs(sentence: str, atoms: list[Atom]) -> Iterator[Atom]:
    """Two numbers with a slash, whose order counts: blood pressure 120/80, visual acuity 20/40."""
    for one, other in itertools.pairwise(atoms):
        if sentence[one.end : other.start].strip() == "/" and one.kind != "dose":
            yield Atom("quantity", sentence[one.start : other.end], one.start, other.end, (
                one.amount, "pair", 1.0, 0, 0, other.amount), one.thing)  # fmt: skip


def grades(sentence: str, taken: Taken) -> Iterator[Atom]:
    if bag(sentence).isdisjoint(SCALE_NAMES):
        return
    for match in GRADED.finditer(sentence):
        if taken.free(match.start(2), match.end()):
            taken.take(match.start(), match.end())
            label, level = scale_of(match[1]), match[2].lower()
            value = ROMAN.get(level) or int(level)
            yield Atom("code", match[0], match.start(), match.end(), (label, value, (match[3] or "").lower()))


SCALE_NAMES = word_set("""
grade cstage pstage ypstage ycstage grades stage type class phase level score degree group zone segment category rads
nyha asa ecog who figo mallampati killip gleason fuhrman bosniak mrs rankin clavien fontaine rutherford wagner garden
salter hinchey marsh tanner arbor duke clark isup ctcae kdigo metavir fitzpatrick hess fisher forrest gustilo binet
rai siewert kellgren child ccs ceap apgar karnofsky frankel asia stanford debakey gravida grava para scale turcotte pugh
childs dukes
""")
RATE_WORDS = word_set("""
day days daily d week weeks weekly biweekly wk month months monthly year yearly hour hourly h hrs hours night
nightly fortnightly annual alternate alternating every each per bid tid qid qd qhs qod q b t times once twice annually
bedtime x
""")


def scale_of(label: str) -> str:
    name = label.lower().replace("-", "").split()[0]
    name = {"grava": "gravida"}.get(name, name)
    return "child" if name.startswith("child") else name


def lettered(sentence: str, taken: Taken) -> Iterator[Atom]:
    for match in LETTERED.finditer(sentence):
        if taken.free(match.start(2), match.end()):
            taken.take(match.start(), match.end())
            label = scale_of(match[1])
            yield Atom("code", match[0], match.start(), match.end(), (label, match[2].lower(), ""))
    for match in SEVERAL.finditer(sentence):
        if taken.free(match.start(), match.end()):
            taken.take(match.start(), match.end())
            for part in ONE_OF_SEVERAL.finditer(sentence, match.start(), match.end()):
                yield Atom("code", part[0], part.start(), part.end(), (part[0].lower(),))


def codes(sentence: str, taken: Taken) -> Iterator[Atom]:
    for match in CODE.finditer(sentence):
        name = match[0]
        end = match.end()
        glued = re.match(r"\d+(.*)", name)
        if glued and (parse_unit(glued[1]) or ORDINAL.match(glued[1]) or glued[1] in ("K", "F", "M", "C")):
            continue
        known = name in LONG_FORMS or parse_unit(name)
        if known or not taken.free(match.start(), end) or re.match(r"pH\d|[xX]\d", name):
            continue
        taken.take(match.start(), end)
        yield Atom("code", name, match.start(), end, (name.lower().replace("-", ""),))
        # "L4-5" and "V1-V3": the end of the range has the same letters.
        last = CODE_RANGE.match(sentence, end)
        if last and taken.free(last.start(2), last.end()):
            taken.take(last.start(), last.end())
            letters = re.match(r"\D*", name)
            prefix = last[1] or (letters[0] if letters else "")
            yield Atom(
                "code", sentence[last.start(1) : last.end()], last.start(1), last.end(), ((prefix + last[2]).lower(),)
            )


def frequencies(sentence: str, taken: Taken, terms: list[Atom]) -> Iterator[Atom]:
    for match in () if bag(sentence).isdisjoint(RATE_WORDS) else FREQUENCY.finditer(sentence):
        if not taken.free(match.start(), match.end()):
            continue
        value = rate(match)
        if value is not None:
            taken.take(match.start(), match.end())
            drugs = [t for t in terms if t.kind == "drug" and t.end <= match.start()]
            near = drugs and not re.search(r"[;.]\s|\band then\b", sentence[drugs[-1].end : match.start()])
            thing = name_of(drugs[-1]) if near else ()
            yield Atom("frequency", match[0], match.start(), match.end(), (round(value, 4),), thing)


def rate(match: re.Match[str]) -> float | None:
    """The number of times per day; None if it is undefined ("every 0 days")."""
    if match["latin"]:
        return LATIN[match["latin"].lower().replace(".", "")]
    if match["slash"]:
        return 24 / int(match["slash"]) if int(match["slash"]) else None
    if match["times"]:
        return int(match["times"]) * PERIODS[match["of"].lower()]
    if match["hours"]:
        return 24 / int(match["hours"]) if int(match["hours"]) else None
    if match["count"]:
        word = match["count"].lower()
        if word.isdigit() and not match["period"].lower().endswith("ly") and "-" in match[0]:
            return None  # "a 28-day cycle"
        return (TIMES.get(word) or int(word)) * PERIODS[match["period"].lower()]
    if match["unit"]:
        every = (match["every"] or "1").lower()
        step = {"other": 2, "second": 2, "third": 3}.get(every) or TIMES.get(every) or int(every)
        return PERIODS[match["unit"].lower()] / step if step else None
    if match["each"]:
        return PERIODS.get(match["each"].lower(), 1.0)
    adverb = match["adverb"].lower()
    return 0.5 if adverb.startswith("alternat") else ADVERBS[adverb]


def joined(sentence: str, match: re.Match[str], taken: Taken) -> tuple[list[tuple[re.Match[str], str]], int]:
    """The numbers joined with this one ("3 to 5 mg"), each with its unit, and the offset of their end."""
    group: list[tuple[re.Match[str], str]] = []
    while True:
        unit = UNIT.match(sentence, match.end())
        # "50 mg/kg/day" is 50 mg/kg once per day.
        text = DAILY.sub("", unit[0]) if unit and plausible(match, unit) else ""
        group.append((match, text))
        end = match.end() + len(text)
        joint = JOINT.match(sentence, end)
        following = NEXT_NUMBER.match(sentence, joint.end()) if joint else None
        if not joint or not following or not following["digits"] or not taken.free(*following.span()):
            break
        # "5 mg and 3 lesions": after "and" or "or", a number with a unit starts a new group.
        if joint[0].strip() in ("and", "or") and text:
            break
        match = following
    units = [text for _, text in group]
    for index in range(len(units) - 2, -1, -1):
        units[index] = units[index] or units[index + 1]
    return [(number, unit) for (number, _), unit in zip(group, units, strict=True)], end


def plausible(number: re.Match[str], unit: re.Match[str]) -> bool:
    """Return False if "C" or "F" follows a number outside the range of temperatures: "45 F" is a female patient."""
    letter = unit[0].strip()
    if letter in ("C", "F"):
        low, high = (30, 45) if letter == "C" else (86, 113)
        return low <= magnitude(number) <= high
    return True


def is_decimal(digits: str) -> bool:
    return "." in digits or "·" in digits or bool(DECIMAL_COMMA.fullmatch(digits))


def magnitude(match: re.Match[str]) -> float:
    if match["spelled"]:
        return spelled_number(match["spelled"])
    digits = match["digits"].replace("·", ".")
    if DECIMAL_COMMA.fullmatch(digits):
        digits = digits.replace(",", ".")
    value = float(re.sub("[,\u202f]", "", digits))
    if match["power"]:
        value *= 10.0 ** int(match["power"].translate(SUPERSCRIPTS))
    if match["sign"]:
        value = -value
    return value * MULTIPLES.get((match["multiple"] or "").strip().lower(), 1.0)


def spelled_number(text: str) -> float:
    """The value of a spelled number: "thirty-five" is 35."""
    return float(sum(VALUES[word] for word in re.split(r"[-‐‑– ]", text.lower())))


def as_atoms(sentence: str, group: list[tuple[re.Match[str], str]], terms: list[Atom]) -> Iterator[Atom]:
    end = group[-1][0].end()
    end += len(group[-1][1]) if sentence.startswith(group[-1][1], end) else 0
    thing = thing_beside(sentence, group[0][0].start(), end, terms)
    estimate = bool(ESTIMATE.search(sentence, max(0, group[0][0].start() - 16), group[0][0].start()))
    last_power = group[-1][0]["power"]
    for number, unit in group:
        decimals = (
            len(re.split("[.,]", number["digits"])[-1]) if number["digits"] and is_decimal(number["digits"]) else 0
        )
        # "from 210 to 45 x 10^9/L": the power is that of all numbers.
        power = 10.0 ** int((number["power"] or last_power or "0").translate(SUPERSCRIPTS))
        own = 1.0 if number["power"] else power
        value, dimension, factor = measured(magnitude(number) * own, unit)
        factor *= power
        kind = "number" if not unit else "quantity"
        if (
            dimension in ("mass", "activity", "mass/mass", "mass/area", "volume", "amount", "activity/mass")
            and thing
            and thing[0] == "drug"
        ):
            kind = "dose"
        last = number.end() + (len(unit) if sentence.startswith(unit, number.end()) else 0)
        text = sentence[number.start() : last]
        yield Atom(kind, text, number.start(), last, (value, dimension, factor, decimals, int(estimate)), thing)
        times = PRODUCT.search(sentence, max(0, number.start() - 6), number.start())
        if times and dimension in ("mass", "activity"):  # "4 x 500 mg"
            total = significant(value * int(times[1]))
            yield Atom(kind, text, number.start(), last, (total, dimension, factor, decimals, 0), thing)
        if tablets := TABLETS.search(sentence, max(0, number.start() - 30), number.start()):
            taken_at_once = significant(value * PARTS.get(tablets[1].lower(), 1.0))
            yield Atom(kind, text, number.start(), last, (taken_at_once, dimension, factor, decimals, 0), thing)


def measured(value: float, unit: str) -> tuple[float, str, float]:
    """The magnitude in the base unit of its dimension (to six significant digits), the dimension, and the factor."""
    name = unit.strip().strip("-").strip()
    if not name:
        return significant(value), "", 1.0
    if name[0] in "°º℃℉dCF" and parse_unit(name) is None:
        fahrenheit = "F" in name or "℉" in name
        return (significant((value - 32) / 1.8) if fahrenheit else value), "temperature", 5 / 9 if fahrenheit else 1.0
    # A unit that UNIT matches and parse_unit cannot read is a dimension of its own: the value is compared as it stands.
    dimension, factor = parse_unit(name) or (f"unreadable: {name}", 1.0)
    return significant(value * factor), dimension, factor


def significant(value: float) -> float:
    return float(f"{value:.6g}")


def thing_beside(sentence: str, start: int, end: int, terms: list[Atom]) -> tuple[str, ...]:
    """The term that a number belongs to, such as ("test", "hemoglobin"), or ().

    It is the test, drug or abbreviation right before the number, or the drug right after it ("5 mg of aspirin").
    """
    before = [term for term in terms if term.end <= start and term.kind in ("drug", "test", "abbreviation")]
    if before and start - before[-1].end < 60 and LINK.match(sentence[before[-1].end : start]):
        return name_of(before[-1])
    link = AFTER.match(sentence[end:])
    after = next((term for term in terms if term.start >= end and term.kind == "drug"), None)
    if after and after.start - end <= (link.end() if link else 1):
        return name_of(after)
    return ()


def name_of(term: Atom) -> tuple[str, ...]:
    return (term.kind, *(str(word) for word in term.value))
