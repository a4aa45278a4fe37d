"""Assignment of a case report's sentences to sections of a discharge summary, by cue words and preceding sentences."""

import re
from dataclasses import dataclass

PRESENT = "HISTORY OF PRESENT ILLNESS"
PAST = "PAST MEDICAL HISTORY"
MEDICATIONS = "MEDICATIONS"
FAMILY_SOCIAL = "FAMILY AND SOCIAL HISTORY"
EXAMINATION = "PHYSICAL EXAMINATION"
LABORATORY = "LABORATORY DATA"
IMAGING = "IMAGING"
STUDIES = "OTHER STUDIES"
PATHOLOGY = "PATHOLOGY"
COURSE = "HOSPITAL COURSE"
ASSESSMENT = "ASSESSMENT"
FOLLOW_UP = "DISCHARGE AND FOLLOW-UP"
CHIEF_COMPLAINT = "CHIEF COMPLAINT"
# Sections in the order of the note.
SECTIONS = (
    PRESENT, PAST, MEDICATIONS, FAMILY_SOCIAL, EXAMINATION, LABORATORY, IMAGING, STUDIES, PATHOLOGY, ASSESSMENT,
    COURSE, FOLLOW_UP,
)  # fmt: skip
# Sections written as a paragraph; the others list one finding per line.
PROSE = (PRESENT, ASSESSMENT, COURSE, FOLLOW_UP)


def cues(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")", re.IGNORECASE)


# Phrases about the literature, the authors or the paper, not about the patient.
LITERATURE = cues(
    r"to (?:the best of )?our knowledge", r"in the (?:medical |published |english[- ]language |current )?literature",
    r"literature review", r"review of (?:the )?literature", r"(?:has|have) (?:rarely |"
    r"previously )?been (?:rarely )?reported",
    r"(?:written |informed )+consent", r"ethic(?:s|al) (?:committee|approval)", r"institutional review board",
    r"we (?:herein |here )?(?:discuss|review|highlight|emphasi[sz]e)\b",
    r"this (?:case|report) (?:report )?(?:highlights|illustrates|emphasi[sz]es|"
    r"underscores|demonstrates|shows the importance)", r"conflicts? of interest", r"permission to publish",
    r"consent(?:ed)? (?:to|for) (?:the )?publi",
)  # fmt: skip
# A sentence that only points to a table or figure.
POINTER = re.compile(
    r"^[^\d;]{0,120}\b(?:shown|summari[sz]ed|listed|presented|given|depicted|illustrated|detailed|"
    r"seen)\s+in\s+(?:the\s+)?"
    r"(?:Fig|Tab|Suppl|Appendix)[^;]{0,30}$",
    re.IGNORECASE,
)
# "We report the case of a 54-year-old man": everything before "a 54-year-old man" is removed.
LEAD_IN = re.compile(
    r"^(?:(?:here(?:in)?|in this (?:report|paper|article)),?\s+)?(?:we|the authors|this (?:case report|case|report|"
    r"paper|article|study))\s+(?:here(?:in)?\s+)?"
    r"(?:hereby\s+)?(?:report|present|describe)s?\s+(?:on\s+)?(?:(?:the|a|an|another|"
    r"our)\s+(?:[a-z]+\s+)?case\s+(?:of|in)\s+)?"
    r"(?=an?\s+\d|an?\s+\w+[ -]year|\d)",
    re.IGNORECASE,
)

