"""Selection of the reports, and of the sentences of a report, that can become a note: one patient, and nothing else."""

import re

from data_prep.clinical_text.sentences import normalise, split_sentences, tidy
from data_prep.ingest.scope import animal

SEXES = (
    r"(?:male|female|man|woman|boy|girl|gentleman|lady|infant|neonate|newborn|child|toddler|adolescent|teenager|baby)"
)
COUNT = r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|\d+)"
PERSONS = (
    r"(?:patients|cases|siblings|brothers|sisters|twins|children|infants|neonates|women|men|boys|girls|individuals)"
)
# Reports about more than one patient, in which it is unclear who "she" is.
SEVERAL = re.compile(
    rf"\b(?:we|authors?|report|paper|article|study|here|herein)\b[^.]{{0,60}}\b{COUNT} (?:[\w-]+ ){{0,4}}{PERSONS}\b"
    rf"|^(?:the )?{COUNT} (?:[\w-]+ ){{0,4}}{PERSONS}\b(?! (?:of|ago))"
    r"|\b(?:both|all|these|our|the|of|other|remaining|affected|included|following) (?:\w+ )?patients\b(?! with\b)"
    r"|\b(?:the |our )?(?:second|third|fourth|other|\d ?(?:st|nd|rd|th)) (?:patient|case)\b"
    r"|\b(?:case|patient)s? ?(?:#|n[o°]?[.:°]? ?)?\d\b(?!\d| ?(?:days|weeks"
    r"|months|years|hours))"
    r"|\b(?:son|daughter|proband|patient|individual)s? [IVX]+[-:.]?\d|\bprobands\b"
    r"|\b(?:first|index) (?:patient|case)\b|\b(?:both|these) (?:\w+ )?(?:cases|siblings|twins|brothers|sisters)\b"
    r"|\b(?:two|three) (?:\w+ )?cases\b(?! of)|\b(?:case|observation) (?:I{1,3}|one|two)\b(?! of)|\bobservation \d"
    rf"|^another (?:[\w-]+ ){{0,3}}(?:patient|case|{SEXES})\b|\b(?:two|three) (?:affected |\w+ )?(?:siblings|"
    rf"families)\b"
    r"(?= (?:with|who|were|had|presented|from|of (?:an?|the) family)\b)|\bseparate families\b|\bour (?:cases|series)\b"
    r"|\bdonor and (?:the )?recipient\b|\bdonor (?:was an?|had a history|underwent|recovered|was discharged)\b"
    r"|\b(?:first|second|elder|younger) (?:twin|sibling) (?:was|had|presented|underwent)\b",
    re.IGNORECASE | re.MULTILINE,
)
COHORT = re.compile(
    r"\b(?:cohort|case series|retrospective (?:study|analysis|review)|prospective (?:study|analysis)|randomi[sz]ed|"
    r"study population|control group|mean age|median age|inclusion criteria)\b",
    re.IGNORECASE,
)
VETERINARY = re.compile(
    r"\b(?:veterinar(?!ian)\w+|koi|herds?|carcass\w*|necropsy|zoo|aquari(?:um|a)|livestock|(?:both|these|the|"
    r"affected|two) animals)\b",
    re.IGNORECASE,
)
AGED = re.compile(
    r"\b(?:\d{1,3}|[a-z]+(?:-[a-z]+)?)[- ]+(?:years?|yr|y|months?|weeks?|days?)[- ]?(?:old|of age)\b|\baged \d",
    re.IGNORECASE,
)
INTRODUCED = re.compile(r"^(?:An?|The|Our) (\d{1,3})[- ]years?[- ]old (?:[\w-]+ ){0,3}?" + SEXES + r"\b", re.IGNORECASE)
# One person, as the subject of a sentence or with an age. A text about a programme or a gene has neither.
PERSON = re.compile(
    rf"{AGED.pattern}|\b(?:the|our|this|an?|his|her) (?:[\w-]+ ){{0,2}}(?:patient|{SEXES})\b|\b(?:he|she|his|her)\b"
    rf"|\b(?:patient|gravida|{SEXES})\b[^.]{{0,60}}\b(?:was|had|presented|admitted|referred|born|underwent)\b",
    re.IGNORECASE,
)
# The subject of a sentence, also behind "On examination,".
HE_OR_SHE = re.compile(r"^(?:[^,.]{3,60}, )?(he|she)\b", re.IGNORECASE)

