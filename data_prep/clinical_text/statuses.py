"""How a clinical sentence qualifies the things it names: absent, uncertain, not done, of a relative.

    statuses_at("Her father had colon cancer.", 15, 27)      -> {"of:father"}
    statuses_at("Fever: none.", 0, 5)                        -> {"absent"}
    statuses_at("Embolism could not be excluded.", 0, 8)     -> {"suspected"}

A cue such as "denied" has a scope: the words after it, or before it, up to the end of its clause. The statuses of a span
are those of the scopes that contain it. A span without a status is stated of the patient, as certain and as done.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

ABSENT, SUSPECTED, PLANNED, CONDITIONAL, ALLERGY = "absent", "suspected", "planned", "conditional", "allergy"
SUBJECT = "of:"  # "of:father", "of:donor"


class Scope(NamedTuple):
    """The characters [start, end) of a sentence that a cue qualifies; `cue` is the offset of the cue's nearer end."""

    status: str
    start: int
    end: int
    cue: int


LOOKED_FOR = (
    r"(?:show|shown|reveal|revealed|demonstrate|demonstrated|identify|identified|detect|detected|find|found|disclose"
    r"|disclosed|note|noted|see|seen|observe|observed|indicate|display|visuali[sz]e|visuali[sz]ed|confirm|confirmed"
    r"|suggest|grow|grown|yield|elicit|elicited|palpate|palpated|establish|established|document|documented|isolate"
    r"|isolated|appreciate|appreciated|diagnose|diagnosed|prove|proven|proved|record|recorded)"
)
# Verbs whose negation says nothing against their object: "did not relieve the pain".
KEEPS_OBJECT = (
    r"(?:improve|respond|resolve|subside|change|abate|relieve|alleviate|reduce|decrease|increase|stop|diminish"
    r"|disappear|remit|help|alter|affect|prevent|worsen|progress|cure|control|explain|exclude|rule out|preclude|deny"
    r"|rule|regress|differ|interfere|correlate|tolerate|know|recall|remember|want|wish|seem|appear to have"
    r"|influence|correct|cease|settle|clear|suffice)"
)