AGED = re.compile(
    r"\b(?:\d{1,3}|[a-z]+(?:-[a-z]+)?)[- ](?:years?|yr|y|months?|weeks?|days?)[- ]?(?:old|of age)\b|\baged \d",
    re.IGNORECASE,
)
PRESENTED = cues(
    r"present(?:ed|ing|s)\b(?! (?:as|in the))", r"admitted\b", r"referred\b", r"complain", r"consulted\b",
    r"visited\b", r"admission\b",
    r"(?:she|he|who|patient|woman|man|boy|girl|child|infant) was (?:first |then )?(?:seen|brought|taken|evaluated|"
    r"hospitali[sz]ed)", r"attended\b", r"came to\b", r"on examination", r"physical examination",
    r"clinical examination",
)  # fmt: skip
# Events before this illness, which do not begin the hospital course.
EARLIER = cues(
    r"years? (?:ago|earlier|before|previously|prior)", r"months? (?:ago|earlier|before|previously|prior)",
    r"previously\b",
    r"had (?:been|undergone|received|had|started)\b", r"history of\b", r"in (?:her|his) (?:childhood|youth)",
    r"in the past\b",
)  # fmt: skip
TREATED = cues(
    r"underwent\b",
    r"(?:she|he|patient) had (?:\w+ ){0,3}(?:chemotherapy|surgery|radiotherapy|therapy|treatment)\b",
    r"was (?:then |subsequently |initially |successfully )?(?:treated|managed|started|given|"
    r"commenced|operated|intubated|initiated|"
    r"administered|prescribed|transfused|excised|resected|removed|transferred|performed on)",
    r"(?:treatment|therapy|chemotherapy|surgery|antibiotics?) "
    r"(?:was|were|with)\b", r"were (?:started|administered|given|initiated|prescribed|performed)",
    r"we (?:performed|decided|started|administered|treated)",
    r"received\b", r"(?:\w+ectomy|\w+plasty|\w+otomy) (?:was|were)\b", r"proceeded\b", r"taken to the operating",
    r"surgical (?:exploration|treatment|removal|resection)",
    r"(?:responded|improved|recovered|resolved|deteriorated|worsened)\b", r"post-?operative(?:ly)?\b",
    r"intra-?operative(?:ly)?\b", r"after (?:the )?(?:surgery|operation|treatment)",
)  # fmt: skip
OPERATED = re.compile(
    r"\b(?:drainage|removal|repair|reduction|fixation|excision|resection|debridement|bypass|transplantation|"
    r"embolization|"
    r"\w+ectomy|\w+otomy|\w+plasty|surgery|operation)\b[^.;]* (?:was|were) (?:then )?(?:performed|done|carried|made|"
    r"undertaken)"
    r"|\bunder (?:general|local|spinal) an(?:a)?esthesia|\bcovered with\b",
    re.IGNORECASE,
)
COMPLAINED = cues(
    r"complain(?:ed|ing|s)\b",
    r"suffer(?:ed|ing|s)\b",
    r"present(?:ed|ing|s) (?:to|with|at|on|in|again)\b",
    r"noticed\b",
    r"denied\b",
    r"reported (?!as|to be)",
)
DIAGNOSED = cues(
    r"(?:was|were|been) (?:\w+ )?diagnosed", r"diagnos(?:is|es) (?:of|was|were|is)\b",
    r"we (?:\w+ )?(?:suspected|diagnosed|considered|concluded)", r"consistent with (?:a|the) diagnosis",
    r"(?:was|were) (?:strongly |highly |clinically )?suspected", r"differential diagnos",
    r"based on (?:these|this|the)", r"final diagnosis",
)  # fmt: skip
YEARS_AGO = cues(r"years? (?:ago|earlier|before|previously|prior)")
DISCHARGED = cues(
    r"(?:was|were|been) discharged", r"discharged (?:home|on|in|from|to)",
    r"(?:at|on|during|after) (?:the |her |his |a |\w+[- ]\w+ )?(?:last |latest |final |clinical )?"
    r"follow[- ]?up", r"follow(?:ed|ing)?[- ]up (?:for|at|of|visit|period|after|in)", r"(?:died|expired|passed away)\b",
    r"(?:remains?|remained|is (?:currently|now|still|alive|well|doing|being)|doing well)\b", r"on discharge",
    r"at discharge", r"released from", r"declared coming out",
    r"years? after (?:the )?(?:surgery|operation|treatment|discharge)", r"autopsy\b", r"(?:dead|alive)\b",
)  # fmt: skip