# ---------------------------------------------------------------- sentences

# Sentences about the literature, the authors, the paper or a disease in general, not about the patient.
LITERATURE = re.compile(
    r"\b(?:to (?:the best of )?our knowledge|in (?:the )?(?:\w+[- ]?){0,2}literature|literature review|"
    r"review (?:of )?(?:the )?literature|case reports\b|(?:this|our|present|presented|the) (?:case|"
    r"report) (?:report )?(?:highlights?|illustrates?|emphasi[sz]es?|underscores?|demonstrates?|shows?|suggests?|"
    r"describes?|reports?|presents?|is (?:the|a|an)\b)|(?:has|have) (?:\w+ )?been (?:rarely |previously |"
    r"only )?(?:reported|described|published) (?:in|as|to|previously|so)\b|presents in (?:infancy|childhood|adult\w*)|"
    r"(?:autosomal|X-linked) (?:recessive|dominant) (?:disorder|disease|condition)|it is surmised|this case exhibited|"
    r"this is (?:the )?(?:first|second|third|only)\b|is reported here|are given in detail|highly relevant|our search|"
    r"search (?:of|in) (?:the )?(?:pubmed|medline|literature)|previously reported|according to previous research|"
    r"previous research|in (?:the )?(?:general|normal) population|we (?:suggest|speculate|hypothesi[sz]e|"
    r"postulate) that|it (?:is|was) (?:important|noteworthy|interesting|worth|well known)|"
    r"should (?:always )?be (?:considered|kept|suspected)|guidelines? (?:recommend|suggest)\w*|consent|ethic(?:s|al) |"
    r"institutional review board|conflicts? of interest|competing interest|permission to|published|for publication|"
    r"funding|acknowledg\w+|manuscript|this (?:article|paper|study)|et al\b|PubMed|we (?:herein |here |"
    r"also )?(?:discuss|review|highlight|emphasi[sz]e|want to|believe|conclude that|hope)\b|anonymi[sz]ed|"
    r"studies have|learning point|is (?:an?|the most) (?:\w+ ){0,3}(?:rare|uncommon|common|well-known|"
    r"life-threatening)\b|is (?:very |extremely |exceedingly )?(?:rare|uncommon)\b|(?:is|"
    r"are) associated with (?:an? )?(?:increased|higher|lower|poor)|we (?:assessed|compared|analy[sz]ed|aimed|"
    r"sought)\b|is (?:believed|thought|known|considered) to\b|^patients (?:with|who)\b|"
    r"according to (?:the )?(?:previous |published )?(?:reports|articles|literature|studies)|only (?:one|a few|"
    r"\w+ other) (?:reports?|cases?)|^historically\b|up to now\b|has never been\b|(?:incidence|prevalence) of|(?:is|"
    r"are) (?:\w+ )?(?:characteri[sz]ed by|defined as|widely used|commonly used|usually|generally|estimated)\b)",
    re.IGNORECASE,
)
# "We operated after obtaining written consent": the words on consent leave, the operation stays.
CONSENT = re.compile(
    r",? ?\b(?:after|with|following|upon|and) (?:\w+ing )?(?:(?:the|an?|her|his|their|patient|parents?|parental|"
    r"written|informed|verbal|signed)(?:['’]s?)? ?)*consent(?: (?:was|from|of|for|to) (?:\w+ ?){1,5})?(?=[,.])",
    re.IGNORECASE,
)
# A sentence of two words, which a heading is not: "Lactation failed."
COMPLETE = re.compile(r"[A-Z]\w+ \w+ed\.$")
REPORTS = re.compile(r"\b(?:we|authors) (?:\w+ )?(?:report|present|describe)\b", re.IGNORECASE)
# A sentence that only points to a table or figure.
POINTER = re.compile(
    r"^[^;]{0,160}\b(?:shown|summari[sz]ed|listed|presented|given|depicted|illustrated|detailed|seen|see|as|"
    r"in)\s+(?:(?:in|on|by)\s+)?(?:the\s+)?(?:Fig|Tab|Suppl|Appendix)[^;]{0,30}$|\b(?:in|on|by|see|referencing|"
    r"our)\s+(?:the )?(?:Fig(?:ure|\.)|Tab(?:le|\.))s? ?\d|^(?:Fig(?:ure|\.)|Tab(?:le|\.)) ?\d",
    re.IGNORECASE,
)
# "We report the case of a 54-year-old man", "Case 1: A 54-year-old man": the words before the man.
LEAD_IN = re.compile(
    r"^this is (?:the|a) case (?:report )?of\s+|^(?:(?:here(?:in)?|in this (?:report|paper|article|"
    r"case(?: report)?)),?\s+)?(?:we|the authors?|this (?:case report|case|report|paper|article|"
    r"study))\s+(?:(?:here(?:in)?|hereby|present)\s+)*(?:report|present|describe|refer|concern|chronicle|document|"
    r"detail)(?:s|ed)?\s+(?:(?:here(?:in)?|on|about|to)\s+)*(?:(?:the|an?|another|our|one|"
    r"this)\s+(?:[\w-]+\s+){0,3}?(?:case|observation)\s+(?:of|in|with|about|concerning)\s+)?",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"^(?:(?i:(?:(?:the )?(?:clinical )?case|patient|observation)(?: (?:report|presentation|description|information|"
    r"history|study|"
    r"n[o°]?[.:°]? ?\d|\d))+|observation|present case|clinical (?:findings|presentation|case)"
    r"|patient information|diagnostic assessment"
    r"|diagnosis and differentials|therapeutic interventions?|follow-?up and outcomes?"
    r"|timeline)\s*[:.–-]?\s*(?=[A-Z“\"])"
    r"|(?i:in (?:this|the present|our|present) case,\s*))"
)
# Pointers to figures that `tidy` leaves: "as shown in.", "(Figure (Figure1C);1C)", "a mass Figure 1, Figure 2."
FIGURE = r"(?:Fig(?:ure)?s?\.?|Tables?) ?\d+[A-Za-z]?(?: \([A-Z]\)| and [A-Z])?"
ARROWS = re.compile(
    r"\s*\((?:(?:red|white|black|yellow|blue|green|thick|thin|long|short|open|solid|and|\w+) )?arrow(?:s|head|"
    r"heads)?\b[^()]*\)",
    re.IGNORECASE,
)
# A citation's number after a full stop, at which two sentences stay joined: "criteria.12 Later, ..."
CITED = re.compile(r"(?<=[a-z]{3}\.)\d{1,3}(?:[,–-]\d{1,3})*(?=\s|$)")
FIGURES = re.compile(
    r"\s*\((?:Fig(?:ure)?s?|Tables?)\.? ?\((?:Fig|Tab)[^()]*\)[^()]*\)"
    r"|\s*\((?:Fig(?:ure)?s?|Tables?)\b[^()]*\)(?:;?\d+[A-Z]?\))*"
    r"|\s\(\d{1,2}(?:[,–-] ?\d{1,2})*\)(?=\.)"
    rf"|,?\s*\(?(?:as )?(?:is |was |are |were )?(?:shown|seen|depicted|illustrated|"
    rf"demonstrated) in(?: {FIGURE})?\s*(?=[.;)])\)?"
    rf"|^As (?:shown|seen|depicted|illustrated) in (?:the )?{FIGURE}, "
    rf"|(?<! in)(?<! on)(?<! by)(?<! see)(?<!the)[,;:]? {FIGURE}(?:(?:,| and|, and) {FIGURE})*(?=[.,;)]|\s*$|"
    rf" that\b| which\b)"
)
# Initials of a person, with and without a title.
TITLE = r"(?:Mr|Mrs|Ms|Miss|Mme|Madame?)\b\.?"
INITIALS = r"(?:[A-Z]\.?[ -]?){1,3}(?![a-z]) ?"
APPOSED = re.compile(
    rf"\b(?:{TITLE} {INITIALS}),? (?=(?:an?|the) |\d|aged )|(?<=[Pp]atient) [A-Z]{{2}}(?=, (?:an? |\d|aged ))"
)
NAMED = re.compile(rf"(^|(?<=[.:] ))?\b{TITLE} {INITIALS}")
ACTING = re.compile(r"\b[A-Z]\. ?[A-Z]\.(?= (?:was|had|has|is|underwent|presented|received|developed|reported)\b)")
BRACKETED = re.compile(rf"\b(patient|{SEXES}),? \(?(?:initials? )?(?:[A-Z]\. ?){{2,3}}(?:\)|,)?(?=\s)", re.IGNORECASE)


