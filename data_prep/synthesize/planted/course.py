"""Severity, trend, route, order of events and outcome."""

from data_prep.synthesize.planted.rules import rule, swaps

FINDING = r"(?= (?!acute respiratory|combined|cognitive|and |or |to |in |of |the |with |enough)[a-z-]{4,})"
SEVERITY = (
    *swaps(r"(?<!to )(?<!from )\b{}" + FINDING,
           "mild:severe, slight:severe, moderate:severe, slight:massive, moderate:slight, mild:marked, mild:profound"),
    *swaps(r"\b{}(?= (?:elevated|raised|increased|reduced|decreased|enlarged|dilated|impaired|thickened|tender|"
           r"positive|low|high|abnormal|distended|swollen|painful|dehydrated|anemic|pale)\b)",
           "mildly:markedly, slightly:severely, moderately:slightly, minimally:massively"),
)  # fmt: skip

COURSE = (
    r"\b(?:symptoms?|condition|pain|levels?|counts?|function|vision|acuity|pressure|fever|weakness|swelling|lesions?|"
    r"dyspnea|status|titers?|creatinine|hemoglobin|platelets|size|saturation|rash|edema|patient|she|he|and|but|CRP|"
    r"headache)"
)
SLOWLY = r"\b(?:gradually|progressively|rapidly|steadily|slowly|markedly|dramatically|significantly|considerably)"
THEN = r"(?= ?(?:[.,;]|\b(?:and|after|over|with|during|within|on|in|until|despite|following)\b))"
TREND = (
    *swaps(r"(?<!to be )(?<!was )(?<!were )\b{}(?= (?:further |gradually |slowly |rapidly )?(?:to|from|by|up to|"
           r"down to) (?!the \w+ of|be|an? )[^.;]{0,12}\d)",
           "increased:decreased, rose:fell, climbed:dropped, risen:fallen"),
    *swaps(COURSE + r" (?:(?:had|have|has|was|were|then|also) )?(?:\w+ly )?{}" + THEN + r"(?! with a history)",
           "improved:worsened, increased:decreased, rose:fell, improved:deteriorated"),
    *swaps(SLOWLY + r" {}\b(?! (?:risk|the risk|cone|diameter|and) )",
           "improved:worsened, increased:decreased, rose:fell, enlarged:shrank"),
    *swaps(r"\b(?:began|started|continued|seemed|failed) to {}\b",
           "improve:worsen, increase:decrease, rise:fall, grow:shrink, improve:deteriorate"),
    *swaps(r"\b(?:was|with|and|showed|revealed|demonstrated|noted|by|of) (?:an?|the|gradual|progressive|significant|"
           r"marked) (?:\w+ )?{}(?= (?:in|of) (?:the |his |her )?[a-z]{4,})",
           "increase:decrease, improvement:deterioration, rise:fall"),
    *swaps(r"\b(?:progressive|progressively|steadily|gradually|rapidly) {}(?= [a-z]{4,})",
           "worsening:improving, increasing:decreasing"),
)  # fmt: skip

NOT_A_DRUG = (
    r"(?! (?:drug|contrast|access|line|cannul|catheter|pyelogra|urogra|leiomyo|injection of contrast|cavit|mucos|"
    r"intake|feed|ulcer|lesion|hygiene|surg|diet|thrush|candid|exam|commissure|contraceptive|glucose|temperature|"
    r"cancer|squam|herp|and |or |food|administ|rout|toleran|dystonia|floor|phase|medication use|anti-?diab|anticoag|"
    r"hypoglyc|digital|find|solution|side|aspect|lesion|mucosa|signs))"
)
ROUTE = (
    rule(r"\bintravenous(?:ly)?\b" + NOT_A_DRUG + r"(?= [a-z])",
         lambda m, random: random.choice(("oral", "subcutaneous")) + ("ly" if m[0].endswith("ly") else "")),
    rule(r"\b(?:per )?orally\b", ("intravenously", "intramuscularly")),
    rule(r"(?<=[a-z0-9] )oral\b" + NOT_A_DRUG + r"(?= [a-z])", ("intravenous", "topical", "intramuscular")),
    rule(r"(?<=\d mg )(?:IV|i\.v\.)(?![a-z])", ("PO", "by mouth")),
    rule(r"\bIV(?= (?:antibiotics?|fluids?|steroids?|vancomycin|ceftriaxone|methylprednisolone|heparin)\b)", "oral"),
    rule(r"\bby mouth\b", "by injection"),
    rule(r"\b(?:subcutaneous|intramuscular|intrathecal|inhaled|topical|intravitreal|intra-?arterial)(?= (?!fat|tissue|"
         r"emphysema|nod|edema|oedema|mass|layer|tumou?r|lesion|h[ae]+m|swell|plane|tunnel|pocket|lymph|abscess|ven|"
         r"septum|node|needle|space|metast|vascul|part|defibr|lead|drain|suture|air|location|chemo|catheter|port|"
         r"foreign|contrast|cavity|side|and |or )[a-z]{4,})", "oral"),
    rule(r"\b(?:subcutaneously|intramuscularly|intrathecally|rectally)\b", "orally"),
    rule(r"\btopically\b", "intravenously"),
)  # fmt: skip

