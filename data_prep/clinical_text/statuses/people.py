"""The scopes of persons other than the patient: "her father had colon cancer", "Brother: epilepsy"."""

import re
from collections.abc import Iterator

from data_prep.clinical_text.statuses.cue_patterns import SUBJECT, Scope
from data_prep.clinical_text.words import bag, word_set

RELATIVES = {
    "mother": "mother|mom|maternal", "father": "father|dad|paternal", "parent": "parents?",
    "brother": "brothers?", "sister": "sisters?", "sibling": "siblings?|twin brother|twin sister", "son": "sons?",
    "daughter": "daughters?", "child": "children|offspring", "grandmother": "grandmothers?",
    "grandfather": "grandfathers?", "grandparent": "grandparents?", "uncle": "uncles?", "aunt": "aunts?",
    "cousin": "cousins?", "nephew": "nephews?", "niece": "nieces?", "spouse": "husband|wife|spouse|partner",
    "family": "famil(?:y|ial) (?:medical |cancer )?(?:history|h/o|hx)|(?<=in the |in his |in her )family"
    "|family members?|relatives?|fhx?", "donor": "donors?",
    "recipient": "recipients?", "newborn": "newborns?|neonates?|infants?|baby|babies|fetus|foetus",
    "contact": "contacts?|roommates?|colleagues?|classmates?|neighbou?rs?",
}  # fmt: skip
# A word for several relatives, each of whom it may mean.
ANY_OF = {
    "parent": {"mother", "father"}, "sibling": {"brother", "sister"}, "child": {"son", "daughter"},
    "grandparent": {"grandmother", "grandfather"},
}  # fmt: skip
FAMILY = frozenset(RELATIVES) - {"donor", "recipient", "newborn", "contact", "spouse"}
# Those who may be the patient: a report of a newborn or of a transplantation calls the patient so.
MAY_BE_PATIENT = frozenset(("newborn", "recipient"))
RELATIVE = re.compile(
    rf"\b(?:{'|'.join(f'(?P<{name}>{words})' for name, words in RELATIVES.items())})\b",
    re.IGNORECASE,
)
# A person is the subject of what follows if a predicate or a colon does: not in "a mother of three was referred".
PREDICATE = re.compile(
    r"(?:['’]s?)?(?:,? (?:who|aged \d+(?: and \d+)?(?: years?)?(?: old)?,?|age \d+|\w+ly|also|both|had also"
    r"|and \w+))*(?: \([^)]*\))?\s?(?:"
    r"(?:had|has|have|having|was|were|is|are|died|dies|suffer\w*|develop\w*|with|received|underwent|took|tested"
    r"|experienced|carrie[sd]|carrying|presented|succumbed|passed|bore|gave birth|positive|negative|of|revealed"
    r"|includ\w*|showed|significant|notable|remarkable|unremarkable|denied|did|does|do|remain\w*|became|weigh\w*|smok\w*|diagnos\w*"
    r"|affected|an? (?:\w+ )?carrier|the (?:\w+ )?carrier"
    r"|cmv|hiv|seropositive|came|comes|got|reported|found|complained|ha[ds]n)\b|[:–(-])",
    re.IGNORECASE,
)
OF_THREE = re.compile(
    r" of (?:a |an |the )?(?:one|two|three|four|five|six|seven|\d|several|healthy|this|our|his|her)\b", re.I
)
ADJECTIVES = frozenset(("maternal", "paternal"))
BEFORE_PERSON = re.compile(
    r"\b(?:in|affect(?:ed|ing)|kill(?:ed|ing))(?: (?:an?|the|his|her|their|one|two|three|both|several))?(?: \w+)? $"
    r"|[(\[]$|\b(?:positive|negative|infected|affected) $|\bof (?:his|her|the|their) $",
    re.IGNORECASE,
)
# What relatives do as witnesses says nothing of their own health.
WITNESS = re.compile(
    r"\s(?:\w+ly |had |also |first |who |then )?(?:report(?:ed|s)?|notic\w+|stat(?:ed|es)|said|brought|not(?:ed|es)"
    r"|describ\w+|complained|observ\w+|confirm\w+|found|gave|was (?:asked|informed|told|present|the historian)|were"
    r" (?:asked|informed|told|present)|recall\w*|told|called|witness\w*|refus\w+|consent\w*|agreed|declined|wished"
    r"|requested|decided|took (?:him|her|the)|sought|acknowledged|provided|admitted that|discovered|presented with"
    r" (?:her|his|the) (?:child|baby|son|daughter)|indicated|reveal\w+|mention\w+|heard|felt that|consulted|insisted)\b"
    r"|\s?(?:'s|’s)? (?:consent|request|arms|description|account|report)\b",
    re.IGNORECASE,
)
NOT_A_RELATIVE = re.compile(
    r"(?:sister chromatid|mother wavelet|parent (?:vessel|artery|drug|compound)|family (?:doctor|physician|practi\w+"
    r"|medicine|planning|member present|meeting)|lived? with (?:his|her)|married|born to|donor (?:site|area|search)"
    r"|child-?pugh|sister (?:mary|joseph)|contact (?:lens|dermatitis|precaution|with|sports?)|child's pose"
    r"|by (?:his|her|the|their) $)",
    re.IGNORECASE,
)
# The scope of a suspicion, a plan or a subject goes on behind a verb: "her father had colon cancer".
SENTENCE_PART = re.compile(
    r";|\.(?=\s|$)|,? (?:but|however|whereas|although|though|while|despite)\b|,? and"
    r" (?:he|she|the (?:patient|newborn|baby|infant|recipient|donor|mother))\b"
    r"|\b(?:therefore|which|who (?!had|has|died|suffered|was|is|were))\b"
    r"|, (?:he|she|the patient|it|we|a|the)\b",
    re.IGNORECASE,
)
# One of these words is in every name of a relative.
PERSONS = word_set("""
mother mothers mom maternal father fathers dad paternal parent parents brother brothers sister sisters sibling
siblings son sons daughter daughters child children offspring grandmother grandmothers grandfather grandfathers
grandparent grandparents uncle uncles aunt aunts cousin cousins nephew nephews niece nieces husband wife spouse
partner family familial relative relatives fh fhx donor donors recipient recipients newborn newborns neonate
neonates infant infants baby babies fetus foetus contact contacts roommate roommates colleague colleagues classmate
classmates neighbor neighbors neighbour neighbours
""")


