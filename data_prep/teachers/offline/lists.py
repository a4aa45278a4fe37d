"""Lists of a discharge summary that a report states in sentences: diagnoses, condition and medications at discharge."""

import re

from data_prep.clinical_text.entities import find_entities
from data_prep.teachers.offline.cues import DIAGNOSED

MOST_WORDS = 14
DIAGNOSIS = re.compile(
    r"\bdiagnos(?:is (?:of|was|is|were)|ed (?:with|as(?: having)?|to have))(?: (?:a|an|the|having|established as|"
    r"made of))? ((?:[^.,;:()]|\.(?=\d)|,(?= (?:grade|stage|type|with)\b))+)",
    re.IGNORECASE,
)
# The name of a diagnosis ends before these words.
DIAGNOSIS_END = re.compile(
    r" (?:was|were|is|are|been|by|on|based|according|which|who|that|after|before|at|in|since|from|because|due|for|"
    r"using|through|but|made|with|confirmed|established|could|had|has|upon|via|following|given|as|she|he|we|"
    r"the patient|arising|complicat\w+|measuring|associated|involving|invading|secondary|to|revealing|even|results?|"
    r"consistent|surfaced|caused|surrounded|operative|related|and (?:was|he|she|the|we|her|his|they|an?|treat\w+|"
    r"underwent|start\w+|transferred|received|admitted|put|given|then|therefore|treatment|referred|discharged))\b.*"
)
VAGUE = re.compile(
    r"^(?:(?:the|an?|malignant|benign|malignancy|tumou?rs?|mass|lesion|cancer|infection|disease|carcinoma|"
    r"adenocarcinoma|fracture|metastas[ie]s|cyst) ?)+$|"
    r"^(?:old|known|coexistence|presence|recurrence|absence|some|case|this|these|that|his|her|type)\b|\bor\b|[\"“”?/]",
    re.IGNORECASE,
)
# Not a diagnosis of this patient, not certain, or given up later.
UNSURE = re.compile(
    r"\b(?:suspect\w*|raised|evoked|possib\w+|probab\w+|presum\w+|provisional|likely|differential|initial\w*|"
    r"preliminary|working|tentative|consider\w*|could|might|may|if|exclu\w+|ruled out|no|not|never|without|"
    r"misdiagnos\w+|previous\w*|history|ago|earlier|prenatal\w*|antenatal\w*|delay\w*|question\w*|doubt\w*|mother|"
    r"father|brother|sister|sibling|son|daughter|wife|husband|family|uncle|aunt|cousin|infant|newborn|baby|"
    r"alternative|first|erroneous\w*|unclear|clinical diagnosis)\b",
    re.IGNORECASE,
)
# A report that speaks of a change of diagnosis: which of them holds is a matter of meaning.
GIVEN_UP = re.compile(
    r"\b(?:misdiagnos\w*|revised|reconsider\w*|turned out|proved to be|mistaken\w*|mimick\w*|(?:working|provisional|"
    r"preoperative|preliminary|tentative|initial|first|final|definit\w+|differential) (?:\w+ )?diagnos\w+|"
    r"initially (?:diagnosed|thought|considered)|instead of|rather than)\b",
    re.IGNORECASE,
)
BEFORE_ADMISSION = re.compile(
    r"\b(?:before|prior to|preceding) (?:\w+ )?(?:admission|presentation|hospital\w*)\b", re.I
)
# What follows a diagnosis where the sentence names another.
GOES_ON = re.compile(r"\s*(?:,|;|and\b|with\b|as well as\b|plus\b|along with\b)", re.IGNORECASE)
CONDITION = re.compile(
    r"\bdischarged\b[^.;]{0,40}? (?:in|with) (?:an? |the )?((?:\w+ ){0,3}?(?:condition|state|health))\b", re.IGNORECASE
)
STATE = r"(?:asymptomatic|afebrile|symptom-free|well|ambulatory|neurologically intact)"
DISCHARGED_AS = re.compile(rf"\bdischarged (?:home )?({STATE}(?: and {STATE})?)(?=[.,;]| on\b| after\b)", re.IGNORECASE)
DISCHARGED_ON = re.compile(
    r"\bdischarged?\b[^.;]{0,50}? (?:on|with|under) (?:oral |a prescription of |a course of |treatment with |"
    r"maintenance )*((?:[^.;]|\.(?=\d))+)",
    re.IGNORECASE,
)
CAME_BACK = re.compile(
    r"\b(?:re-?)?(?:admi(?:tted|ssion)|hospitali[sz]\w+|presented|returned)\b|\b(?:stopped|discontinu\w+|withdrawn|"
    r"switched|replaced|changed to|tapered|ceased|weaned|induced)\b",
    re.IGNORECASE,
)
DOSE = re.compile(
    r"(?: (?:\d[\d.,]*|mg|g|µg|mcg|IU|ml|per|day|daily|once|twice|times|a|every|hours|tablets?|orally|weekly|"
    r"/))*(?:/day|/d)?"
)
ITEM = re.compile(r",? and |, ")
DRUG_END = re.compile(
    r" (?:and (?:was|has|he|she|advised)|with (?:regular|close|a|follow)|for (?:further|follow)|after|to be|until|"
    r"as)\b.*"
)