# status -> cues whose scope is the words after them
BEFORE: dict[str, tuple[str, ...]] = {
    ABSENT: (
        r"no(?! ?\.? ?\d)(?![,;:.])", r"without", r"denie[sd]", r"denying", r"den(?:y|ial of)", r"absen(?:ce|t) of", r"absent",
        r"neg(?:ative)? for", r"free (?:of|from)", r"neither", r"nor", r"never(?: (?:had|has|have|been|experienced|developed|showed|suffered from|complained of))?",
        r"nil", r"none of", r"excluded",
        r"excluding", r"rul(?:ed|ing|es) out", r"lack(?:s|ed|ing)?(?: of| any)?", r"devoid of",
        r"fail(?:ed|s|ing)? to (?:be )?" + LOOKED_FOR, r"failure to " + LOOKED_FOR,
        r"unable to (?:be )?" + LOOKED_FOR, r"(?:unremarkable|insignificant) for",
        r"(?:argue[sd]?|arguing|speaks?|spoke|spoken|mitigated?|weigh(?:s|ed)?|evidence|points?|pointed) against",
        r"inconsistent with", r"incompatible with", r"not (?:in keeping|consistent|compatible) with",
        r"(?:is|was|are|were|am|'s)n['’]t", r"(?:has|had|have|did|does|do|could|would)n['’]t",
        rf"(?:did|does|do|could|can|would|has|have|had|was|were|is|are)(?: \w+)? not (?!\w+ly {KEEPS_OBJECT}\b)"
        rf"(?!(?:been |be |fully |completely )?{KEEPS_OBJECT})",
        r"cannot (?!be\b|exclude|rule)", r"not (?:have|had|show|shown|reveal|find|found|detect|note|experience"
        r"|develop|demonstrate|identify|complain of|report|suffer from|suggest|any|a|an|present with|associated with"
        r"|accompanied by|due to|caused by|related to|seen|undergo|receive|given)",
        r"refus(?:ed|es|al of|ing)", r"declin(?:ed|es|ing) (?!from|to \d|in|by|over|after|during|rapidly|slowly|and)",
        r"cancel(?:l?ed|lation of)", r"abstain(?:ed|s) from", r"nonreactive for", r"cleared of", r"unlikely to be",
        r"contraindicat(?:ed|ion to)", r"no longer (?=had|has|reported|complained)", r"to avoid",
    ),
    SUSPECTED: (
        r"suspect(?:ed|s|ing)?(?: of| to have| for)?", r"suspicio(?:n|us)(?: was raised)? (?:of|for|about)",
        r"suspicion", r"possibl[ey]", r"possibility of", r"probabl[ey]", r"likely", r"presumed", r"presumptive(?:ly)?",
        r"presumably", r"query", r"\?\s?",
        r"(?:may|might) (?:have (?:had |been )?|be |represent|reflect|indicate|suggest|correspond to|also |well )+"
        r"(?!not|excluded|ruled)",
        r"could (?:have (?:had |been )?|be (?!\w*ed\b|cut|seen|done|put|taken|given|made|shown|found|felt|brought|kept)"
        r"|represent|reflect|indicate|suggest|correspond to|well )+(?!not|excluded|ruled)", r"concern(?:s|ing)? (?:for|about|of)",
        r"r/o", r"(?:to )?rule out", r"to exclude", r"(?:not|n['’]t|cannot|never) (?:be )?(?:\w+ )?"
        r"(?:exclude|rule out)", r"differential (?:diagnos[ei]s )?(?:included?|of|was|consisted of|list(?:ed)?)?",
        r"dd[x:]+", r"(?:was|were|is|been) thought to (?:have|be)", r"(?:was|were|is) believed to (?:have|be)",
        r"believed (?:it|this|that|them) (?:to be|was|were)", r"in all likelihood", r"(?:was|were) taken for", r"looked like",
        r"hinted at", r"pointed (?:to|towards)", r"(?:may|might) or (?:may|might) not",
        r"was felt to (?:have|be)", r"considered (?:the )?diagnos[ei]s of", r"appear(?:s|ed) to (?:be|have)",
        r"seem(?:s|ed) to (?:be|have)", r"questionable", r"equivocal(?: for)?", r"(?:vs|versus)\.?", r"potential",
        r"provisional(?: diagnosis)?(?: of| was| is|:)?", r"working diagnosis(?: of| was| is|:)?", r"tentative(?:ly)?",
        r"hypothesis of", r"raised? the question of", r"work-?up for", r"evaluat(?:ed?|ion) for", r"impression of"
        r" possible", r"assumed", r"borderline", r"doubtful",
    ),
    PLANNED: (
        r"plan(?:ned|s)?(?: to| for| of)?", r"scheduled(?: for| to)?", r"recommend(?:ed|s|ation(?: of| for)?)(?: to)?",
        r"advised?(?: to)?", r"advice to", r"propos(?:ed|al of)(?: to)?", r"offered", r"suggested (?!by|that|a? ?diag)",
        r"await(?:s|ing|ed)?", r"pending", r"will (?:be|undergo|have|receive|start|need)", r"is to (?:be|undergo|have)",
        r"was (?:due )?to (?:undergo|have|receive)", r"considering", r"intend(?:ed|s) to", r"to consider",
        r"candidate for", r"listed for", r"prior authorization for", r"consent(?:ed)? (?:to|for)", r"eligible for",
        r"prepared for", r"booked for", r"needs?(?: to| an?)", r"requested", r"ordered",
    ),
    CONDITIONAL: (
        r"if", r"in case of", r"in the event of", r"should (?!be|have|not|continue)(?=\w+ (?!be\b)\w+)", r"unless",
        r"prophyla(?:xis|ctic\w*)(?: (?:against|for|of))?", r"prevent(?:ion|ative|ive)?(?:s|ing)?(?: (?:of|against))?",
        r"risk (?:factors? )?(?:of|for)", r"at risk (?:of|for)", r"screen(?:ed|ing) for", r"vaccinat\w+ (?:against|for)",
        r"immuni[sz]\w+ (?:against|for)", r"fear(?:ed|s)? (?:of|for)", r"afraid of", r"warn(?:ed|ing) (?:of|about)",
        r"watch(?:ing)? for", r"monitor(?:ed|ing)? for (?:signs of |development of )?", r"predispos\w+ to",
        r"return (?:if|for|in case of)", r"investigat\w+ for", r"look(?:ed|ing)? for", r"search(?:ed|ing)? for",
        r"test(?:ed|ing|s)? for", r"prone to",
    ),
    ALLERGY: (r"allerg(?:y|ies|ic)(?: reactions?)?(?: (?:to|:))?", r"intoleran(?:ce|t) (?:to|of)",
              r"hypersensitiv\w+ to", r"adverse reactions? to", r"allergies:"),
}  # fmt: skip

