"""Results and whether they are normal; what was started, stopped, done or not done."""

from data_prep.synthesize.planted.rules import rule, swaps

TEST = (
    r"\b(?:tests?|cultures?|serolog\w+|antibod\w+|antigens?|stain\w*|PCR|results?|markers?|cytology|biops\w+|smears?|"
    r"immunohistochemistry|HIV|HBsAg|cells|screen\w*|receptors?|factor|investigations|findings|sign|VDRL|margins|"
    r"sampling)"
)
ORGANISMS = ("Escherichia coli", "Klebsiella pneumoniae", "Candida glabrata", "Serratia marcescens",
             "Proteus mirabilis", "Acinetobacter baumannii", "Enterococcus faecium",
             "Haemophilus influenzae")  # fmt: skip
RESULT = (
    *swaps(r"(?<!-)(?<!nor )\b{} (?=for (?!the (?:past|last))[\w\"(])", "positive:negative"),
    *swaps(TEST + r"(?: \w+){0,2} (?:was|were|is|are|came back|returned|proved|remained) (?:also |all |both |"
                  r"strongly |found )?{}\b(?! (?:pressure|family|for))", "positive:negative"),
    *swaps(r"\b(?:a|an|with|showed|showing|and) (?:strongly |weakly )?{} (?=(?:\w+ ){0,2}(?:test|culture|serology|"
           r"result|reaction|stain|staining|sign|immunoreactivity|expression)\b)", "positive:negative"),
    rule(r"\b(?P<v>grew|growth of|isolated|due to|infection with|positive for) (?:[A-Z][a-z]{4,}|[A-Z]\.) (?:aureus|"
         r"pneumoniae|coli|epidermidis|aeruginosa|albicans|faecalis|tuberculosis|influenzae|cloacae|mirabilis|"
         r"fumigatus)\b",
         lambda m, random: f"{m['v']} {random.choice(ORGANISMS)}"),
)  # fmt: skip

IS = r"(?:was|were|is|are|appeared|remained|seemed|came back)"
NORMALITY = (
    rule(rf"(?<!otherwise )\b({IS}(?: \w+ly)?(?: found to be| all| also| both| otherwise)?) (?:completely |entirely )?"
         r"(?:normal|unremarkable)\b(?! (?:to|saline|in size))(?!, (?:but|except))",
         r"\1 abnormal"),
    rule(r"\bwithin (?:the )?normal (limits|ranges?|values?)\b", (r"outside normal \1", r"above normal \1")),
    rule(r"\b(showed|revealed|demonstrated|found|had|with) (?:a |an )?normal(?= [a-z]{4,})(?! (?:saline|tissue|"
         r"parenchyma|control))",
         (r"\1 abnormal", r"\1 markedly abnormal")),
    rule(r"\bno (?:significant |other |obvious |relevant )?abnormalit(?:y|ies)\b",
         ("several abnormalities", "clear abnormalities")),
    rule(rf"(?<!not )\b({IS}) (?:\w+ly )?(?:elevated|raised|abnormal)\b(?! (?:above|over|from|to the|off|in the))",
         r"\1 normal"),
    rule(r"\b[Nn]ormal (?=(?:renal|liver|kidney|thyroid|cardiac|hepatic|pulmonary) function\b)", "impaired "),
    rule(r"\bunremarkable(?=[.,;)])", "markedly abnormal"),
)  # fmt: skip

# ---------------------------------------------------------------- what was done

THERAPY = (
    r"\b(?:therapy|treatment|chemotherapy|radiotherapy|antibiotics?|steroids?|corticosteroids?|insulin|heparin|"
    r"dialysis|hemodialysis|medications?|drugs?|infusion|anticoagulation|regimen|prophylaxis|feeding|supplementation|"
    r"physiotherapy|warfarin|aspirin|prednisolone|prednisone|methotrexate|[a-z]{3,}(?:mab|nib|cillin|mycin|azole|vir|"
    r"statin|platin|cycline|oxacin))"
)
STARTED_OR_STOPPED = (
    rule(r"(?P<given>" + THERAPY + r"(?: \([^)]*\)| \w+ ?\w*)? (?:was|were)(?: \w+ly| then| also)?) (?:started|"
                                   r"initiated|commenced|begun|instituted|introduced|resumed)\b",
         (r"\g<given> stopped", r"\g<given> discontinued", r"\g<given> withdrawn")),
    rule(r"\b(was|were)((?: then| subsequently| immediately| also| empirically)?) (?:started|commenced|placed|put|"
         r"initiated) on (?!(?:the |a )?(?:waiting|table|list|bed|ventilat|mechan|day|\d))",
         (r"\1\2 taken off ", r"\1\2 weaned off ")),
    rule(r"\b([Ww]e|[Tt]hey) (?:started|initiated|began|commenced) (?=[a-z]+)", (r"\1 stopped ", r"\1 discontinued ")),
    rule(r"\b(was|were)((?: \w+ly| then| also)?) (?:discontinued|stopped|withdrawn|ceased|suspended|"
         r"withheld)\b(?! (?:by|from|at the))",
         (r"\1\2 continued", r"\1\2 started", r"\1\2 resumed")),
    rule(r"\b(?:discontinuation|cessation|withdrawal) of (?!life|care|blood|the needle|bleeding|growth|"
         r"symptoms)(?=[a-z]{4,})",
         ("continuation of ", "initiation of ")),
    rule(r"\b(initiation|introduction) of (?=(?:\w+ )?(?:therapy|treatment|[a-z]+mab|steroids|corticosteroids|"
         r"antibiotics|chemotherapy)\b)",
         ("withdrawal of ", "discontinuation of ")),
    rule(r"\b(stopped|discontinued) (?=(?:taking|smoking|drinking|the (?:drug|medication|treatment)|his|her) ?)",
         "continued "),
)  # fmt: skip

DONE_OR_NOT = (
    rule(r"\b(was|were)((?: then| also| therefore| subsequently)?) (?:performed|carried out|undertaken|"
         r"done)\b(?! (?:by|without|if))",
         (r"\1\2 not performed", r"\1\2 refused", r"\1\2 cancelled")),
    rule(r"\b(was|were) not (performed|carried out|undertaken|done|given|administered|required|used|"
         r"needed)\b(?! (?:by|until))", r"\1 \2"),
    rule(r"(?<!who )\bunderwent (?=(?:an? |the |emergency |urgent |surgical |total |partial |open )*[a-z])",
         ("declined ", "refused ", "was scheduled for ", "did not undergo ")),
    rule(r"\b(?:refused|declined) (?=(?:any |further |to undergo |the |an? )*(?:[a-z]+ )?(?:surgery|operation|"
         r"treatment|biopsy|chemotherapy|transfusion|procedure|therapy|resection|intervention|admission|hospitali)\w*)",
         "accepted "),
    rule(r"\b(was|were) (?:refused|declined)\b", r"\1 performed"),
    rule(r"\b(surgery|operation|biopsy|resection|procedure|therapy|chemotherapy|radiotherapy|transplantation|"
         r"repair) (was|is) (?:planned|scheduled)\b(?! (?:and|but|to|by|as))", r"\1 \2 completed"),
)  # fmt: skip
