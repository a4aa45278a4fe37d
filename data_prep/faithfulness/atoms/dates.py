"""Extraction of dates, ages, days of a stay, and durations.

find_times("A 34-year-old man, admitted on 12 March 2019 for 2 weeks, POD 3")
-> age (34, "year"); date (2019, 3, 12); duration 14 days; date ("day", "postoperative", 3)
"""

import re
from collections.abc import Iterator

from data_prep.clinical_text import number_words
from data_prep.clinical_text.number_words import DAYS_PER_UNIT, MONTHS, ONE_TO_NINETEEN, ORDINALS, SPELLED, TENS
from data_prep.clinical_text.words import bag, word_set
from data_prep.faithfulness.atoms.kinds import Atom, Taken
from data_prep.faithfulness.atoms.quantities import spelled_number

MONTH = rf"(?P<month>{number_words.MONTH})\b\.?"
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?P<year>(?:19|20)\d\d)"
DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<![\w.]){DAY}(?: of)?[ -]{MONTH},?(?:[ -](?:of )?{YEAR})?(?!\w)",
        rf"\b{MONTH}[ -]{DAY}(?:,? {YEAR})?(?![\w.]*\d)",
        rf"\b{MONTH},?(?: of)? {YEAR}\b",
        r"(?<![\w./-])(?P<year>(?:19|20)\d\d)[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})(?![\w/-])",
        r"(?<![\w./-])(?P<day>\d{1,2})[-/.](?P<month>\d{1,2})[-/.](?P<year>(?:19|20)?\d\d)(?![\w/-])",
        r"\b(?:[Ii]n|[Oo]n|[Ss]ince|[Uu]ntil|[Bb]y|of|early|late|mid|last) (?P<month>"
        rf"{'|'.join(MONTHS)})\b(?! \d)",
        rf"(?<![\w.,/-]){YEAR}(?![\w-]|,\d|\.\d|/\d| ?(?:mg|ml|mL|L\b|l\b|g|kg|cells|IU|U|cc|mm|pg|ng|mcg|µ|/|×|x ))",
    )
)