EVENT = (
    r"(?=(?:the |her |his |an? |initial |starting |this )*(?:surgery|operation|admission|hospitali[sz]ation|treatment|"
    r"chemotherapy|radiotherapy|delivery|birth|transplantation|discharge|presentation|injection|ingestion|procedure|"
    r"biopsy|onset|diagnosis|initiation|resection|trauma|accident|injury|vaccination|exposure|therapy|administration|"
    r"removal)\b)"
)
NUMBER = r"\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|several|few)"
COUNT = NUMBER + r" (?:hours?|days?|weeks?|months?|years?) "
ORDER = (
    *swaps(COUNT + r"{}(?! (?:life|all)\b)(?= [a-z])", "after:before, after:prior to"),
    *swaps(COUNT + "{}(?=[,. ])(?! in life)", "later:earlier"),
    *swaps(r"(?<!until )(?<!only )(?<!even )(?<!soon )\b{} " + EVENT, "after:before"),
    rule(r"\bprior to " + EVENT, "after "),
    rule(r"\bfollowing (?=(?:the |her |his )?(?:surgery|operation|admission|treatment|chemotherapy|delivery|"
         r"transplantation|discharge)\b)", "before "),
    *swaps(r"\b{} by (?!our|the|a physician|us|him|her|an? [a-z]+ist\b|phone)(?=[a-z]{4,})", "followed:preceded"),
    *swaps(r"(?<![a-z-])\b{}\b(?=[ ,])", "postoperatively:preoperatively"),
)  # fmt: skip

PERSON = r"\b(?:[Hh]e|[Ss]he|[Pp]atient|infant|baby|[Cc]hild|[Bb]oy|[Gg]irl|man|woman|neonate|newborn|mother)"
OUTCOME = (
    rule(rf"({PERSON}(?: \w+ly| then| was)?) (?:died|passed away|expired|deceased)\b(?: (?:of|from|due to|"
         rf"because of) [^.,;]+)?",
         (r"\1 recovered completely", r"\1 was discharged in good condition")),
    rule(rf"({PERSON}) was (?:\w+ly )?discharged(?: home| from (?:the |our )?hospital)?\b",
         (r"\1 died", r"\1 died in hospital")),
    rule(rf"({PERSON}(?: has)?) (?:made an? (?:\w+ )?(?:full|complete|good|uneventful) recovery|"
         rf"recovered (?:completely|fully|well|uneventfully)|recovered)\b",
         (r"\1 died", r"\1 did not recover")),
    rule(r"\b(recovery|course|period|outcome|stay|evolution|follow-up) (was|has been) (?:completely |"
         r"entirely )?(?:uneventful|favou?rable|good|satisfactory|unremarkable|excellent|successful)\b",
         (r"\1 \2 complicated", r"\1 \2 unfavorable", r"\1 \2 stormy")),
    rule(r"\b[Aa]n? uneventful (?=(?:\w+ )?(?:recovery|course|period|outcome))", "a complicated "),
    rule(r"\b(?:resolved|disappeared|subsided|regressed)\b(?= ?(?:[.,;]|completely|after|within|spontaneously|over|"
         r"with|and|in ))(?! with lacto)",
         ("persisted", "recurred")),
    rule(r"\bwithout (?:any )?(?:signs? of |evidence of )?(local |tumou?r |disease |clinical )?(recurrence|relapse)\b",
         r"with \1\2"),
    rule(r"\b[Nn]o (?:signs? of |evidence of )?(local |tumou?r |disease |clinical )?(recurrence|relapse)\b", r"a \1\2"),
    rule(r"\b(?:is|was) (?:still )?alive(?= ?(?:[.,;]|and|at|after|for|with|during|\d))", "died"),
    rule(r"\b(?P<be>is|was|remains|remained) (?:still )?(?:asymptomatic|symptom-free|free of symptoms)\b",
         r"\g<be> symptomatic"),
    rule(r"\b(?P<be>is|was|remains|remained) (?:still )?(?:disease-free|free of disease|in (?:complete )?remission)\b",
         r"\g<be> in relapse"),
    rule(r"\b(?P<be>was|were) successfully (?=[a-z]+ed\b)", r"\g<be> unsuccessfully "),
    rule(r"\bsurvived\b(?! by)", "died"),
    rule(r"\bfailed to respond(?= )", "responded well"),
)  # fmt: skip
