"""Whose it is, and how sure it is: sex, subject, family, hedges."""

from data_prep.synthesize.planted.rules import rule, swaps

AGED = r"\b(?:years?|months?|weeks?|days?|yrs?)(?:'s?|’s?)?[ -]?(?:old|of age)?,? (?:[A-Za-z-]+ ){0,3}?"
SEX = (
    *swaps(AGED + r"{}\b", "man:woman, boy:girl, male:female, gentleman:lady"),
    *swaps(r"\b(?:an?|the) (?:live |healthy |term |preterm |full-term |premature |single |stillborn |normal |"
           r"viable )*{} (?=infant|newborn|baby|neonate|fetus|foetus|child)", "male:female"),
    *swaps(r"\b(?:an?|the|this|our|young|adult|old|elderly) {}(?= (?:patient )?(?:with|who|presented|was|in|aged|had|"
           r"at|admitted))", "male:female, man:woman, boy:girl"),
    *swaps(r"\b{} patients?(?= )", "male:female"),
)  # fmt: skip
CARED_FOR = (
    r"(?= (?:was|is|had|has|underwent|died|developed|received|remained|presented|showed|did|needed|required|recovered|"
    r"weighed|also|were|responded|nephrectomy|kidney|liver|who|at)\b)"
)
SUBJECT = (
    *swaps(r"\bthe {}" + CARED_FOR,
           "mother:newborn, mother:fetus, mother:infant, donor:recipient, mother:baby, mother:neonate"),
    *swaps(r"\bthe {}'s(?= [a-z])", "mother:newborn, mother:fetus, mother:infant, donor:recipient, mother:baby"),
    rule(r"\b(?P<the>[Tt]he|[Oo]ur) patient (?=(?:was|had|is|has) (?:been )?(?:diagnosed|treated|admitted|started|"
         r"given|found|a history|suffer\w+|allergic|hospitali[sz]ed|intubated|febrile|pale|operated)\b)",
         (r"\g<the> patient's mother ", r"\g<the> patient's son ", r"\g<the> patient's brother ")),
    *swaps(r"\b{} (?=(?:blood|age|history|serum|side|death|infection|weight|diabetes|heart rate|anemia|hypertension|"
           r"plasma|fever|cytogenetic|karyotype|condition|outcome|distress|tachycardia)\b)",
           "maternal:fetal, maternal:neonatal, maternal:paternal"),
)  # fmt: skip
HAS = r"(?= (?:had|was|were|died|suffer\w*|has|have|is|underwent|developed|presented|with|too)\b)"
RELATIVES = (
    "mother:father, brother:sister, son:daughter, aunt:uncle, grandmother:grandfather, sisters:brothers, "
    "brother:mother, sister:mother, parents:siblings, cousin:sister"
)
FAMILY = (
    rule(r"\b(?:Her|His|The patient's|Patient's|One of (?:her|his)) (?:\w+ ){0,2}?(?:mother|father|brother|sister|"
         r"uncle|aunt|grandmother|grandfather|cousin|son|daughter)" + HAS, "The patient"),
    rule(r"\b(?P<stated>(?:a|positive|significant|strong|his|her|and|with|had) )family history (?=(?:of|for) (?!no))",
         (r"\g<stated>personal history ", r"\g<stated>past history ")),
    rule(r"(?<!family )\b(?P<stated>a |had |with |known )(?:past |known |previous |medical |long |remote |"
         r"personal )*history of (?=(?!fever|present|one|two|three|several|abdominal|pain|cough|head|progress|"
         r"recurrent|left|right|chronic|low|trauma|surg|thorac|transfus|multiple|smok|travel|drug|use|intake|vagran|"
         r"fall|blunt|vomit|weight|weak|dysp|short|uncompl|inject|contracep|heavy|cocaine|passage|viral|"
         r"intermittent cough)[a-z]{5,})(?![^.;,]{0,60}\b(?:since|last|for \w+ (?:days?|weeks?|months?)))",
         r"\g<stated>family history of "),
    *swaps(r"\b(?:her|his|whose|the patient's|a|one) (?:\w+ )?{}(?= (?:had|was|were|died|suffer\w*|has|have|is|"
           r"underwent|developed|with|and|also|who)\b)", RELATIVES),
)  # fmt: skip

