"""Numbers that belong to a name: values, doses, blood pressure, frequency, grade."""

import re
from random import Random

from data_prep.synthesize.planted.rules import rule

LEVEL = r"(?<![\w./,×x-])\d+(?:[.,]\d+)?(?! ?[x×*-] ?\d)(?![\d./,-]\d)"
LEVEL_UNIT = (
    r" ?(?:[mµμ]?g/d[lL]|[mµμ]?mol/[lL]|pmol/[lL]|[npm]g/m[lL]|[IU]+/[Ll]|[IU]+/m[lL]|mE[qQ]/[lL]|m?g/[lL]|%|cm|mm|"
    r"beats?/min|/min|bpm)(?![\w/])"
)
NAMES_BETWEEN = r"[^.;:\d]{0,40}[A-Za-z][^.;:\d]{2,40}?"


def exchanged(match: re.Match[str], _: Random) -> str:
    """The match with its groups `a` and `b` in each other's place; equal ones leave it as it was."""
    start = match.start()
    between = match[0][match.end("a") - start : match.start("b") - start]
    return match[0][: match.start("a") - start] + match["b"] + between + match["a"] + match[0][match.end("b") - start :]


NO_NORMAL = r"(?![^.;]{0,60}(?:normal|reference|range|\bto\b|\bthan\b|\bby\b| x |×|from))"
VALUE_EXCHANGED = (
    rule(rf"(?P<a>{LEVEL}){LEVEL_UNIT}{NO_NORMAL}{NAMES_BETWEEN}(?P<b>{LEVEL}){LEVEL_UNIT}", exchanged),
    rule(rf"\b(?:temperature|pulse|heart rate|respiratory rate|"
         rf"saturation)\b[^.;\d]{{0,20}}(?P<a>{LEVEL})[^.;\d]{{0,25}}\b(?:pulse|heart rate|respiratory rate|"
         rf"saturation)\b[^.;\d]{{0,20}}(?P<b>{LEVEL})", exchanged),
)  # fmt: skip

AMOUNT = r"\d+(?:[.,]\d+)? ?(?:mg|g|mcg|[µμ]g|IU|units|mL|ml|Gy)(?:/kg|/m2|/m²|/m\(2\))?(?:/day|/d)?(?![\w/])"
DOSE_EXCHANGED = (
    rule(rf"\b[A-Za-z]{{5,}}(?: (?:of|at|to|dose|orally|\())*[ (:]+(?P<a>{AMOUNT})[^.;\d]{{0,40}}?\b[A-Za-z]{{5,}}[ "
         rf"(:]+(?P<b>{AMOUNT})", exchanged),
    rule(rf"(?P<a>{AMOUNT}) (?:of )?[a-z]{{5,}}[^.;\d]{{0,30}}\b(?P<b>{AMOUNT}) (?:of )?[a-z]{{5,}}", exchanged),
)  # fmt: skip


def other_pressure(match: re.Match[str], random: Random) -> str:
    high, low = int(match["high"]), int(match["low"])
    shift = random.choice((-20, 20, 30))
    new = random.choice((f"{high + shift}/{low}", f"{high}/{max(20, low + shift)}", f"{low}/{high}"))
    return match[0][: match.start("high") - match.start()] + new + match[0][match.end("low") - match.start() :]


BLOOD_PRESSURE = (
    rule(
        r"\b(?:blood pressure|BP|pressure)\b[^.;\d]{0,25}(?P<high>\d{2,3}) ?/ ?(?P<low>\d{2,3})\b(?!/)",
        other_pressure,
    ),
    rule(r"(?<![\d/])(?P<high>\d{2,3})/(?P<low>\d{2,3})(?= ?mm ?/?Hg)", other_pressure),
)

TIMES = {"once": "three times", "twice": "four times", "one time": "three times", "two times": "four times",
         "three times": "once", "four times": "twice", "thrice": "once", "five times": "twice",
         "six times": "twice"}  # fmt: skip