COUNT = rf"(?P<count>\d{{1,3}}(?:[.·]\d+)?|{SPELLED}|an?\b|one|half an?\b)"
UNIT = r"(?P<unit>seconds?|sec|minutes?|mins?|hours?|hrs?|h|days?|d|weeks?|wks?|months?|mo|years?|yrs?|decades?)"
AGES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w.])(?P<count>\d{{1,3}}(?:\.\d)?|{SPELLED}|one|a)(?:[- ]and[- ]a[- ](?P<half>half))?[-"
        rf" ]?(?P<unit>years?|yrs?|months?|mo|weeks?|wk|days?|y)"
        r"[- ,]{0,2}(?:olds?|of age|/?o|(?=-?(?:girl|boy|man|woman|male|female)\b))\b",
        rf"\baged?(?: of| at| was| is|:)? (?P<count>\d{{1,3}}|{SPELLED})(?:[- ](?P<unit>years?|months?|weeks?"
        rf"|days?))?\b",
        r"(?<![\w./-])(?P<count>\d{1,3})(?:(?P<unit>y|yr|yo|y/o) ?)?(?:[MF]|male|female)(?![\w/°])",
    )
)
STAY = (
    r"(?P<label>hospital|post-?operative|post-?op|admission|hospitali[sz]ation|treatment|postpartum|illness"
    r"|gestational|gestation|pregnancy|life)"
)
DAYS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:{STAY}[- ])?(?P<unit>day|week|month|hour|minute)s? (?:#|no\. ?)?(?P<count>\d{{1,3}})(?![\w.]*\d)"
        rf"(?: (?:of|after) {STAY.replace('label', 'after')})?",
        r"\b(?P<short>POD|HD) ?#?(?P<count>\d{1,3})\b",
        r"\b(?P<count>\d{1,3})(?:st|nd|rd|th) (?P<short>POD|HD)\b",
        rf"\b(?P<count>\d{{1,3}}(?=st|nd|rd|th)|{'|'.join(ORDINALS)})(?:st|nd|rd|th)?[- ](?:{STAY}[-"
        rf" ])?(?P<unit>day|week|month|hour|minute)\b",
    )
)
FORTNIGHT = re.compile(r"\b(?:an?|one|(?P<count>two))? ?fortnights?\b", re.IGNORECASE)
UNTIL_DAY = re.compile(r"\s?(?:to|and|until|[-–])\s?(\d{1,3})\b(?!\s?(?:mg|g|ml|mL|%|cm|mm))")
# "thirty-two" is one number, "two-three" are two.
COMPOUND = rf"(?:{'|'.join(TENS)})[-‐‑– ](?:{'|'.join(ONE_TO_NINETEEN[:9])})\b"
DURATION = re.compile(
    rf"(?<![\w.,])(?:(?!{COMPOUND})(?P<low>\d{{1,3}}(?:\.\d+)?|{SPELLED})(?:\s?[-–/]\s?|\s(?:to|or)\s))?{COUNT}"
    rf"(?:[- ]and[- ]a[- ](?P<half>half))?[- ]?"
    rf"(?:consecutive |full |more |additional |further |postoperative |post-?operative"
    rf" )?{UNIT}(?![\w/²³2])(?P<after> and a half)?",
    re.IGNORECASE,
)
# "35 4/7 weeks", "35+4 weeks", "35 weeks and 4 days" of a pregnancy
WEEKS_AND_DAYS = re.compile(
    r"(?<![\w.])(?P<weeks>\d{1,2})(?:(?:\s?\+\s?|\s)(?P<sevenths>[0-6])(?:/7)?[- ]?(?:weeks?|wks?)\b"
    r"|[- ]?(?:weeks?|wks?)(?:,? and|,|\s?\+)? (?P<days>[0-6]|one|two|three|four|five|six) days?\b)",
    re.IGNORECASE,
)
# "a day" is a rate ("twice a day"), unless one of these patterns precedes or follows it.
SPAN_BEFORE = re.compile(
    r"(?:for|within|after|over|during|past|last|about|approximately|almost|nearly|in|since|of|by|than|further|next"
    r"|only)\s(?:the\s)?$",
    re.IGNORECASE,
)
SPAN_AFTER = re.compile(
    r"^(?:['’]s?)?[- ](?:later|ago|earlier|before|after|prior|history|duration|course|follow|following|post"
    r"|long|of|h/o|hx)\b",
    re.IGNORECASE,
)
RATE_BEFORE = re.compile(r"(?:/|\bper|\bevery|\beach|\bq\.?)\s?$", re.IGNORECASE)


# Every age, day and duration contains one of these words. Looking for them first is much faster than the patterns.
SPAN_WORDS = word_set("""
second seconds minute minutes hour hours day days week weeks month months year years decade decades fortnight fortnights
h d mo min mins sec hr hrs wk wks yr yrs pod hd y yo
""")
AGE_WORDS = SPAN_WORDS | word_set("old olds age aged male female m f girl boy")


def find_times(sentence: str, taken: Taken) -> list[Atom]:
    """The ages, dates, days and durations of a sentence, in this order.

    Ages and dates come first, because their numbers would otherwise be read as durations or counts.
    """
    words = bag(sentence)
    found = [] if words.isdisjoint(AGE_WORDS) else [*ages(sentence, taken)]
    found += dates(sentence, taken)
    if not words.isdisjoint(SPAN_WORDS):
        found += [*days(sentence, taken), *durations(sentence, taken)]
    return found


SECOND_AGE = re.compile(r" and (\d{1,3})(?=,? respectively\b|[,.;]| years?\b)")


def ages(sentence: str, taken: Taken) -> Iterator[Atom]:
    for pattern in AGES:
        for match in pattern.finditer(sentence):
            if not taken.free(match.start(), match.end()):
                continue
            taken.take(match.start(), match.end())
            unit = (match["unit"] or "year").lower()
            # "34-yo": the y is for years. "6 mo": months.
            name = "month" if unit.startswith("mo") else "year" if unit.startswith("y") else unit.rstrip("s")
            name = {"wk": "week"}.get(name, name)
            half = 0.5 if "half" in match.re.groupindex and match["half"] else 0
            yield Atom("age", match[0], match.start(), match.end(), (count_of(match["count"]) + half, name))
            if second := SECOND_AGE.match(sentence, match.end()):  # "at age 42 and 36"
                taken.take(*second.span())
                yield Atom("age", second[1], second.start(1), second.end(), (float(second[1]), name))


