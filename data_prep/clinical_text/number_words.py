"""Number words, months and units of time: one table of each for every reader and writer of clinical text."""

MONTHS = tuple("January February March April May June July August September October November December".split())
# Full names and abbreviations, in one non-capturing group.
MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)

ONE_TO_NINETEEN = tuple(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split()
)
TENS = {
    word: 10 * tens
    for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
ORDINALS = {
    word: number
    for number, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
        "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        start=1,
    )
}

# "seventeen" before "seven", "thirty-five" before "thirty"; without "one", which is often a pronoun.
SPELLED = (
    rf"(?:(?:{'|'.join(TENS)})(?:[-‐‑– ](?:{'|'.join(ONE_TO_NINETEEN[:9])}))?"
    rf"|{'|'.join(sorted(ONE_TO_NINETEEN[1:], key=len, reverse=True))})"
)

# A month is a twelfth of a year of 365.25 days.
DAYS_PER_UNIT = {
    "second": 1 / 86400, "sec": 1 / 86400, "minute": 1 / 1440, "min": 1 / 1440, "hour": 1 / 24, "hr": 1 / 24,
    "h": 1 / 24, "day": 1.0, "d": 1.0, "week": 7.0, "wk": 7.0, "month": 30.4375, "mo": 30.4375, "year": 365.25,
    "yr": 365.25, "y": 365.25, "decade": 3652.5,
}  # fmt: skip