EVERY = {"2": "6", "3": "1", "4": "12", "6": "24", "8": "24", "12": "6", "24": "8", "two": "six", "three": "one",
         "four": "two", "six": "two", "eight": "24", "twelve": "six", "other": "third"}  # fmt: skip


def other_times(match: re.Match[str], _: Random) -> str:
    table = TIMES if match["n"].lower() in TIMES else EVERY
    new = table[match["n"].lower()]
    return match[0].replace(match["n"], new, 1)


DAILY_DOSE = r"(?<=\d )(?:mg|g|mcg|µg|IU|units|tablets?|drops?)"
FREQUENCY = (
    rule(rf"\b(?P<n>{'|'.join(TIMES)}) (?:a|an|per|every|each)?[ -]?(?:daily|weekly|day|week|month|monthly)\b",
         other_times, re.IGNORECASE),
    rule(rf"\bevery (?P<n>{'|'.join(EVERY)})(?:th|st|nd|rd)? ?-?(?:h|hours?|hrs|days?|weeks?|months?)\b(?! (?:of|old))",
         other_times),
    rule(r"\bq(?P<n>4|6|8|12|24) ?h\b", other_times),
    rule(r"\b(?:bid|b\.i\.d\.?|BID|bd|B\.D\.?)(?![\w])", ("QID", "once weekly")),
    rule(r"\b(?:tid|t\.i\.d\.?|TID|tds|TDS)(?![\w])", ("once daily", "BID")),
    rule(r"\b(mg|g|mcg|µg|IU|units|tablets?)(/kg)? (daily|per day|a day|once a day)\b",
         (r"\1\2 every other day", r"\1\2 weekly", r"\1\2 four times daily")),
    rule(r"\b(mg|g|mcg|µg|IU|units|tablets?)(/kg|/m2)?/day\b", (r"\1\2/week", r"\1\2/hour")),
    rule(r"\bweekly (?=[a-z]{5,}(?:mab|platin|axel|ate|cin|ine|ide)\b|doses?\b|injections?\b)", "daily "),
)  # fmt: skip

ROMAN = ("I", "II", "III", "IV")


def other_grade(match: re.Match[str], random: Random) -> str:
    old = match["n"]
    scale = next(steps for steps in (ROMAN, ("A", "B", "C"), ("1", "2", "3", "4", "6")) if old in steps)
    new = random.choice([step for step in scale if step != old])
    return match[0][: match.start("n") - match.start()] + new + match[0][match.end("n") - match.start() :]


GRADE = (
    rule(r"\b(?:[Gg]rade|[Ss]tage|GRADE|STAGE)[ -]?(?P<n>IV|III|II|I|[1-4])(?![\d/]|[–-]?[IV\d]| (?:procedure|"
         r"operation))", other_grade),
    rule(r"\b(?:NYHA|New York Heart Association|ASA|functional|Killip)(?: functional)?(?: class| status| score|"
         r" grade)? ?\(?(?P<n>IV|III|II|I|[1-4])\b(?![–/-])", other_grade),
    rule(r"\b(?:class|Class) (?P<n>IV|III|II|I)\b(?! (?:antiar|MHC|HLA|malocc|molec|antig|obes|I\b))", other_grade),
    rule(r"\b(?:Child(?:[ -–]Pugh)?|Child–Pugh)(?: class| score| grade)? ?\(?(?P<n>[ABC])\b", other_grade),
    rule(r"\b[pc]?T(?P<n>[1-4])(?=[abc]?[, ]?N)", other_grade),
    rule(r"\b(?:BI-?RADS|ECOG(?: performance status)?|PS|Gleason(?: score)?|Fontaine|Fuhrman(?: grade)?|"
         r"Tanner(?: stage)?)[ :]*(?P<n>IV|III|II|I|[1-46])\b(?! ?\+)", other_grade),
)  # fmt: skip
