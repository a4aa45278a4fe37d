"""The headings of a note, and the words by which a sentence surely stands under one of them."""

import re

HISTORY = "HISTORY AND WORK-UP"
PAST = "PAST, FAMILY, SOCIAL AND DRUG HISTORY"
EXAMINATION = "PHYSICAL EXAMINATION"
INVESTIGATIONS = "INVESTIGATIONS"
COURSE = "FURTHER WORK-UP AND COURSE"
# The heading of a report that is not divided.
WHOLE = "HISTORY, WORK-UP AND COURSE"
CHIEF_COMPLAINT = "CHIEF COMPLAINT"
# In the order of the note. The sentences under HISTORY, COURSE and WHOLE may be of any kind.
SECTIONS = (HISTORY, PAST, EXAMINATION, INVESTIGATIONS, COURSE, WHOLE)


def cues(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")", re.IGNORECASE)


IMAGING = cues(
    r"(?:HR|CE)?CT\b", r"CTs\b", r"(?:f?MRI|MR|MRA|MRV)\b", r"tomograph\w+", r"tomodensitometr\w+",
    r"magnetic resonance", r"x-?rays?\b", r"x ray", r"radiogra\w+", r"radiolog\w+", r"ultraso(?:und|nogra)\w*",
    r"sonogra\w+", r"echocardiogra\w+", r"PET\b", r"PET[-/]CT", r"angiogra\w+", r"arteriogra\w+", r"venogra\w+",
    r"scintigra\w+", r"mammogra\w+", r"urogra\w+", r"(?:\w+ )?doppler", r"barium",
    r"(?:CT|bone|brain|MRI|PET|control|follow-up) scans?\b", r"imaging\b", r"T[12]-weighted", r"MRCP\b",
    r"(?:hyper|hypo|iso)(?:intens|dens|echo)\w+", r"contrast enhancement", r"ground[- ]glass",
)  # fmt: skip
OTHER_STUDIES = cues(
    r"histo(?:log|path|chem)\w*", r"patholog(?:ic|ical|ically|ist)\b(?! (?:history|fracture|antecedent))",
    r"pathology (?:report|showed|revealed|confirmed|of|was|examination|result)\w*", r"immunohisto\w+",
    r"immunostain\w*", r"(?<!stool )(?<!urine )(?<!sputum )(?<!direct )(?<!slit lamp )microscop(?:y|ic|ically)\b",
    r"(?:tumou?r|spindle|neoplastic) cells", r"stain(?:ed|ing)\b", r"macroscop\w+", r"gross examination",
    r"(?:surgical|resected|excised|operative) specimens?\b", r"frozen section", r"mitotic|mitoses", r"ki-?67",
    r"immunoreactiv\w+", r"resection margins?", r"nuclei\b", r"cytoplasm\w*",
    r"biops(?:y|ies)\b[^.]{0,60}\b(?:showed|revealed|confirmed|demonstrated|disclosed)", r"cytolog\w+",
    r"fine[- ]needle aspiration\b[^.]{0,60}\b(?:showed|revealed|confirmed)", r"electrocardiogra\w+", r"(?:ECG|EKG)\b",
    r"electroencephalogra\w+", r"EEG\b", r"electromyogra\w+", r"EMG\b", r"nerve conduction",
    r"\w*(?:endo|colono|gastro|broncho|cysto|hystero|laryngo|recto|duodeno|sigmoido)scop(?:y|ies|ic)\b", r"ERCP\b",
    r"(?:pulmonary|lung) function", r"spirometr\w*", r"FEV1\b", r"genetic (?:test|analys|stud)\w*", r"karyotyp\w+",
    r"sequencing\b", r"mutations?\b", r"polysomnogra\w+", r"audiogra\w+", r"audiomet\w+", r"lumbar puncture",
    r"cerebrospinal fluid", r"CSF\b", r"bone marrow (?:biops|aspir|exam|smear)\w*", r"cathete?ri[sz]ation\b",
    r"holter", r"(?:f|ph)undus fluorescein", r"optical coherence",
    r"laborator(?:y|ies) (?:test|data|finding|result|investigation|exam|work|stud|analys|value|parameter)\w*",
    r"lab (?:tests?|results?|work)",
    r"(?:blood|urine|stool|sputum) (?:tests?|counts?|cultures?|analys\w+|chemistry|exam\w*|work|gas\w*|samples?|"
    r"sugar)", r"h(?:a)?emoglobin", r"h(?:a)?ematocrit", r"(?:white|red) (?:blood )?cells?", r"WBC\b",
    r"leu[ck]ocyt\w+", r"neutrophil\w*", r"lymphocyt\w+", r"platelets?\b", r"(?:creatinine|urea)\b", r"C-reactive",
    r"CRP\b", r"ESR\b", r"sedimentation", r"(?:serum|plasma) \w+", r"serolog\w+", r"urinalysis", r"cultures?\b",
    r"bilirubin", r"\w*transaminases?", r"aminotransferase", r"liver (?:function|enzymes)",
    r"(?:renal|kidney) functions?", r"electrolytes?\b", r"(?:sodium|potassium|calcium) ?(?:level|was|of|:|=|\d)",
    r"albumin\b", r"antibod(?:y|ies)\b", r"tumou?r markers?", r"coagulation", r"prothrombin", r"biochemi\w+",
    r"biological (?:assess|exam|test|work|check)\w*", r"h(?:a)?ematological (?:exam|invest|test|find)\w*",
    r"lactate\b", r"troponin", r"gram stain\w*", r"PCR\b", r"polymerase chain", r"HIV (?:test|serolog)\w*", r"TSH\b",
    r"(?:mg|g|ng|pg|µg|μg|ug)/(?:d?l|m?l)\b", r"m?IU/", r"[mµμu]?mol/", r"U/L\b", r"mEq/", r"/mm3",
)  # fmt: skip
CUES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (PAST, cues(
        r"(?:past|previous|prior|medical|surgical|personal|family|familial|social|obstetric\w*|"
        r"gyn(?:a)?ecologic\w*|psychiatric|occupational|allerg\w+|developmental|birth|travel|vaccination|smoking|"
        r"toxic) (?:and \w+ )?(?:medical |surgical )?(?:history|histories|antecedents?|milestones|"
        r"illness(?:es)?)\b",
        r"(?:her|his|the patient['’]s) (?:mother|father|parents|siblings?|brothers?|sisters?|wife|husband|son|"
        r"daughter|uncle|aunt|cousin|grand\w+) (?:had|has|was|were|is|died|suffer\w+)\b(?! noted| noticed|"
        r" brought| reported)", r"consanguin\w+",
        r"(?:non-?|ex-?|former |current |heavy |never )?smok(?:er|ed|es|ing)\b", r"tobacco\b", r"cigarettes?\b",
        r"pack-years?\b", r"alcohol(?:ism)? (?:use|abuse|consumption|intake|history|drinking)",
        r"dr(?:a|u)nk (?:no )?alcohol", r"(?:illicit|recreational) drugs?", r"drug abuse", r"worked as",
        r"by profession\b", r"by occupation\b", r"retired\b", r"breeder\b", r"farmer\b", r"housewife\b",
        r"lives? (?:with|alone|in)\b", r"travel(?:l?ed)? (?:to|abroad)\b",
        r"co-?morbidit(?:y|ies) (?:included?|were|was|such)", r"allerg(?:y|ies|ic) to\b",
        r"no (?:known )?(?:\w+ )?allerg(?:y|ies)\b",
        r"history (?:included|is|was) (?:un|non|not|significant|notable|remarkable|positive|negative)\w*",
        r"previously healthy", r"otherwise healthy", r"(?:vaccinated|immuni[sz]ed)\b", r"gravida\b",
        r"had no (?:known )?(?:medical|previous|past|significant|relevant|other medical)",
        r"(?:home|current|regular|usual|daily|concomitant|chronic|long-term) (?:\w+ )?medications?",
        r"medications? (?:at home|on admission|at admission|included?|consisted of)",
        r"on (?:no|any) (?:regular )?medications?",
        r"(?:was|were|is|been) (?:already |currently |regularly |also |not )?(?:taking(?! place| part| care|"
        r" into)|on treatment with|on long-term)\b",
        r"(?:took|taking) (?:no|any) (?:regular )?(?:drugs?|medications?)", r"drug history",
    )),
    (INVESTIGATIONS, IMAGING),
    (INVESTIGATIONS, OTHER_STUDIES),
    (EXAMINATION, cues(
        r"(?:physical|clinical|neurological?|general|systemic|abdominal|local|initial|rectal|pelvic|vaginal|"
        r"ophthalm\w+|dermatolog\w+|cardiovascular|cardiac|respiratory|chest|oral|intra-?oral|extra-?oral|eye|"
        r"skin|cutaneous|otoscop\w+|lymph node|slit[- ]lamp|fundus|fundoscopic|mental status|systemic|"
        r"digital) exam\w*", r"on (?:admission )?exam\w*", r"examination (?:of the|revealed|showed|was|found|noted)",
        r"vital signs", r"vitals\b", r"(?:blood|arterial|systolic) pressure", r"BP\b",
        r"(?:heart|pulse|respiratory) rate", r"pulse\b(?! therapy| dose)", r"body temperature",
        r"temperature (?:was|of|\d)", r"auscultat\w*", r"palpa(?:tion|ble|ted)\b", r"tender(?:ness)?\b", r"glasgow",
        r"GCS\b", r"visual acuity", r"(?:tendon |plantar |pupillary |light )?reflex(?:es)?\b", r"a?febrile\b",
        r"(?:her|his|the) (?:abdomen|lungs|chest|skin|pupils|neck|heart|conjunctivae?|mucous membranes?) (?:was|"
        r"were|is|had)", r"oxygen saturation", r"SpO2\b", r"SaO2\b", r"body mass index", r"BMI\b",
        r"weigh(?:t|ed)\b(?! loss| gain| of)", r"intraocular pressure", r"(?:heart )?murmurs?\b", r"inspection\b",
        r"mm ?Hg\b", r"range of motion", r"muscle (?:strength|power)", r"sensation (?:was|is)\b",
        r"h(?:a)?emodynamically",
        r"(?:was|were) (?:fully )?(?:conscious|alert|oriented|icteric|pale|cyanotic|anicteric)\b",
        r"breath(?:ing)? sounds", r"crackles|rales|wheez\w+", r"organomegaly", r"appeared (?:well|ill|pale)",
        r"fontanel\w*",
    )),
)  # fmt: skip