SEEN = (
    r"(?:found|seen|present|detected|observed|noted|identified|palpable|palpated|reported|demonstrated|evident|visible"
    r"|visuali[sz]ed|apparent|shown|confirmed|appreciated|demonstrable|detectable|elicited|recorded|revealed|proven"
    r"|established|diagnosed|isolated|performed|done|carried out|undertaken|given|administered|started|obtained|taken"
    r"|attempted|used|required|needed|available|possible|prescribed|reproduced|felt|heard|grown|discovered|disclosed"
    r"|documented|encountered|received)"
)
# status -> cues whose scope is the words before them
AFTER: dict[str, tuple[str, ...]] = {
    ABSENT: (
        r"(?:was|were|is|are|been|being|be|remained) (?:\w+ly |also |all |both |again )?(?:absent|negative|excluded"
        r"|ruled out|denied|lacking|avoided|averted|withheld|omitted|refused|declined|cancell?ed|rejected|dismissed|discarded|missing|nil|unlikely"
        rf"|not (?:\w+ly |yet |ever )?{SEEN}|never (?:\w+ly )?{SEEN})",
        rf"(?:could|can|would|may) ?not be (?:\w+ly )?{SEEN}", rf"(?:failed|unable) to be {SEEN}",
        rf"(?:has|have|had) (?:not|never) been (?:\w+ly )?{SEEN}", rf"(?:wasn|weren|couldn|isn|aren)['’]t (?:be )?{SEEN}",
        r"(?:\s?[:=–-]\s?|\s?[(\[]\s?)(?:none|negative|neg|no|nil|absent|denie[sd]|not (?:present|seen|found|detected"
        r"|palpable|known|done|performed)|never|nad|ø|[-−–]|-?ve|stated to be absent|\w+, stated to be absent)"
        r"(?=\s?(?:[.;,)\]]|$))",
        r"(?:negative|neg|absent)\.?(?= on (?:imaging|exam|ct|mri)|$|[.;,])", r"did not (?:occur|develop|recur|appear|take place"
        r"|happen|arise|exist|materiali[sz]e)", r"does not (?:exist|occur)", r"never (?:occurred|developed|recurred"
        r"|appeared|happened)", r"seems? (?:very |highly )?unlikely", r"was thought (?:to be )?unlikely",
        r"-free\b", r"(?:was|were) (?:against|out of the question)",
        rf"(?:was|were|is|are|been) [^.;,]{{1,30}} but (?:was |were )?(?:not|never) (?:\w+ly )?{SEEN}",
    ),
    SUSPECTED: (
        r"(?:was|were|is|are|been|being) (?:\w+ly |also |initially |first |strongly )?(?:suspected|presumed|possible"
        r"|probable|likely|suggested|considered(?! (?:for|to have undergone))|questioned|assumed|postulated|entertained"
        r"|hypothesi[sz]ed|queried|raised|uncertain|unclear|doubtful)",
        r"(?:could|can|would|cannot|has|have|had|was|were|is)(?: ?not|n['’]t)? ?(?:be |been )?(?:\w+ly |yet )?"
        r"(?:not be |not been |not )?(?<=not )(?:\w+ly )?(?:be )?(?:excluded|ruled out|confirmed with certainty)",
        r"cannot be (?:\w+ly )?(?:excluded|ruled out)", r"(?:could|can)not be (?:\w+ly )?(?:excluded|ruled out)",
        r"(?:was|were|is) not (?:\w+ly )?(?:excluded|ruled out)", r"not (?:excluded|ruled out)",
        r"remain(?:s|ed) (?:a )?(?:possib\w+|suspected|in the differential|likely|uncertain)", r"\?",
        r"(?:was|is|were|are) in the differential", r"as (?:a )?(?:possible|probable|potential|suspected)",
        r"\((?:suspected|possible|probable|presumed|likely|\?)\)", r"suspected(?=[.;,]|$)", r"not certain",
        r"(?:may|might|could) (?:have|be|explain)(?: been)?(?: the| a)?",
    ),
    PLANNED: (
        r"(?:was|were|is|are|been) (?:\w+ly |also |then |again )?(?:planned|scheduled|recommended|advised|proposed"
        r"|offered|suggested|considered for|intended|postponed|deferred|awaited|pending|requested|booked)",
        r"(?:lies|lie) ahead", r"(?:is|are) still to come", r"will (?:follow|be (?:performed|done|started|given|continued))", r"to be (?:performed|done|started|given|arranged)"
        r"(?: later)?", r"pending(?=[.;,)]|$)", r"(?:planned|scheduled|recommended|advised)(?= for| in| but|[.;,)]|$)",
    ),
}  # fmt: skip

