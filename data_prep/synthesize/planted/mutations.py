"""Plant one error of a given class in a text.

Errors are placed by separate patterns, never by those of a checker, so that errors that a checker cannot see count as
missed. Each class is a function from a text and a random generator to `Planted`, or None if the text offers no place.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from data_prep.clinical_text.number_words import MONTHS, ONE_TO_NINETEEN


@dataclass(frozen=True)
class Planted:
    text: str
    start: int  # characters [start, end) of `text` that the error covers
    end: int
    was: str  # text that the error replaced
    phrase: str = ""  # new words and their neighbors: no error if the source contains them


def replace_at(note: str, start: int, end: int, new: str) -> Planted:
    return Planted(note[:start] + new + note[end:], start, start + len(new), note[start:end])


def choose(note: str, pattern: re.Pattern[str], random: Random) -> re.Match[str] | None:
    body = note.find("\n\n") + 1  # skip the title
    found = [match for match in pattern.finditer(note) if match.start() > body]
    return random.choice(found) if found else None


NUMBER = r"(?<![\w.,/-])(\d+(?:\.\d+)?)"
DOSE = re.compile(NUMBER + r" ?(?:mg|g|mcg|µg|μg|IU|units)\b(?! ?/ ?[dmM]?[Ll]|/1)")
MEASURE = re.compile(
    NUMBER + r" ?(?:mg/d[lL]|g/d[lL]|mmol/[lL]|ng/m[lL]|IU/L|U/L|mEq/L|mm ?Hg|cm|mm|%|kg|m[lL]|°C|℃|/min)(?![\w/])"
)
PLAIN = re.compile(r"(?<![\w.,/×x-])(\d{1,3})(?= (?:[a-z]{4,}s|x|of)\b)(?! (?:days|weeks|months|years|hours|minutes))")


def dose_times_ten(note: str, random: Random) -> Planted | None:
    match = choose(note, DOSE, random)
    if not match:
        return None
    value = float(match[1]) * 10
    return replace_at(note, match.start(1), match.end(1), f"{value:g}")


def number_changed(note: str, random: Random) -> Planted | None:
    match = choose(note, random.choice((MEASURE, MEASURE, PLAIN)), random)
    if not match:
        return None
    digits = list(match[1])
    place = random.choice([k for k, digit in enumerate(digits) if digit.isdigit()])
    digits[place] = random.choice([d for d in "123456789" if d != digits[place]])
    return replace_at(note, match.start(1), match.end(1), "".join(digits))


UNITS = {
    "mg/dL": "g/dL", "mg/dl": "g/dl", "g/dL": "mg/dL", "g/dl": "mg/dl", "mmol/L": "µmol/L", "ng/mL": "mg/mL",
    "cm": "mm", "mm": "cm",
    "mg": "g", "g": "mg", "kg": "g", "mL": "L", "ml": "l", "µg": "mg", "mcg": "mg", "U/L": "U/mL", "mEq/L": "mEq/mL",
    "mmHg": "kPa",
}  # fmt: skip
UNIT = re.compile(r"(?<=\d) ?(" + "|".join(sorted(UNITS, key=len, reverse=True)) + r")(?![\w/³²])")


def unit_swapped(note: str, random: Random) -> Planted | None:
    match = choose(note, UNIT, random)
    return replace_at(note, match.start(1), match.end(1), UNITS[match[1]]) if match else None


SIDES = {
    "left": "right",
    "right": "left",
    "upper": "lower",
    "lower": "upper",
    "anterior": "posterior",
    "posterior": "anterior",
}
SIDE = re.compile(
    r"(?<!was )(?<!were )(?<!he )(?<!patient )(?<!been )\b(left|right|upper|lower|anterior|posterior)\b"
    r"(?= [a-z]{3}|-sided)(?! (?:the|than|with|without|untreated|limit|her|his|after|hospital|against)\b)"
)


def side_swapped(note: str, random: Random) -> Planted | None:
    match = choose(note, SIDE, random)
    return replace_at(note, match.start(), match.end(), SIDES[match[1]]) if match else None


DENIALS = {
    "no": "", "No": "", "without": "with", "denied": "reported", "absence of": "presence of", "did not have": "had",
    "had no": "had", "showed no": "showed", "revealed no": "revealed", "negative for": "positive for",
}  # fmt: skip
DENIAL = re.compile(
    r"\b(" + "|".join(sorted(DENIALS, key=len, reverse=True)) + r") (?!longer|change|other|more|one|such)(?=[a-z]{4})"
)


def negation_dropped(note: str, random: Random) -> Planted | None:
    match = choose(note, DENIAL, random)
    if not match:
        return None
    new = DENIALS[match[1]]
    end = match.end() if not new else match.end(1)
    planted = replace_at(note, match.start(), end, new)
    return Planted(planted.text, match.start(), end_of_clause(planted.text, match.start()), planted.was)


AFFIRMED = re.compile(
    r"\b(?:showed|revealed|demonstrated|had|with|developed|noted|complained of|experienced) (a |an "
    r"|)(?=[a-z]{4})(?!been|not|with|that|than|under|normal)"
)


def negation_added(note: str, random: Random) -> Planted | None:
    match = choose(note, AFFIRMED, random)
    if not match:
        return None
    planted = replace_at(note, match.start(1), match.end(1), "no ")
    return Planted(planted.text, planted.start, end_of_clause(planted.text, planted.end), planted.was)


def end_of_clause(text: str, start: int) -> int:
    stop = re.compile(r"[.;\n]").search(text, start)
    return stop.start() if stop else len(text)


YEAR = re.compile(rf"\b(?:in|In|on|On|since|Since|of|{'|'.join(MONTHS)}|, )\s?((?:19|20)\d\d)\b")
MONTH = re.compile(rf"\b({'|'.join(month for month in MONTHS if month != 'May')})\b(?= \d)")
SPELLED = ONE_TO_NINETEEN[:12]
SPAN = re.compile(
    r"(?<![\w.,/–-])(\d{1,2}|two|three|four|five|six|seven|eight|nine|ten)(?=[ -](?:hour|day|week|month"
    r"|year)s?\b(?![- ]old| of age))"
)
AGE = re.compile(r"(?<![\w.,/–-])(\d{1,2})(?=[ -]years?[ -]old\b)")


def date_shifted(note: str, random: Random) -> Planted | None:
    match = choose(note, random.choice((YEAR, MONTH)), random) or choose(note, YEAR, random)
    if not match:
        return None
    if match[1].isdigit():
        return replace_at(note, match.start(1), match.end(1), str(int(match[1]) + random.choice((-3, -2, -1, 1, 2, 3))))
    return replace_at(note, match.start(1), match.end(1), random.choice([m for m in MONTHS if m != match[1]]))


def duration_shifted(note: str, random: Random) -> Planted | None:
    match = choose(note, SPAN, random)
    if not match:
        return None
    if match[1].isdigit():
        new = str(max(1, int(match[1]) + random.choice((-2, -1, 1, 2, 3, 5))))
        new = new if new != match[1] else str(int(match[1]) + 1)
    else:
        new = random.choice([word for word in SPELLED[1:] if word != match[1]])
    return replace_at(note, match.start(1), match.end(1), new)


def age_changed(note: str, random: Random) -> Planted | None:
    match = choose(note, AGE, random)
    return (
        replace_at(note, match.start(1), match.end(1), str(abs(int(match[1]) + random.choice((-9, -5, 3, 10))) or 1))
        if match
        else None
    )


GIVEN = tuple(
    """