FINDINGS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (FAMILY_SOCIAL, cues(
        r"family (?:medical )?history", r"famil(?:y|ial) (?:medical )?history",
        r"(?:her|his|the patient's) (?:mother|father|parents|siblings?|brothers?|sisters?|wife|husband|grand\w+)\b",
        r"consanguin", r"smok(?:e|er|ing|ed|es)\b", r"non-?smoker", r"tobacco\b", r"cigarette",
        r"alcohol (?:use|abuse|consumption|intake|history)", r"dr(?:a|u)nk (?:no )?alcohol",
        r"social history", r"drug abuse", r"illicit", r"occupation(?:al)?\b", r"worked as", r"retired\b",
        r"only child\b", r"lives? (?:with|alone)", r"travel(?:l?ed)? (?:history|to)",
    )),
    (MEDICATIONS, cues(
        r"(?:home|current|regular|usual|daily|concomitant) medications?",
        r"medications? (?:included?|consisted|were|was|on admission|at (?:home|admission))",
        r"was (?:already |currently |regularly )?taking\b",
        r"(?:was )?on no (?:regular )?medication", r"(?:took|taking) (?:no|any) (?:regular )?(?:drugs?|medications?)",
        r"not (?:taking|on) any (?:regular )?medication", r"drug history",
    )),
    (PAST, cues(
        r"past (?:medical |surgical )?history", r"medical (?:and surgical )?history",
        r"(?:previous|prior|past|surgical|personal) (?:medical )?(?:history|illness)", r"comorbid", r"co-morbid",
        r"allerg(?:y|ies|ic to)\b",
        r"(?:no|a|an?\s\w+) (?:known |significant |relevant |previous |prior )*history of",
        r"history (?:included|was (?:un|non|not|significant|notable|remarkable))", r"vaccinat", r"immuni[sz]ations?\b",
        r"(?:was )?born (?:at|by|to|after|via)", r"previously healthy", r"otherwise healthy",
        r"had no (?:known )?(?:medical|previous|past|significant)", r"developmental (?:history|milestones)",
        r"(?:gravida|para)\b",
    )),
    (PATHOLOGY, cues(
        r"histo(?:log|path)", r"patholog(?:y|ic|ical|ically|ist)\b", r"biops", r"immunohisto", r"immunostain",
        r"microscop(?:y|ic|ically)\b", r"cytolog", r"tumou?r cells", r"stain(?:ed|ing)\b",
        r"gross(?:ly)?(?: examination| specimen|,)", r"specimen", r"frozen section", r"mitotic", r"ki-?67",
        r"immunoreactiv", r"resection margins?", r"nuclei\b", r"cytoplasm", r"fine needle aspiration",
    )),
    (IMAGING, cues(
        r"CT\b", r"MRI\b", r"MR\b", r"computed tomograph", r"computeri[sz]ed tomograph", r"magnetic resonance",
        r"x-?ray", r"x ray", r"radiogra", r"radiolog", r"ultraso(?:und|nogra)", r"sonogra", r"echocardiogra",
        r"PET\b", r"PET[-/]CT", r"angiogra", r"scintigra", r"tomograph", r"mammogra", r"cystogra", r"urogra",
        r"doppler", r"barium", r"scans?\b", r"imaging", r"T[12]-weighted", r"echograph", r"ERCP\b", r"MRCP\b",
    )),
    (STUDIES, cues(
        r"electrocardiogra", r"ECG\b", r"EKG\b", r"electroencephalogra", r"EEG\b", r"electromyogra", r"EMG\b",
        r"nerve conduction", r"endoscop", r"colonoscop", r"gastroscop", r"bronchoscop", r"cystoscop", r"fundoscop",
        r"laryngoscop", r"esophagogastroduodenoscop", r"slit[- ]lamp", r"ophthalmoscop", r"pulmonary function",
        r"spirometr", r"FEV1\b", r"genetic (?:test|analys|stud)", r"karyotyp", r"sequencing", r"mutation",
        r"polysomnogra",
        r"audiogra", r"audiomet", r"lumbar puncture", r"cerebrospinal fluid", r"CSF\b", r"bone marrow",
        r"catheteri[sz]ation", r"holter",
    )),
    (LABORATORY, cues(
        r"laborator(?:y|ies)", r"tests? (?:was|were|showed|revealed)",
        r"blood (?:tests?|counts?|cultures?|analys|chemistry|exam|work|gas|sample|glucose|urea)", r"h(?:a)?emoglobin",
        r"white (?:blood )?cells?", r"WBC\b", r"leu[ck]ocyt", r"platelets?\b", r"creatinine", r"C-reactive", r"CRP\b",
        r"ESR\b", r"sedimentation", r"serum\b", r"serolog", r"urin(?:e|alysis|ary) (?:anal|cultur|exam|test|sediment|"
        r"protein)", r"urinalysis", r"cultures?\b", r"bilirubin", r"transaminase", r"aminotransferase",
        r"liver (?:function|enzymes)",
        r"renal function", r"electrolytes?", r"sodium (?:level|was|of|\d)", r"potassium", r"albumin\b",
        r"antibod(?:y|ies)\b", r"tumou?r markers?", r"coagulation", r"prothrombin", r"biochemi",
        r"biological (?:assess|exam|test|work)", r"h(?:a)?ematological (?:exam|invest|test|find)",
        r"lactate", r"troponin", r"gram stain", r"PCR\b", r"polymerase chain", r"HIV\b", r"thyroid function",
        r"TSH\b", r"(?:mg|g|ng|pg|µg|μg)/(?:dl|l|ml)\b", r"IU/", r"mmol/", r"U/L\b", r"mEq/",
    )),
    (EXAMINATION, cues(
        r"(?:physical|clinical|neurological?|general|systemic|abdominal|local|initial|rectal|pelvic|ophthalm\w+|"
        r"dermatolog\w+|cardiovascular|cardiac|respiratory|chest|oral|intra-?oral|extra-?oral|eye|skin) exam",
        r"on (?:admission )?exam",
        r"examination\b", r"vital signs", r"blood pressure", r"heart rate", r"pulse(?: rate)?\b", r"body temperature",
        r"temperature (?:was|of|\d)", r"respiratory rate", r"auscultat", r"palpa(?:tion|ble|ted)", r"tender(?:ness)?\b",
        r"glasgow", r"GCS\b", r"visual acuity", r"reflex(?:es)?\b", r"afebrile", r"febrile",
        r"(?:her|his|the) (?:abdomen|lungs|chest|skin|pupils|neck|heart) (?:was|were)", r"oxygen saturation",
        r"body mass index", r"BMI\b", r"weigh(?:t|ed)\b(?! loss| gain)",
        r"intraocular pressure", r"murmur", r"lymphadenopathy", r"inspection", r"mmHg", r"mm Hg", r"range of motion",
        r"muscle (?:strength|power)", r"sensation\b", r"h(?:a)?emodynamically", r"conscious\b", r"alert\b",
        r"breath sounds",
    )),
)  # fmt: skip