def dates(sentence: str, taken: Taken) -> Iterator[Atom]:
    for pattern in DATES:
        for match in pattern.finditer(sentence):
            if not taken.free(match.start(), match.end()):
                continue
            groups = match.groupdict()
            year, month, day = (groups.get(name) for name in ("year", "month", "day"))
            number = month_of(month)
            if (number and not 1 <= number <= 31) or (day and not 1 <= int(day) <= 31):
                continue
            taken.take(match.start(), match.end())
            full_year = (int(year) if len(year) == 4 else 2000 + int(year)) if year else None
            yield Atom("date", match[0], match.start(), match.end(), (full_year, number, int(day) if day else None))


def month_of(text: str | None) -> int | None:
    if not text:
        return None
    return int(text) if text.isdigit() else [month[:3] for month in MONTHS].index(text[:3].capitalize()) + 1


def days(sentence: str, taken: Taken) -> Iterator[Atom]:
    """Days counted from an event: ("day", "postoperative", 3)."""
    for pattern in DAYS:
        for match in pattern.finditer(sentence):
            if not taken.free(match.start(), match.end()):
                continue
            groups = match.groupdict()
            label = (groups.get("label") or groups.get("after") or "").lower().replace("-", "")
            short = groups.get("short")
            if short:
                label = "postop" if short.upper() == "POD" else "hospital"
            origin = (
                "postoperative"
                if label.startswith("postop")
                else "hospital"
                if label[:4] in ("hosp", "admi")
                else label
            )
            taken.take(match.start(), match.end())
            count = match["count"].lower()
            unit = (groups.get("unit") or "day").lower()
            yield Atom("date", match[0], match.start(), match.end(), (unit, origin, ORDINALS.get(count) or int(count)))
            if last := UNTIL_DAY.match(sentence, match.end()):
                taken.take(*last.span())
                yield Atom("date", last[0].strip(), last.start(1), last.end(), (unit, origin, int(last[1])))


def durations(sentence: str, taken: Taken) -> Iterator[Atom]:
    for match in FORTNIGHT.finditer(sentence):
        yield Atom("duration", match[0], match.start(), match.end(), (28.0 if match["count"] else 14.0,))
    for match in WEEKS_AND_DAYS.finditer(sentence):
        if taken.free(match.start(), match.end()):
            taken.take(match.start(), match.end())
            length = 7 * int(match["weeks"]) + count_of(match["sevenths"] or match["days"])
            yield Atom("duration", match[0], match.start(), match.end(), (float(length),), ("weeks and days",))
    for match in DURATION.finditer(sentence):
        start, end = match.start(), match.end()
        is_rate = RATE_BEFORE.search(sentence[:start]) and "-" not in match[0]  # "each 28-day cycle" is none
        if not taken.free(start, end) or is_rate:
            continue
        count = match["count"].lower()
        vague = count in ("a", "an") and not (SPAN_BEFORE.search(sentence[:start]) or SPAN_AFTER.match(sentence[end:]))
        # The abbreviations h and d are units only after digits: "36 h", "2 d".
        if vague or (match["unit"].lower() in ("h", "d") and not match["count"][0].isdigit()):
            continue
        taken.take(start, end)
        unit = DAYS_PER_UNIT[match["unit"].lower().rstrip("s")]
        extra = 0.5 if match["half"] or match["after"] else 0
        for number in filter(None, (match["low"], match["count"])):
            yield Atom("duration", match[0], start, end, (round((count_of(number) + extra) * unit, 3),))


def count_of(text: str) -> float:
    text = text.lower()
    if text in ("a", "an", "one"):
        return 1.0
    if text.startswith("half"):
        return 0.5
    if text[0].isdigit():
        return float(text.replace("·", "."))
    return spelled_number(text)