aspirin heparin warfarin insulin metformin prednisone prednisolone methylprednisolone dexamethasone hydrocortisone
furosemide amiodarone digoxin penicillin amoxicillin ampicillin ceftriaxone cefotaxime meropenem gentamicin amikacin
vancomycin linezolid clindamycin azithromycin clarithromycin doxycycline ciprofloxacin levofloxacin metronidazole
rifampicin isoniazid ethambutol pyrazinamide fluconazole voriconazole itraconazole acyclovir ganciclovir
cyclophosphamide methotrexate azathioprine cyclosporine tacrolimus rituximab infliximab imatinib cisplatin carboplatin
paclitaxel docetaxel doxorubicin vincristine etoposide bleomycin gemcitabine tamoxifen octreotide phenytoin
carbamazepine levetiracetam gabapentin haloperidol risperidone olanzapine clozapine lithium fluoxetine sertraline
omeprazole allopurinol colchicine levothyroxine morphine fentanyl propofol ketamine atropine
""".split()
)
# Includes rare drugs, which a lexicon may not contain.
SWAPPED_IN = GIVEN + tuple(
    """
zafirlukast nusinersen blinatumomab tisagenlecleucel sacituzumab apalutamide suvorexant lasmiditan ubrogepant
tezepelumab brolucizumab selinexor ivosidenib zanubrutinib lemborexant cenobamate pitolisant solriamfetol tafamidis
inclisiran patisiran dalbavancin oritavancin fidaxomicin letermovir baloxavir bictegravir doravirine fostemsavir
ibrexafungerp eravacycline pretomanid bedaquiline delamanid tenapanor vonoprazan finerenone vericiguat bempedoic
sotagliflozin tirzepatide
""".split()
)
DRUG = re.compile(r"\b(" + "|".join(GIVEN) + r")\b", re.IGNORECASE)


def drug_swapped(note: str, random: Random) -> Planted | None:
    match = choose(note, DRUG, random)
    if not match:
        return None
    return replace_at(note, match.start(), match.end(), random.choice([d for d in SWAPPED_IN if d not in note.lower()]))


INVENTED = (
    "pneumonia", "deep vein thrombosis", "atrial fibrillation", "urinary tract infection", "diabetes mellitus",
    "seizures", "hearing loss", "gout", "psoriasis", "hypothyroidism", "pulmonary embolism", "pancreatitis",
    "cellulitis", "glaucoma", "chest pain", "night sweats", "palpitations", "hemoptysis", "jaundice", "ascites",
    "splenomegaly", "hypokalemia", "thrombocytopenia", "stroke", "Guillain-Barré syndrome", "Raynaud phenomenon",
    "restless legs", "hiccups", "gynecomastia", "trigeminal neuralgia", "scabies", "carpal tunnel syndrome",
    "celiac disease", "Graves disease", "tinnitus", "nystagmus", "photophobia", "priapism", "scoliosis",
    "pneumothorax", "pericarditis", "myocarditis", "diverticulitis", "cholangitis", "endometriosis", "preeclampsia",
    "delirium", "aphasia",
)  # fmt: skip
INSERTIONS = (
    "The patient also had {}. ",
    "The course was complicated by {}. ",
    "There was a history of {}. ",
    "{} was noted. ",
)
SENTENCE_END = re.compile(r"(?<=[a-z]\. )(?=[A-Z][a-z]+ )")


def finding_invented(note: str, random: Random) -> Planted | None:
    match = choose(note, SENTENCE_END, random)
    if not match:
        return None
    name = random.choice(INVENTED)
    sentence = random.choice(INSERTIONS)
    text = sentence.format(name)
    start = match.start() + sentence.index("{}")
    return Planted(
        note[: match.start()] + text[0].upper() + text[1:] + note[match.start() :], start, start + len(name), ""
    )


CLASSES: dict[str, Callable[[str, Random], Planted | None]] = {
    "dose x10": dose_times_ten,
    "number changed": number_changed,
    "unit swapped": unit_swapped,
    "side swapped": side_swapped,
    "drug swapped": drug_swapped,
    "date shifted": date_shifted,
    "duration shifted": duration_shifted,
    "age changed": age_changed,
    "negation dropped": negation_dropped,
    "negation added": negation_added,
    "finding invented": finding_invented,
}


def is_true_elsewhere(planted: Planted, source: str) -> bool:
    """Report whether the source also contains the planted words, so that a reader could not call them an error."""
    return bool(re.search(rf"\b{re.escape(planted.text[planted.start : planted.end])}", source, re.IGNORECASE))