def why_not(report: str) -> str:
    """The reason why no note can be written of a report, or "" if it describes one human patient."""
    text = normalise(report)
    if found := animal(text) or (VETERINARY.search(text) and not AGED.search(text) and "veterinary words"):
        return f"the patient is an animal ({found})"
    if len(COHORT.findall(text)) >= 2:
        return f"describes a cohort ({COHORT.findall(text)[0]})"
    sentences = split_sentences(text)
    if several := SEVERAL.search("\n".join(sentences)):
        return f"describes several patients ({several[0]})"
    if len({match[1].lower() for match in map(HE_OR_SHE.match, sentences) if match}) > 1:
        return "describes several patients (he and she)"
    ages = {match[1] for match in map(INTRODUCED.match, sentences) if match}
    if len(ages) > 1:
        return f"describes several patients (aged {' and '.join(sorted(ages))})"
    return "" if PERSON.search(text) else "describes no patient"


def patient_sentences(report: str) -> list[str]:
    """The sentences about the patient, without initials, citations, labels such as "Case 1:" and "we report"."""
    sentences = [without_pointers(sentence) for sentence in split_sentences(without_initials(normalise(report)))]
    kept = [LEAD_IN.sub("", sentence) for sentence in sentences if is_about_patient(sentence)]
    return [
        sentence[0].upper() + sentence[1:] for sentence in kept if len(sentence.split()) > 2 or COMPLETE.match(sentence)
    ]


def without_pointers(sentence: str) -> str:
    """The sentence without its label, citations, pointers to figures, and words on consent."""
    return LABEL.sub("", tidy(FIGURES.sub("", tidy(CONSENT.sub("", ARROWS.sub("", sentence)))))).lstrip(" ,;:")


def without_initials(text: str) -> str:
    text = BRACKETED.sub(r"\1", APPOSED.sub("", text))
    text = ACTING.sub(
        lambda match: "The patient" if not match.start() or text[match.start() - 2] in ".?!" else "the patient", text
    )
    return NAMED.sub(lambda match: "The patient " if match[1] is not None else "the patient ", text)


def is_about_patient(sentence: str) -> bool:
    """Return True unless a sentence is about the literature, the paper or a figure."""
    rest = LEAD_IN.sub("", sentence)
    if CITED.search(sentence):
        return False
    if POINTER.match(sentence) or LITERATURE.search(rest):
        return False
    introduced = AGED.search(rest) or re.search(rf"\b(?:patient|{SEXES})\b", rest)
    return bool(introduced) if rest != sentence else not REPORTS.search(sentence)