# "Based on these findings" belongs to the findings, unless the sentence names a diagnosis, which concludes them.
POINTS_BACK = re.compile(r"\b(?:this|these|those) (?:findings?|results?|observations?)\b", re.IGNORECASE)
# Openings of sentences that cannot be understood without the sentence before.
LEANING = re.compile(r"^(?:It|They|These|This|Those|Both|Such|The (?:latter|former|same|other)|Its|Their|Which)\b")
# References to a new point in time, which end a description.
LATER = cues(r"later\b", r"after\b", r"then\b", r"\w*day\b", r"weeks?\b", r"months?\b", r"she\b", r"he\b", r"patient\b")
BACKGROUND = (FAMILY_SOCIAL, MEDICATIONS, PAST)
EXAMINED = re.compile(
    r"^(?:On |Upon |The |Her |His |Initial )*(?:physical|clinical|neurologic(?:al)?|general|admission) exam",
    re.IGNORECASE,
)
NOTICED = (EXAMINATION, LABORATORY, IMAGING, STUDIES, PATHOLOGY)


@dataclass
class Progress:
    """The progress of the report: the patient has presented, has been treated, has left the hospital."""

    presented: bool = False
    treated: bool = False
    left: bool = False
    section: str = PRESENT


def is_about_patient(sentence: str) -> bool:
    return not (LITERATURE.search(sentence) and not AGED.search(sentence)) and not POINTER.match(sentence)


def assign_sections(sentences: list[str]) -> list[str]:
    """The section of each sentence of one report, in order."""
    progress = Progress()
    return [place(sentence, index, progress) for index, sentence in enumerate(sentences)]


def place(sentence: str, index: int, progress: Progress) -> str:
    """The section of one sentence; `progress` is updated."""
    if index == 0:
        section = PRESENT
    elif LEANING.match(sentence) or (POINTS_BACK.search(sentence[:60]) and not DIAGNOSED.search(sentence[40:])):
        section = progress.section
    else:
        section = place_by_cues(sentence, progress)
    progress.presented = progress.presented or bool(PRESENTED.search(sentence)) or section in NOTICED
    progress.treated = progress.treated or section in (COURSE, FOLLOW_UP)
    progress.left = progress.left or section == FOLLOW_UP
    progress.section = section
    return section


def place_by_cues(sentence: str, progress: Progress) -> str:
    finding = next((section for section, pattern in FINDINGS if pattern.search(sentence)), None)
    if EXAMINED.match(sentence):
        finding = EXAMINATION
    introduces = bool(AGED.search(sentence) and PRESENTED.search(sentence))
    if progress.presented and not EARLIER.search(sentence):
        if progress.treated and DISCHARGED.search(sentence):
            return FOLLOW_UP
        if finding != PATHOLOGY and (TREATED.search(sentence) or OPERATED.search(sentence)):
            return FOLLOW_UP if progress.left else COURSE
    if progress.treated:
        return place_late(sentence, finding, progress)
    if finding in BACKGROUND and not introduces:
        return str(finding)
    if progress.presented and DIAGNOSED.search(sentence) and finding in (None, PATHOLOGY, EXAMINATION):
        return ASSESSMENT
    if finding in NOTICED and not introduces and not (finding == EXAMINATION and COMPLAINED.search(sentence)):
        return str(finding)
    if progress.presented and YEARS_AGO.search(sentence) and not COMPLAINED.search(sentence):
        return PAST
    if progress.section in NOTICED and not PRESENTED.search(sentence) and not COMPLAINED.search(sentence):
        return progress.section
    return PRESENT


def place_late(sentence: str, finding: str | None, progress: Progress) -> str:
    """The section of a sentence after treatment began.

    A scan or blood test then belongs to the course, because under its own heading it would read as a finding on
    admission. Histology keeps its heading, because it describes removed tissue.
    """
    if progress.left:
        return FOLLOW_UP
    continues = (
        finding is None and progress.section == PATHOLOGY and not (LATER.search(sentence) or DIAGNOSED.search(sentence))
    )
    if finding == PATHOLOGY or continues:
        return PATHOLOGY
    return COURSE