def stated_diagnoses(sentences: list[str]) -> list[str]:
    """The diagnoses that sentences state as certain, in their own words and order."""
    found: dict[str, str] = {}
    if any(GIVEN_UP.search(sentence) for sentence in sentences):
        return []
    for sentence in sentences:
        for match in DIAGNOSIS.finditer(sentence) if not UNSURE.search(sentence) else ():
            phrase = DIAGNOSIS_END.sub("", match[1]).strip()
            if is_problem(phrase):
                found.setdefault(phrase.lower(), phrase)
    # "Lymphoma" is no second diagnosis beside "diffuse large B-cell lymphoma".
    return [phrase for low, phrase in found.items() if not any(low in other for other in found if other != low)]


def all_diagnoses(sentences: list[str]) -> list[str]:
    """The diagnoses of `stated_diagnoses`; [] if the sentences speak of one that is not among them.

    A list that holds only the first of two, or the illness of a year before, misleads whoever reads it alone.
    """
    told = [sentence for sentence in sentences if re.search("diagnos(?:is|es|ed)\\b", sentence, re.IGNORECASE)]
    if any(BEFORE_ADMISSION.search(sentence) or not stated_diagnoses([sentence]) for sentence in told):
        return []
    found = stated_diagnoses(sentences)
    rests = [sentence.partition(phrase)[2] for phrase in found for sentence in told if phrase in sentence]
    return [] if any(GOES_ON.match(rest) and names_problem(rest) for rest in rests) else found


def only_diagnosis(sentences: list[str]) -> str:
    """The one diagnosis that sentences state, or "" if another sentence speaks of a diagnosis."""
    found = all_diagnoses(sentences)
    told = sum(bool(DIAGNOSED.search(sentence)) for sentence in sentences)
    return found[0] if len(found) == told == 1 else ""


def names_problem(text: str) -> bool:
    return any(entity.kind == "problem" for entity in find_entities(text))


def is_problem(phrase: str) -> bool:
    """Return True if a phrase is the full name of a problem: it contains one and ends in one or in its site."""
    found = [entity for entity in find_entities(phrase) if entity.kind in ("problem", "anatomy")]
    whole = bool(found) and found[-1].end == len(phrase) and any(entity.kind == "problem" for entity in found)
    return whole and len(phrase.split()) <= MOST_WORDS and not VAGUE.search(phrase)


def condition_at_discharge(sentences: list[str]) -> list[str]:
    """The condition in which the patient was discharged, if the report names it."""
    for sentence in reversed(sentences):
        match = CONDITION.search(sentence) or DISCHARGED_AS.search(sentence)
        if match and not re.search(r"\bnot\b|\bthis\b|\bsame\b", sentence):
            return [match[1]]
    return []


def discharge_medications(sentences: list[str]) -> list[str]:
    """The medications that the patient was discharged with; [] if an item of the list is not surely a drug.

    Also [] if the patient came back or a drug was stopped afterwards: the list would be read as the latest.
    """
    for number, sentence in reversed([*enumerate(sentences)]):
        match = DISCHARGED_ON.search(sentence)
        if match and any(CAME_BACK.search(later) for later in sentences[number + 1 :]):
            return []
        items = [item.strip() for item in ITEM.split(DRUG_END.sub("", match[1]))] if match else []
        if items and all(is_drug(item) for item in items):
            return items
    return []


def is_drug(item: str) -> bool:
    """Return True for one drug with at most a route before it and a dose after it."""
    found = find_entities(item)
    alone = len(found) == 1 and found[0].kind == "drug" and len(item[: found[0].start].split()) <= 1
    return alone and bool(DOSE.fullmatch(item[found[0].end :]))