def of_relatives(sentence: str) -> Iterator[Scope]:
    """The scopes of persons other than the patient: what follows them, or the clause before "in her father"."""
    if bag(sentence).isdisjoint(PERSONS):
        return
    for match in RELATIVE.finditer(sentence):
        before, after = sentence[: match.start()], sentence[match.end() :]
        if WITNESS.match(after) or NOT_A_RELATIVE.search(sentence[max(0, match.start() - 16) : match.end() + 14]):
            continue
        if re.search(r"\b(?:she|he|patient|they) and (?:her|his|their|the) $", before, re.IGNORECASE):
            continue
        status = SUBJECT + str(match.lastgroup)
        if match[0].lower() in ADJECTIVES:
            words = re.match(r"(?: [\w-]+){1,3}", after)
            yield Scope(status, match.end(), match.end() + (words.end() if words else 0), match.end())
            continue
        if re.search(r"\b(?:personal|medical|own|past|social) (?:or|and|nor) $", before, re.I):
            continue  # "no medical or family history of": of the patient as well
        history = re.search(r"istory|h/o|hx", match[0], re.IGNORECASE)
        if (
            (history or PREDICATE.match(after))
            and not OF_THREE.match(after)
            and not re.search(r"\bfrom (?:\w+ )?$", before)
        ):
            ending = SENTENCE_PART.search(sentence, match.end())
            yield Scope(status, match.end(), ending.start() if ending else len(sentence), match.end())
        if BEFORE_PERSON.search(before) and not history and not after.startswith("-"):
            start = max((part.end() for part in SENTENCE_PART.finditer(sentence, 0, match.start())), default=0)
            yield Scope(status, start, match.start(), match.start())