WHAT = r"(?P<what>(?:[a-z-]+ ){0,3}[a-z-]{5,})"
HEDGE_LEFT_OUT = (
    rule(WHAT + r" (?P<be>was|were) (?:\w+ly )?(?:suspected|presumed|hypothesi[sz]ed)\b(?! (?:to|that|by|of|as|based))",
         r"\g<what> \g<be> confirmed"),
    rule(r"\b(?P<stated>a|an|with|of|the|for|and|was|initial|had|as) (?:suspected|possible|probable|presumed|"
         r"presumptive|likely|putative) (?!(?:and|to|that|by|of|due|in|on|or)\b|loop|cause|etiolog|mechanism|"
         r"associat)" + WHAT,
         r"\g<stated> proven \g<what>"),
    rule(r"(?P<stated>\b)(?:suggestive of|suspicious (?:of|for)|suggesting) (?:an? |the )?(?!absence|that|probabl|"
         r"possibl)" + WHAT, r"proving \g<what>"),
    rule(r"\b(?P<be>is|was|were|are) (?:most likely|most probably|probably|presumably|possibly|likely|thought to be|"
         r"believed to be|considered to be|suspected to be) (?=[a-z])(?!consistent|compatible|suggest)",
         r"\g<be> definitely "),
    rule(r"\b(?:may|might) have been(?= [a-z])", "was certainly"),
    rule(r"\b(?:may|might) be(?= [a-z])(?! (?:used|useful|considered|performed|required|needed|helpful|difficult|"
         r"necessary|an option|more|less|safe|effective|given))", "is certainly"),
    rule(r"\b(?:may|might|could) have (?=(?:caused|contributed|led|triggered|played|resulted|occurred|developed|"
         r"induced|originated|precipitated)\b)", "has definitely "),
    rule(r"\b(?:could|can) not be (?:entirely |completely |definitely )?(?:excluded|ruled out)", "was excluded"),
    rule(r"\b(?P<be>was|were) (?:suspected|thought|believed) (?P<to>to (?:have|be)|of having)\b",
         r"\g<be> proven \g<to>"),
    rule(r"\b[Ww]e (?:suspected|suspect|presumed|hypothesi[sz]ed|speculate|speculated|hypothesi[sz]e)\b",
         ("We proved", "We confirmed")),
    rule(r"\b(?:probably|presumably|possibly|most likely) (?=(?:due|caused|secondary|related|because|as a result|"
         r"a result)\b)", "certainly "),
    rule(r"\b(?:with|on|under) (?:a |the )?(?:clinical )?suspicion of " + WHAT, r"with proven \g<what>"),
)  # fmt: skip
HEDGE_ADDED = (
    rule(r"\b(?P<be>was|were|been) (?:\w+ly )?diagnosed (?:with|as having|as)\b",
         (r"\g<be> suspected of having", r"\g<be> thought possibly to have")),
    rule(r"\b(?P<a>diagnosis of [^.;,]{5,60}?) (?P<be>was|were) (?:made|confirmed|established|retained|reached)\b",
         (r"\g<a> \g<be> suspected", r"\g<a> \g<be> considered possible")),
    rule(r"\b(?<!was )(?<!were )(?:confirmed|established)(?= (?:the |an? |this |that )[a-z]{4,})",
         ("suggested", "raised the suspicion of")),
    rule(r"\b(?:confirmed|proven|established) by(?= [a-z])", "suspected from"),
    rule(r"\b(?:revealed|showed|demonstrated|disclosed|detected) (?=(?:an? )(?!normal|no\b|possible|suspicious|"
         r"probable|suspected|high suspicion|decrease|increase|reduction|good|negative|forced|man|woman|boy|girl|"
         r"middle|well|conscious|patient|value|pulse|heart rate|temperature|blood|uneventful|clear|significant|"
         r"(?:\w+ ){0,3}(?:count|level|h[ae]+m\w+|man|woman|boy|girl|patient)\b)[a-z]{4,})",
         ("possibly showed ", "raised the suspicion of ")),
    rule(r"(?<=[a-z] )(?:was|were) diagnosed(?=[.,;]| in| at| by| on| after)", ("was suspected",)),
)  # fmt: skip