RELATIVES = {
    "mother": "mother|mom|maternal", "father": "father|dad|paternal", "parent": "parents?",
    "brother": "brothers?", "sister": "sisters?", "sibling": "siblings?|twin brother|twin sister", "son": "sons?",
    "daughter": "daughters?", "child": "children|offspring", "grandmother": "grandmothers?",
    "grandfather": "grandfathers?", "grandparent": "grandparents?", "uncle": "uncles?", "aunt": "aunts?",
    "cousin": "cousins?", "nephew": "nephews?", "niece": "nieces?", "spouse": "husband|wife|spouse|partner",
    "family": "famil(?:y|ial) (?:medical |cancer )?(?:history|h/o|hx)|(?<=in the |in his |in her )family|family members?|relatives?|fhx?", "donor": "donors?",
    "recipient": "recipients?", "newborn": "newborns?|neonates?|infants?|baby|babies|fetus|foetus",
    "contact": "contacts?|roommates?|colleagues?|classmates?|neighbou?rs?",
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
    r"(?:['’]s?)?(?:,? (?:who|aged \d+|age \d+|\w+ly|also|both|had also|and \w+))*(?: \([^)]*\))?\s?(?:"
    r"(?:had|has|have|having|was|were|is|are|died|dies|suffer\w*|develop\w*|with|received|underwent|took|tested"
    r"|experienced|carrie[sd]|carrying|presented|succumbed|passed|bore|gave birth|positive|negative|of|revealed|includ\w*"
    r"|showed|significant|notable|remarkable|unremarkable|denied|did|does|do|remain\w*|became|weigh\w*|smok\w*|diagnosed"
    r"|affected|cmv|hiv|seropositive|came|comes|got|reported|found|complained|ha[ds]n)\b|[:–(-])",
    re.IGNORECASE,
)
OF_THREE = re.compile(r" of (?:a |an |the )?(?:one|two|three|four|five|six|seven|\d|several|healthy|this|our|his|her)\b", re.I)
ADJECTIVES = frozenset(("maternal", "paternal"))
BEFORE_PERSON = re.compile(
    r"\b(?:in|affect(?:ed|ing)|kill(?:ed|ing))(?: (?:an?|the|his|her|their|one|two|three|both|several))?(?: \w+)? $"
    r"|[(\[]$|\bof (?:his|her|the|their) $",
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

# What ends a scope: punctuation, a contrast, a new predicate or a new subject.
CLAUSE_END = re.compile(
    r"[;:]|\.(?=\s|$)|\b(?:but|however|although|though|whereas|while|except|apart from|other than|which|that|who"
    r"|because|due to|as well as a|and (?:the|he|she|was|were|had|has|his|her|showed|then|a|an|is|underwent|received)"
    r"|was|were|is|are|had|has|showed|shows|revealed|demonstrated|disclosed|present(?:ed|s|ing)"
    r"|complain(?:ed|s|ing) of|admitted|referred|came|developed|underwent|consulted|hospitali[sz]ed|visited|attended"
    r"|sought|received|confirmed|grew|then|until|followed by|therefore|so)\b"
    r"|, (?:and (?:he|she|the|was|had|a|an)|he|she|the|with|a|an|his|her|it|there|we)\b",
    re.IGNORECASE,
)
# The scope of a suspicion, a plan or a subject goes on behind a verb: "her father had colon cancer".
SENTENCE_PART = re.compile(
    r";|\.(?=\s|$)|,? (?:but|however|whereas|although|though|while)\b|,? and (?:he|she|the (?:patient|newborn|baby"
    r"|infant|recipient|donor|mother))\b|\b(?:therefore|which|who (?!had|has|died|suffered|was|is|were))\b"
    r"|, (?:he|she|the patient|it|we|a|the)\b",
    re.IGNORECASE,
)
# Phrases with a negation that affirm what follows.
AFFIRMING = re.compile(
    r"not only|no longer(?! (?:had|has|reported|complained))|without (?:any )?(?:change|improvement|relief|response"
    r"|success|delay|benefit|effect)|no (?:significant |further |marked |relevant |major |substantial |apparent |real |"
    r"clear )*(?:change|changes|increase|decrease|improvement|response|progression|worsening|difference|relief|resolution"
    r"|regression|benefit|effect|reduction|success|alteration|variation|deterioration|interval change)\b|no doubt"
    r"|never (?:stopped|ceased|resolved|recovered|regained|disappeared|completely)|not (?:un|in|im)(?:likely|common|usual|frequent|expected|remarkable|significant|affected|possible)\w*|no sooner"
    r"|none the less|no (?:one|wonder|matter)\b|without (?:treatment|knowing)\b|nothing but",
    re.IGNORECASE,
)
LONGEST_SCOPE = 130  # characters
BACK = 160


def _cues(table: dict[str, tuple[str, ...]]) -> re.Pattern[str]:
    """One pattern for all cues, with a group for each status."""
    groups = []
    for status, cues in table.items():
        ordered = sorted(cues, key=len, reverse=True)
        groups.append(f"(?P<{status}>{'|'.join(ordered)})")
    return re.compile("|".join(groups), re.IGNORECASE)


FORWARD = re.compile(rf"(?<![\w-])(?:{_cues(BEFORE).pattern})(?:(?<=\s)|(?![\w-]))", re.IGNORECASE)
BACKWARD = re.compile(rf"(?:(?<![\w])|(?=[\s(\[:=?-]))(?:{_cues(AFTER).pattern})(?!\w)", re.IGNORECASE)
# Most sentences have no cue at all.
ANY = re.compile(
    r"\bn[oe]|\bden|absen|without|\bfree\b|-free|\bnil\b|exclud|\bru?l|\black|devoid|fail|unable|unremark|against"
    r"|incons|incomp|rather|instead|n['’]t\b|not\b|refus|declin|cancel|abstain|clear|unlikely|contraind|lieu|avoid"
    r"|suspic|suspect|possib|probab|likely|presum|query|\?|\bmay\b|might|could|concern|r/o|differen|\bdd|thought|believed"
    r"|felt|consider|appear|seem|questio|equivoc|\bvs|versus|potential|provis|working|tentat|hypoth|work-?up|evaluat"
    r"|assum|borderl|doubt|\bplan|schedul|recomm|advi[sc]|propos|offer|suggest|await|pending|will\b|\bto\b|intend"
    r"|candidate|listed|consent|eligib|prepared|booked|need|request|order|\bif\b|case of|event|should|unless|prophyl"
    r"|prevent|risk|screen|vaccin|immuni|fear|afraid|warn|watch|monitor|predisp|return|investig|look|search|test|prone"
    r"|allerg|intoler|hypersens|adverse|[(:=]\s?[-−–n]|uncertain|unclear|entertain|postul|queri|raised|dismiss|discard"
    r"|missing|rejected|lieu|out of",
    re.IGNORECASE,
)


@lru_cache(maxsize=16384)
def scopes(sentence: str) -> tuple[Scope, ...]:
    """The scopes of all cues of a sentence."""
    found = [*of_relatives(sentence)]
    if ANY.search(sentence):
        affirming = [match.span() for match in AFFIRMING.finditer(sentence)]
        found += forward(sentence, affirming)
        found += backward(sentence, affirming)
    return tuple(found)


def forward(sentence: str, affirming: list[tuple[int, int]]) -> Iterator[Scope]:
    for match in FORWARD.finditer(sentence):
        if inside(match, affirming):
            continue
        status = str(match.lastgroup)
        ending = (CLAUSE_END if status in (ABSENT, ALLERGY) else SENTENCE_PART).search(sentence, match.end() + 1)
        end = min(ending.start() if ending else len(sentence), match.end() + LONGEST_SCOPE)
        if status == ABSENT and sentence[match.end() : match.end() + 1] == ":":  # "Denied: a; b; c."
            end = len(sentence)
        if status == ABSENT and re.match(r"\s?(?::|=)", sentence[match.end() :]):
            end = len(sentence)
        yield Scope(status, match.end(), end, match.end())


def backward(sentence: str, affirming: list[tuple[int, int]]) -> Iterator[Scope]:
    for match in BACKWARD.finditer(sentence):
        if inside(match, affirming):
            continue
        yield Scope(str(match.lastgroup), subject_start(sentence, match.start()), match.start(), match.start())


def subject_start(sentence: str, end: int) -> int:
    """The start of the subject of a predicate that begins at `end`: "fever, chills and cough" were denied."""
    start = max(0, end - BACK)
    last = None
    for last in CLAUSE_END.finditer(sentence, start, end):  # noqa: B007  the last one is used
        pass
    if last is None:
        return start
    start = last.end()
    # "had pain, fever was absent": behind a verb, the subject begins after the comma.
    comma = sentence.rfind(", ", start, end)
    return comma + 2 if comma >= 0 and last[0].isalpha() else start


def inside(match: re.Match[str], spans: list[tuple[int, int]]) -> bool:
    return any(start < match.end() and match.start() < end for start, end in spans)


def of_relatives(sentence: str) -> Iterator[Scope]:
    """The scopes of persons other than the patient: what follows them, or the clause before "in her father"."""
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
        if (history or PREDICATE.match(after)) and not OF_THREE.match(after) and not re.search(r"\bfrom (?:\w+ )?$", before):
            ending = SENTENCE_PART.search(sentence, match.end())
            yield Scope(status, match.end(), ending.start() if ending else len(sentence), match.end())
        if BEFORE_PERSON.search(before) and not history and not after.startswith("-"):
            start = max((part.end() for part in SENTENCE_PART.finditer(sentence, 0, match.start())), default=0)
            yield Scope(status, start, match.start(), match.start())


def count_of(sentence: str, status: str) -> int:
    """The number of cues for a status in a sentence."""
    return sum(scope.status == status for scope in scopes(sentence))


def statuses_at(sentence: str, start: int, end: int) -> frozenset[str]:
    """The statuses of the characters [start, end) of a sentence."""
    return frozenset(scope.status for scope in scopes(sentence) if scope.start <= start and end <= scope.end)


# Cues before what was not done, and predicates after it. "Neither ECG nor echo was abnormal" denies neither test.
NOT_DONE_BEFORE = re.compile(
    r"(?:\bno|\bnil|without|refus\w+(?: of)?|declin\w+|cancel\w+|rejected|never (?:had|received|underwent|took)|to avoid"
    r"|not (?:been )?(?:undergo|undergone|receive|received|given|have|get|take|taken|want|need|require)\b.{0,25}"
    r"|denie[sd]|contraindicat\w+ to|abstain\w+ from|nor|neither|lack of|absence of)\s*$",
    re.IGNORECASE,
)
NOT_DONE_AFTER = re.compile(
    r"[^.;]{0,40}(?:performed|done|carried out|undertaken|given|administered|started|obtained|taken|attempted|used|tried"
    r"|prescribed|refused|declined|cancell?ed|rejected|received|avoided|averted|withheld|omitted|required|needed"
    r"|available|possible)\b|\s?[:(]",
    re.IGNORECASE,
)
PREDICATED = re.compile(
    r"\s?(?:$|[.,;)]|and\b|or\b|nor\b|for\b|of\b|due\b|because\b|by\b|on\b|in\b|at\b|before\b|after\b|until\b|but\b"
    r"|was\b|were\b|to\b|with\b|the\b)",
    re.IGNORECASE,
)
BETWEEN = re.compile(
    r"\b(?:on|at|by|with|in|after|before|during|from|for|to|despite|under|via|through|following|prior|upon|since)\b",
    re.IGNORECASE,
)


def own_statuses(sentence: str, start: int, end: int) -> frozenset[str]:
    """The statuses of what was done or given: in "no mass on CT", the CT is not denied; nothing done is suspected."""
    found = set()
    for scope in scopes(sentence):
        if scope.status == SUSPECTED or not (scope.start <= start and end <= scope.end):
            continue
        if scope.cue == scope.start and BETWEEN.search(sentence, scope.cue, start):
            continue
        if scope.status == ABSENT and not is_not_done(sentence, scope, end):
            continue
        found.add(scope.status)
    return frozenset(found)


def is_not_done(sentence: str, scope: Scope, end: int) -> bool:
    if scope.cue == scope.start:
        direct = NOT_DONE_BEFORE.search(sentence, max(0, scope.cue - 40), scope.cue)
        verb = re.search(r"(?:neither|nor)\s*$", sentence[: scope.cue], re.I) and not re.search(
            r"\b(?:performed|done|given|used|taken)\b", sentence[end:], re.I
        )
        return bool(direct and not verb and PREDICATED.match(sentence, end))
    return bool(NOT_DONE_AFTER.match(sentence, scope.cue))


def is_denied_before(sentence: str, start: int, end: int) -> bool:
    """Return True if a cue before the span denies it: in "planned surgery was not done", "planned" is not denied."""
    return any(
        scope.status == ABSENT and scope.cue == scope.start and scope.start <= start and end <= scope.end
        for scope in scopes(sentence)
    )