# The first sentence under PHYSICAL EXAMINATION says that somebody was examined, or gives a vital sign.
EXAMINED = cues(
    r"(?:physical|clinical|neurological|general|systemic|abdominal|rectal|pelvic|cardiovascular|respiratory|"
    r"cutaneous|dermatological|ophthalm\w+|intra-?oral|extra-?oral) examinations?\b", r"on (?:admission )?examination",
    r"vital signs", r"vitals\b", r"blood pressure", r"auscultation", r"palpation", r"heart rate",
)  # fmt: skip
# The first sentence under INVESTIGATIONS says what a study showed.
STUDY_SAYS = cues(
    r"show\w*", r"reveal\w*", r"demonstrat\w+", r"disclos\w+", r"confirmed", r"detected", r"found", r"was", r"were",
    r"had", r"included", r"identified", r"yielded", r"grew",
)  # fmt: skip
# Words that keep a sentence out of every special heading: complaints, doubt, and studies that were not done.
TOLD = cues(
    r"complain\w*", r"symptoms?\b", r"since\b", r"developed\b", r"began\b", r"start\w*", r"notic\w+", r"notable for\b",
    r"worsen\w*", r"persist\w*", r"progress\w*", r"request\w*", r"plan\w*", r"refus\w*", r"we\b", r"our\b",
    r"could not", r"(?:performed|carried out|done)\.$", r"not (?:done|performed|available|carried)", r"due to\b",
    r"because\b", r"followed\b", r"suspect\w*", r"in favou?r\b", r"\w+ostomy\b", r"fed\b", r"regularly\b",
    r"therefore\b", r"considered\b", r"patients\b", r"decompress\w+", r"excis\w+", r"resect\w+", r"drain(?:age|ed)\b",
    r"repair\w*", r"debrid\w+", r"exploration\b", r"incision\b", r"treat\w*", r"therap\w+", r"surg(?:ery|ical)\b",
    r"operat\w+", r"implant\w*", r"removed\b", r"increas(?:ed|ing) (?:to|from)", r"decreas(?:ed|ing) (?:to|from)",
    r"normali[sz]ed", r"now\b", r"day \d", r"prior\b", r"initial\w*", r"first\b", r"later\b", r"after\b", r"before\b",
    r"during\b", r"hospital\b", r"department\b",
)  # fmt: skip
# Treatment, procedures, decisions and movements of the patient in the present episode.
ACTED = cues(
    r"underwent\b(?! (?:an? |the )?(?:\w+ ){0,3}(?:CT|MRI|computed|magnetic|x-?ray|radiogra\w+|ultraso\w+|echo\w+|"
    r"imaging|scan|\w+scopy|\w+graphy|test\w*|exam\w*|evaluation|work-?up|biopsy))",
    r"(?:was|were|wasn't|weren't|been|being) (?:then |subsequently |initially |successfully |immediately |also |"
    r"empirically |first |thus |therefore |finally |not |\w+ly )?(?:treated|managed|started|given|commenced|"
    r"operated|intubated|extubated|initiated|administered|prescribed|transfused|excised|resected|removed|"
    r"transferred|introduced|instituted|offered|advised|recommended|planned|scheduled|decided|discontinued|"
    r"stopped|switched|increased to|reduced to|tapered|drained|inserted|placed|repaired|closed|sutured|ligated|"
    r"dissected|implanted|anesthetized|monitored|weaned|hospitali[sz]ed|admitted to (?:the )?(?:intensive|ICU|"
    r"ward)|resuscitated|shocked|ventilated|immobili[sz]ed|irrigated|debrided)",
    r"(?:treatment|therapy|chemotherapy|radiotherapy|surgery|decompression|fixation|reduction|repair|embolization|"
    r"transplantation|extirpation|debridements?|antibiotics?|antibiotherapy|steroids?|resection|excision|drainage|"
    r"procedure|operation|anticoagulation|dialysis|ventilation|intubation) (?:was|were|with|using|consisted|by|"
    r"included|for|at a dose)\b",
    r"(?:was|were) (?:then )?(?:obtained|taken|sent|ordered|requested|delivered|transplanted|dressed|covered)\b",
    r"we (?:then |therefore |thus |also |first |subsequently |immediately )?(?:decided|started|administered|"
    r"treated|opted|gave|operated|removed|excised|resected|inserted|placed|proceeded|prescribed|planned|managed|"
    r"initiated|stopped|used|chose|introduced|recommended|referred)", r"receiv(?:ed|ing)\b",
    r"\w+(?:ectomy|plasty|ostomy) (?:was|were)\b", r"(?<!lumbar )(?<!\w)(?:lapar[oa]|thoraco|cranio)tomy\b",
    r"\w{3,}ectomy\b", r"phlebotomi[sz]ed\b", r"(?:re)?hydrated\b", r"corrected\b", r"(?:is|was) placed\b",
    r"proceeded\b", r"taken to (?:the )?(?:operating|theat)",
    r"surgical (?:exploration|treatment|removal|resection|intervention|excision|procedure|management|drainage)",
    r"(?:responded|improve[ds]?|(?<!no )improvement|recovered|recovery|resolved|resolution|deteriorated|worsened|"
    r"regress(?:ed|ion)|disappeared|relapsed|recurred)\b", r"post-?op(?:erative(?:ly)?)?\b",
    r"intra-?operative(?:ly)?\b", r"per-?operative(?:ly)?\b",
    r"after (?:the )?(?:surgery|operation|treatment|\d+ (?:days?|weeks?|months?|years?))",
    r"under (?:general|local|spinal) an(?:a)?esthesia", r"incision\b", r"doses? of\b", r"mg/day\b",
    r"twice daily|once daily|times (?:a|per) day|every \d+ h", r"(?:refused|declined)\b",
    r"(?:died|expired|passed away)\b", r"discharged?\b(?! from the)", r"delivered\b", r"delivery was",
    r"c(?:a)?esarean\b", r"during (?:surgery|the (?:operation|surgery|procedure))",
    r"at (?:surgery|operation|laparotomy)\b", r"exploration\b",
)  # fmt: skip
# Points in time after the start, which move the story on.
MOVED_ON = cues(
    r"over the (?:next|following)\b", r"during (?:\w+ ){0,2}\w+(?:ing|tripsy|ectomy|plasty) of\b",
    r"(?:days?|weeks?|months?|years?|hours?|h) (?:later|after|following)\b",
    r"(?:on|by) (?:the )?(?:\w+ )?(?:hospital |post\w* )?day \d", r"(?:the )?next (?:day|morning|week|month)",
    r"(?:on|by) the (?:\w+) (?:\w+ )?day\b", r"at (?:the )?(?:\w+ )?follow-?up", r"follow(?:ed)?[- ]?up\b",
    r"re-?admi(?:tted|ssion)", r"repeat(?:ed)? ", r"control (?:CT|MRI|scan|ultras\w+|imaging|x-?ray|echo\w+)",
    r"subsequent(?:ly)?\b", r"eventually\b", r"meanwhile\b", r"thereafter\b", r"afterwards?\b",
    r"second(?:-look)? (?:CT|MRI|operation|surgery|biopsy)",
)  # fmt: skip
EARLIER = cues(
    r"(?:years?|months?|weeks?|days?) (?:ago|earlier|before|previously|prior)", r"previous(?:ly)?\b",
    r"had (?:\w+ )?(?:been|undergone|received|had|started|taken)\b", r"history of\b",
    r"in (?:her|his) (?:childhood|youth)", r"in the past\b", r"prior to (?:admission|presentation)",
    r"at (?:the )?age of\b", r"since (?:childhood|birth|the age)",
)  # fmt: skip
PRESENTED = cues(
    r"present(?:ed|ing|s)\b(?! (?:as|in the))", r"admitted\b", r"referred\b", r"complain", r"consulted\b",
    r"visited\b", r"admission\b", r"hospitali[sz]ed\b",
    r"(?:she|he|who|patient|woman|man|boy|girl|child|infant) was (?:first |then )?(?:seen|brought|taken|evaluated|"
    r"received)", r"attended\b", r"came to\b", r"emergency (?:department|room)", r"arriv(?:al|ed)\b",
)  # fmt: skip
SYMPTOMS = cues(
    r"complain(?:ed|ing|s|ts?)\b", r"suffer(?:ed|ing|s)\b",
    r"(?:he|she|patient|mother|father|parents|who) (?:\w+ )?noticed\b", r"denie[sd]\b", r"reported\b(?! (?:as|to be))",
    r"symptoms? (?:began|started|included|had|were|of)\b", r"onset\b", r"experienc(?:ed|ing)\b", r"described\b",
    r"told\b", r"stated\b", r"(?:bitten|injured|fell|ingested|swallowed|accident)\b",
    r"started (?:\w+ )?(?:days|weeks|months|years|hours)",
)  # fmt: skip
DIAGNOSED = cues(
    r"diagnos(?:is|es|ed|e|tic of)\b", r"(?:was|were) (?:\w+ )?(?:suspected|considered)",
    r"we (?:\w+ )?(?:suspected|diagnosed|considered|concluded)", r"(?:suspicion|impression) of\b",
)  # fmt: skip
LEFT = cues(
    r"(?:was|were|been) (?:\w+ )?discharged", r"discharged (?:home|on|in|from|to|with|after|and|the)",
    r"left (?:the )?hospital", r"(?:died|expired|passed away)\b",
    r"(?:at|on|during|after|in) (?:the |her |his |a |\w+[- ]\w+ )?(?:last |latest |final |clinical |regular |"
    r"outpatient )?follow[- ]?ups?\b",
    r"follow(?:ed)?[- ]?up (?:for|at|of|visit|period|after|in|was|showed|examination)",
    r"(?:is|was|remains?|remained) (?:currently |now |still |well |alive)+", r"released from", r"sent home",
    r"returned home", r"(?:his|her|patient['’]s) death\b", r"autopsy\b",
)  # fmt: skip
# Words of tests that no table of cues names.
TEST_WORD = re.compile(
    r"biops|roentgen|scan\b|scop(?:y|ies)\b|gra(?:m|ms|phy)\b|MDCT|culture|\btests?\b|investigat|laborator|cytolog|"
    r"analys[ei]s|check-?up|work-?up|assessment|biolog|serum|marker|enzyme|inflammat|function|\blevels?\b",
    re.IGNORECASE,
)
# Openings of sentences that cannot be understood without the sentence before.
LEANING = re.compile(
    r"^(?:It|They|These|This(?! (?:patient|man|woman|boy|girl|child))|Those|Both|Such|The (?:latter|former|same|other|"
    r"others|remaining|rest|second|third)|Its|Their|Which|That|There(?:after|by)|Then|Subsequently|Afterwards?|Later|"
    r"Next|However|Nevertheless|Therefore|Thus|Hence|Consequently|Accordingly|Also|Additionally|Moreover|Furthermore|"
    r"In addition|But|And|So|Meanwhile|Similarly|Likewise|Conversely|As a result|For this reason|At (?:this|"
    r"that) (?:time|point|moment)|After (?:this|that|which)|Based on (?:this|these)|Given (?:this|these|the)|"
    r"Because of (?:this|these)|Due to (?:this|these)|With (?:this|these)|During this|(?:(?:About|Approximately|"
    r"Almost|Some|Within|After|Over|The) )?(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|few|"
    r"several|next|following|same)(?:[- ]\w+)? (?:hours?|days?|weeks?|months?|years?|morning|evening|night)\b)(?! ago|"
    r" before)",
    re.IGNORECASE,
)
RELATIVE = cues(
    r"(?:mother|father|parents?|sister|brother|siblings?|wife|husband|daughters?|sons?|uncle|aunt|cousin|grand\w+|"
    r"physician|doctor|donor)\b"
)
