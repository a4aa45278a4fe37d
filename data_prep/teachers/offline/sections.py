"""Assignment of a report's sentences to the sections of a note.

A sentence is placed by all its cues, not by its first one. It goes under a narrow heading (examination, imaging, ...)
only if its cues belong to that heading alone; a sentence with cues of several, or with a treatment, belongs to the
story: history of present illness, then hospital course, then outcome. Sentences that lean on the one before ("This",
"Then", "Two months later") form a unit with it, and stay directly after it.
"""

import re
from dataclasses import dataclass

from data_prep.clinical_text.entities import find_entities
from data_prep.teachers.offline.scope import AGED

PRESENT = "HISTORY OF PRESENT ILLNESS"
PAST = "PAST MEDICAL, FAMILY AND SOCIAL HISTORY"
MEDICATIONS = "MEDICATIONS"
EXAMINATION = "PHYSICAL EXAMINATION"
LABORATORY = "LABORATORY DATA"
IMAGING = "IMAGING"
STUDIES = "OTHER STUDIES"
PATHOLOGY = "PATHOLOGY"
ASSESSMENT = "ASSESSMENT"
COURSE = "HOSPITAL COURSE"
OUTCOME = "OUTCOME AND FOLLOW-UP"
CHIEF_COMPLAINT = "CHIEF COMPLAINT"
# Sections in the order of the note. STUDIES also takes what several kinds of tests showed.
SECTIONS = (
    PRESENT, PAST, MEDICATIONS, EXAMINATION, LABORATORY, IMAGING, STUDIES, PATHOLOGY, ASSESSMENT, COURSE, OUTCOME,
)  # fmt: skip
# Sections written as a paragraph; the others list one finding per line.
PROSE = (PRESENT, PAST, ASSESSMENT, COURSE, OUTCOME)
TESTS = (LABORATORY, IMAGING, STUDIES)


def cues(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")", re.IGNORECASE)


CUES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (PAST, cues(
        r"(?:past|previous|prior|medical|surgical|personal|family|familial|social|obstetric\w*|gyn(?:a)?ecologic\w*|"
        r"psychiatric|occupational|allerg\w+|developmental|birth|travel|vaccination|smoking|toxic) (?:and \w+ )?"
        r"(?:medical |surgical )?(?:history|histories|antecedents?|milestones|illness(?:es)?)\b",
        r"(?:her|his|the patient['’]s) (?:mother|father|parents|siblings?|brothers?|sisters?|wife|husband|son|daughter|"
        r"uncle|aunt|cousin|grand\w+)\b", r"consanguin\w+", r"(?:non-?|ex-?|former |current |heavy |never )?smok(?:er|ed|es|ing)\b",
        r"tobacco\b", r"cigarettes?\b", r"pack-years?\b",
        r"alcohol(?:ism)? (?:use|abuse|consumption|intake|history|drinking)", r"dr(?:a|u)nk (?:no )?alcohol",
        r"(?:illicit|recreational) drugs?", r"drug abuse", r"worked as", r"by profession\b", r"by occupation\b", r"retired\b",
        r"breeder\b", r"farmer\b", r"housewife\b", r"lives? (?:with|alone|in)\b", r"travel(?:l?ed)? (?:to|abroad)\b",
        r"co-?morbid\w*", r"allerg(?:y|ies|ic) to\b", r"no (?:known )?(?:\w+ )?allerg(?:y|ies)\b",
        r"(?:no|a|an?\s\w+|with|known|significant|previous|any|her|his) (?:known |significant |relevant |previous |prior |past |long |"
        r"personal )*history of", r"history (?:included|is|was) (?:un|non|not|significant|notable|remarkable|positive|negative)\w*",
        r"previously healthy", r"otherwise healthy", r"(?:was|were) born (?:at|by|to|after|via|from)",
        r"(?:vaccinated|immuni[sz]ed)\b", r"vaccination\b", r"gravida\b", r"had no (?:known )?(?:medical|previous|past|significant|relevant|other medical)",
    )),
    (MEDICATIONS, cues(
        r"(?:home|current|regular|usual|daily|concomitant|chronic|long-term) (?:\w+ )?medications?",
        r"medications? (?:at home|on admission|at admission|included?|consisted of)", r"on (?:no|any) (?:regular )?medications?",
        r"(?:was|were|is|been) (?:already |currently |regularly |also |not )?(?:taking|on treatment with|on long-term)\b",
        r"(?:took|taking) (?:no|any) (?:regular )?(?:drugs?|medications?)", r"drug history",
    )),
    (PATHOLOGY, cues(
        r"histo(?:log|path|chem)\w*", r"patholog(?:y|ic|ical|ically|ist)\b", r"immunohisto\w+", r"immunostain\w*", r"microscop(?:y|ic|ically)\b",
        r"(?:tumou?r|spindle|neoplastic) cells", r"stain(?:ed|ing)\b", r"macroscop\w+", r"gross examination", r"specimens?\b",
        r"frozen section", r"mitotic|mitoses", r"ki-?67", r"immunoreactiv\w+", r"resection margins?", r"nuclei\b",
        r"cytoplasm\w*", r"biops(?:y|ies)\b[^.]{0,60}\b(?:showed|revealed|confirmed|demonstrated|disclosed)", r"cytolog\w+",
        r"fine[- ]needle aspiration\b[^.]{0,60}\b(?:showed|revealed|confirmed)",
    )),
    (IMAGING, cues(
        r"(?:HR|CE)?CT\b", r"CTs\b", r"(?:f?MRI|MR|MRA|MRV)\b", r"tomograph\w+", r"tomodensitometr\w+", r"magnetic resonance", r"x-?rays?\b", r"x ray",
        r"radiogra\w+", r"radiolog\w+", r"ultraso(?:und|nogra)\w*", r"sonogra\w+", r"echocardiogra\w+", r"PET\b", r"PET[-/]CT",
        r"angiogra\w+", r"arteriogra\w+", r"venogra\w+", r"scintigra\w+", r"mammogra\w+", r"urogra\w+", r"(?:\w+ )?doppler", r"barium", r"(?:CT|bone|brain|MRI|PET|control|follow-up) scans?\b",
        r"imaging\b", r"T[12]-weighted", r"MRCP\b", r"(?:hyper|hypo|iso)(?:intens|dens|echo)\w+", r"contrast enhancement", r"ground[- ]glass",
    )),
    (STUDIES, cues(
        r"electrocardiogra\w+", r"(?:ECG|EKG)\b", r"electroencephalogra\w+", r"EEG\b", r"electromyogra\w+", r"EMG\b",
        r"nerve conduction", r"\w*(?:endo|colono|gastro|broncho|cysto|hystero|laryngo|recto|duodeno|sigmoido)scop(?:y|ies|ic)\b", r"ERCP\b",
        r"(?:pulmonary|lung) function", r"spirometr\w*", r"FEV1\b", r"genetic (?:test|analys|stud)\w*", r"karyotyp\w+", r"sequencing\b",
        r"mutations?\b", r"polysomnogra\w+", r"audiogra\w+", r"audiomet\w+", r"lumbar puncture", r"cerebrospinal fluid", r"CSF\b", r"bone marrow",
        r"cathete?ri[sz]ation\b", r"holter", r"(?:f|ph)undus fluorescein", r"optical coherence",
    )),
    (LABORATORY, cues(
        r"laborator(?:y|ies) (?:test|data|finding|result|investigation|exam|work|stud|analys|value|parameter)\w*", r"lab (?:tests?|results?|work)",
        r"(?:blood|urine|stool|sputum) (?:tests?|counts?|cultures?|analys\w+|chemistry|exam\w*|work|gas\w*|samples?|sugar)", r"h(?:a)?emoglobin", r"h(?:a)?ematocrit",
        r"(?:white|red) (?:blood )?cells?", r"WBC\b", r"leu[ck]ocyt\w+", r"neutrophil\w*", r"lymphocyt\w+", r"platelets?\b", r"(?:creatinine|urea)\b", r"C-reactive", r"CRP\b",
        r"ESR\b", r"sedimentation", r"(?:serum|plasma) \w+", r"serolog\w+", r"urinalysis", r"cultures?\b", r"bilirubin", r"\w*transaminases?", r"aminotransferase",
        r"liver (?:function|enzymes)", r"(?:renal|kidney) functions?", r"electrolytes?\b", r"(?:sodium|potassium|calcium) ?(?:level|was|of|:|=|\d)", r"albumin\b",
        r"antibod(?:y|ies)\b", r"tumou?r markers?", r"coagulation", r"prothrombin", r"biochemi\w+", r"biological (?:assess|exam|test|work)\w*",
        r"h(?:a)?ematological (?:exam|invest|test|find)\w*", r"lactate\b", r"troponin", r"gram stain\w*", r"PCR\b", r"polymerase chain", r"HIV (?:test|serolog)\w*",
        r"TSH\b", r"tests? (?:was|were|for|showed|revealed)", r"(?:mg|g|ng|pg|µg|μg|ug)/(?:d?l|m?l)\b", r"m?IU/", r"[mµμu]?mol/", r"U/L\b", r"mEq/", r"/mm3",
    )),
    (EXAMINATION, cues(
        r"(?:physical|clinical|neurological?|general|systemic|abdominal|local|initial|rectal|pelvic|vaginal|ophthalm\w+|"
        r"dermatolog\w+|cardiovascular|cardiac|respiratory|chest|oral|intra-?oral|extra-?oral|eye|skin|cutaneous|otoscop\w+|lymph node|slit[- ]lamp|fundus|fundoscopic|"
        r"mental status|systemic|digital) exam\w*", r"on (?:admission )?exam\w*", r"examination (?:of the|revealed|showed|was|found|noted)", r"vital signs", r"vitals\b", r"(?:blood|arterial|systolic) pressure",
        r"BP\b", r"(?:heart|pulse|respiratory) rate", r"pulse\b(?! therapy| dose)", r"body temperature", r"temperature (?:was|of|\d)", r"auscultat\w*", r"palpa(?:tion|ble|ted)\b",
        r"tender(?:ness)?\b", r"glasgow", r"GCS\b", r"visual acuity", r"(?:tendon |plantar |pupillary |light )?reflex(?:es)?\b", r"a?febrile\b",
        r"(?:her|his|the) (?:abdomen|lungs|chest|skin|pupils|neck|heart|conjunctivae?|mucous membranes?) (?:was|were|is|had)", r"oxygen saturation", r"SpO2\b", r"SaO2\b",
        r"body mass index", r"BMI\b", r"weigh(?:t|ed)\b(?! loss| gain| of)", r"intraocular pressure", r"(?:heart )?murmurs?\b", r"inspection\b", r"mm ?Hg\b",
        r"range of motion", r"muscle (?:strength|power)", r"sensation (?:was|is)\b", r"h(?:a)?emodynamically", r"(?:was|were) (?:fully )?(?:conscious|alert|oriented|icteric|pale|cyanotic|anicteric)\b",
        r"breath(?:ing)? sounds", r"crackles|rales|wheez\w+", r"organomegaly", r"appeared (?:well|ill|pale)", r"fontanel\w*", r"apgar\b",
    )),
)  # fmt: skip

# The means of a biopsy are no finding of their own.
GUIDED = re.compile(
    r"\b(?:(?:CT|ultraso\w+|US|image|imaging|MRI|tomography|scan|fluoroscop\w+|endoscop\w+|EUS)(?:\)? |-|–)guid(?:ed|ance)|endoscopic|bronchoscopic|"
    r"bone marrow|colonoscopic|laparoscopic)(?: \w+){0,2} (?:biops(?:y|ies)|aspiration)",
    re.IGNORECASE,
)
# Treatment, procedures, decisions and movements of the patient in the present episode.
ACTED = cues(
    r"underwent\b(?! (?:an? |the )?(?:\w+ ){0,3}(?:CT|MRI|computed|magnetic|x-?ray|radiogra\w+|ultraso\w+|echo\w+|imaging|scan|"
    r"\w+scopy|\w+graphy|test\w*|exam\w*|evaluation|work-?up|biopsy))",
    r"(?:was|were|been|being) (?:then |subsequently |initially |successfully |immediately |also |empirically |first |thus |therefore |finally |not |\w+ly )?"
    r"(?:treated|managed|started|given|commenced|operated|intubated|extubated|initiated|administered|prescribed|transfused|excised|resected|removed|"
    r"transferred|introduced|instituted|offered|advised|recommended|planned|scheduled|decided|discontinued|stopped|switched|increased to|reduced to|tapered|"
    r"drained|inserted|placed|repaired|closed|sutured|ligated|dissected|implanted|anesthetized|monitored|weaned|hospitali[sz]ed|admitted to (?:the )?(?:intensive|ICU|ward)|resuscitated|shocked|ventilated|immobili[sz]ed|irrigated|debrided)",
    r"(?:treatment|therapy|chemotherapy|radiotherapy|surgery|antibiotics?|antibiotherapy|steroids?|resection|excision|drainage|procedure|operation|anticoagulation|dialysis|ventilation|intubation) "
    r"(?:was|were|with|using|consisted|by|included|for|at a dose)\b",
    r"we (?:then |therefore |thus |also |first |subsequently |immediately )?(?:decided|started|administered|treated|opted|gave|operated|removed|excised|resected|inserted|placed|proceeded|prescribed|planned|managed|initiated|stopped|used|chose|introduced|recommended|referred)",
    r"receiv(?:ed|ing)\b", r"\w+(?:ectomy|plasty|ostomy) (?:was|were)\b", r"(?<!lumbar )(?<!\w)(?:laparo|thoraco|cranio)tomy\b", r"proceeded\b", r"taken to (?:the )?(?:operating|theat)",
    r"surgical (?:exploration|treatment|removal|resection|intervention|excision|procedure|management|drainage)", r"(?:responded|improve[ds]?|improvement|recovered|recovery|resolved|resolution|deteriorated|worsened|regress(?:ed|ion)|disappeared|relapsed|recurred)\b",
    r"post-?op(?:erative(?:ly)?)?\b", r"intra-?operative(?:ly)?\b", r"per-?operative(?:ly)?\b", r"after (?:the )?(?:surgery|operation|treatment|\d+ (?:days?|weeks?|months?|years?))",
    r"under (?:general|local|spinal) an(?:a)?esthesia", r"incision\b", r"doses? of\b", r"mg/day\b", r"twice daily|once daily|times (?:a|per) day|every \d+ h", r"(?:refused|declined)\b",
    r"(?:died|expired|passed away|death)\b", r"discharged?\b(?! from the)", r"delivered\b", r"delivery was", r"c(?:a)?esarean\b", r"during (?:surgery|the (?:operation|surgery|procedure))", r"at (?:surgery|operation|laparotomy)\b", r"exploration\b",
)  # fmt: skip
# Points in time after the start, which move the story on.
MOVED_ON = cues(
    r"(?:days?|weeks?|months?|years?|hours?|h) (?:later|after|following)\b", r"(?:on|by) (?:the )?(?:\w+ )?(?:hospital |post\w* )?day \d", r"(?:the )?next (?:day|morning|week|month)",
    r"(?:on|by) the (?:\w+) (?:\w+ )?day\b", r"at (?:the )?(?:\w+ )?follow-?up", r"follow[- ]?up\b", r"re-?admi(?:tted|ssion)", r"repeat(?:ed)? ", r"control (?:CT|MRI|scan|ultras\w+|imaging|x-?ray|echo\w+)",
    r"subsequent(?:ly)?\b", r"eventually\b", r"meanwhile\b", r"thereafter\b", r"afterwards?\b", r"second(?:-look)? (?:CT|MRI|operation|surgery|biopsy)",
)
EARLIER = cues(
    r"(?:years?|months?|weeks?|days?) (?:ago|earlier|before|previously|prior)", r"previous(?:ly)?\b", r"had (?:\w+ )?(?:been|undergone|received|had|started|taken)\b", r"history of\b",
    r"in (?:her|his) (?:childhood|youth)", r"in the past\b", r"prior to (?:admission|presentation)", r"at the age of\b", r"since (?:childhood|birth|the age)",
)  # fmt: skip
PRESENTED = cues(
    r"present(?:ed|ing|s)\b(?! (?:as|in the))", r"admitted\b", r"referred\b", r"complain", r"consulted\b", r"visited\b", r"admission\b", r"hospitali[sz]ed\b",
    r"(?:she|he|who|patient|woman|man|boy|girl|child|infant) was (?:first |then )?(?:seen|brought|taken|evaluated|received)", r"attended\b", r"came to\b", r"emergency (?:department|room)",
    r"arriv(?:al|ed)\b",
)  # fmt: skip
SYMPTOMS = cues(
    r"complain(?:ed|ing|s|ts?)\b", r"suffer(?:ed|ing|s)\b", r"(?:he|she|patient|mother|father|parents|who) (?:\w+ )?noticed\b", r"denie[sd]\b", r"reported\b(?! (?:as|to be))", r"symptoms? (?:began|started|included|had|were|of)\b",
    r"onset\b", r"experienc(?:ed|ing)\b", r"described\b", r"told\b", r"stated\b", r"(?:bitten|injured|fell|ingested|swallowed|accident)\b", r"started (?:\w+ )?(?:days|weeks|months|years|hours)",
)  # fmt: skip
DIAGNOSED = cues(
    r"diagnos(?:is|es|ed|e|tic of)\b", r"(?:was|were) (?:\w+ )?(?:suspected|considered)", r"we (?:\w+ )?(?:suspected|diagnosed|considered|concluded)", r"(?:suspicion|impression) of\b",
)  # fmt: skip
LEFT = cues(
    r"(?:was|were|been) (?:\w+ )?discharged", r"discharged (?:home|on|in|from|to|with|after|and|the)", r"left (?:the )?hospital", r"(?:died|expired|passed away)\b",
    r"(?:at|on|during|after|in) (?:the |her |his |a |\w+[- ]\w+ )?(?:last |latest |final |clinical |regular |outpatient )?follow[- ]?ups?\b",
    r"follow(?:ed)?[- ]?up (?:for|at|of|visit|period|after|in|was|showed|examination)", r"(?:is|was|remains?|remained) (?:currently |now |still |well |alive)+", r"released from", r"sent home",
    r"returned home", r"death\b", r"autopsy\b",
)  # fmt: skip
CARRIED_OUT = cues(r"performed\b", r"carried out\b", r"reveal(?:ed|ing)\b", r"show(?:ed|ing)\b", r"done\b")
# Openings of sentences that cannot be understood without the sentence before.
LEANING = re.compile(
    r"^(?:It|They|These|This(?! (?:patient|man|woman|boy|girl|child))|Those|Both|Such|The (?:latter|former|same|other|others|remaining|rest|second|third)|Its|Their|Which|That|There(?:after|by)|Then|Subsequently|"
    r"Afterwards?|Later|Next|However|Nevertheless|Therefore|Thus|Hence|Consequently|Accordingly|Also|Additionally|Moreover|Furthermore|"
    r"In addition|But|And|So|Meanwhile|Similarly|Likewise|Conversely|As a result|For this reason|At (?:this|that) (?:time|point|moment)|After (?:this|that|which)|Based on (?:this|these)|"
    r"Given (?:this|these|the)|Because of (?:this|these)|Due to (?:this|these)|With (?:this|these)|During this|"
    r"(?:(?:About|Approximately|Almost|Some|Within|After|Over|The) )?(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|few|several|next|following|same)"
    r"(?:[- ]\w+)? (?:hours?|days?|weeks?|months?|years?|morning|evening|night)\b)(?! ago| before)",
    re.IGNORECASE,
)
PRONOUN_FIRST = re.compile(r"^(?:He|She|His|Her|Him)\b")
RELATIVE = cues(r"(?:mother|father|parents?|sister|brother|siblings?|wife|husband|daughters?|sons?|uncle|aunt|cousin|grand\w+|physician|doctor|donor)\b")


@dataclass
class Story:
    """The state of the story: the patient has presented, was examined, was treated, has left the hospital."""

    presented: bool = False
    examined: bool = False
    treated: bool = False
    left: bool = False

    def section(self, text: str) -> str:
        """The section of a sentence that belongs to the story."""
        if self.left:
            return OUTCOME
        tells_before = SYMPTOMS.search(text) or EARLIER.search(text) or PRESENTED.search(text) or not self.examined
        return PRESENT if tells_before and not self.treated else COURSE


@dataclass(frozen=True)
class Unit:
    """Sentences that stay together, and their section."""

    section: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def sections_named(text: str) -> set[str]:
    """The sections whose cues a text contains."""
    plain = GUIDED.sub("biopsy", text)
    return {section for section, pattern in CUES if pattern.search(plain)}


def units_of(sentences: list[str]) -> list[Unit]:
    """The units of a report in its order, each with its section."""
    story = Story()
    placed: list[Unit] = []
    for group in grouped(sentences):
        section = place(group, story, placed[-1].section if placed else PRESENT)
        placed.append(Unit(section, tuple(group)))
    return placed


def grouped(sentences: list[str]) -> list[list[str]]:
    """The sentences in groups of one and those that lean on it."""
    groups: list[list[str]] = []
    for sentence in sentences:
        if groups and leans(sentence, groups[-1][-1]):
            groups[-1].append(sentence)
        else:
            groups.append([sentence])
    return groups


def leans(sentence: str, before: str) -> bool:
    if LEANING.match(sentence):
        return True
    # "He" after a sentence about the brother may be the brother.
    return bool(PRONOUN_FIRST.match(sentence) and RELATIVE.search(before))


def place(group: list[str], story: Story, before: str) -> str:
    """The section of one group of sentences after a group in section `before`; `story` is updated."""
    text = " ".join(group)
    narrow = narrow_section(group, story, before)
    advance(text, narrow, story)
    return narrow or story.section(text)


def narrow_section(group: list[str], story: Story, before: str) -> str:
    """The narrow section that a group surely belongs to, or ""."""
    head, text = group[0], " ".join(group)
    found, first = sections_named(text), sections_named(head)
    introduces = bool(AGED.search(head) and (PRESENTED.search(head) or not story.presented))
    if introduces or story.left or story == Story():
        return ""
    acted = bool(ACTED.search(text))
    if PAST in first or MEDICATIONS in first:
        return background(text, first, story)
    if acted or MOVED_ON.search(text) or story.treated:
        return ""
    if found == {PATHOLOGY}:
        return PATHOLOGY
    if found == {EXAMINATION} and not DIAGNOSED.search(text) and not SYMPTOMS.search(text):
        return EXAMINATION
    if found and found <= set(TESTS) and not DIAGNOSED.search(text) and not SYMPTOMS.search(text):
        return next(iter(found)) if len(found) == 1 else STUDIES
    if story.presented and not found and DIAGNOSED.search(text) and not CARRIED_OUT.search(text):
        return ASSESSMENT
    quiet = not found and not EARLIER.search(text) and not SYMPTOMS.search(text) and not PRESENTED.search(text)
    return before if quiet and before in (EXAMINATION, *TESTS, PATHOLOGY, PAST) and describes(head) else ""


def describes(sentence: str) -> bool:
    """Return True if a sentence only states what there was, so that it continues the findings before it."""
    return bool(re.match(r"^(?:There (?:was|were|is|are)|No\b|(?:The|Her|His|An?) [\w -]{3,40}? (?:was|were|had|is|are)\b)", sentence))


def background(text: str, found: set[str], story: Story) -> str:
    """PAST or MEDICATIONS for a statement about the time before this illness, or "" for a mixture."""
    others = found - {PAST, MEDICATIONS}
    if others or PRESENTED.search(text) or (story.treated and (MOVED_ON.search(text) or ACTED.search(text))):
        return ""
    if ACTED.search(text) and not EARLIER.search(text) and not find_drugs(text):
        return ""
    return PAST if PAST in found else MEDICATIONS


def find_drugs(text: str) -> bool:
    return any(entity.kind == "drug" for entity in find_entities(text))


def advance(text: str, narrow: str, story: Story) -> None:
    """Move the story on by a group of sentences."""
    background_only = narrow in (PAST, MEDICATIONS)
    acted = ACTED.search(text) and not background_only
    if story.presented and acted and not (EARLIER.search(text) and not story.treated and not LEFT.search(text)):
        story.treated = True
    if story.treated and LEFT.search(text) and not background_only:
        story.left = True
    story.examined = story.examined or narrow in (EXAMINATION, *TESTS, PATHOLOGY)
    story.presented = story.presented or story.examined or bool(PRESENTED.search(text)) or story == Story()


OPERATED = re.compile(
    r"\b(?:excis\w+|resect\w+|incision|dissect\w+|anastomos\w+|sutur\w+|ligat\w+|laparotomy|thoracotomy|craniotomy|laparoscop\w+|"
    r"\w{4,}(?:ectomy|plasty|ostomy)|an(?:a)?esthesia|arthrodesis|osteosynthesis|osteotomy|debridement|drainage|repair(?:ed)?|fixation|graft\w*|implant\w*)\b",
    re.IGNORECASE,
)
NOT_OPERATING = re.compile(
    r"\b(?:chemotherapy|radiotherapy|adjuvant|discharg\w+|follow[- ]?up|post-?operative\w*|(?:days?|weeks?|months?|years?) (?:later|after)|decided|planned|"
    r"scheduled|proposed|recommended|refused|declined|histolog\w+|patholog\w+|recurr\w+|considered|advised|offered|future|antibiotic\w*)\b",
    re.IGNORECASE,
)


def is_operation(unit: Unit) -> bool:
    """Return True if a unit only tells what was done in an operation."""
    return bool(OPERATED.search(unit.text)) and not NOT_OPERATING.search(unit.text)


def is_pathology(unit: Unit) -> bool:
    """Return True if a unit only tells what removed tissue showed."""
    return sections_named(unit.text) == {PATHOLOGY} and not LEFT.search(unit.text) and not ACTED.search(unit.text)


def is_not_pathology(unit: Unit) -> bool:
    return PATHOLOGY not in sections_named(unit.text)


def is_imaging(unit: Unit) -> bool:
    """Return True if a unit only tells what an image showed."""
    return sections_named(unit.text) == {IMAGING} and not ACTED.search(AFTER_TIME.sub("", unit.text)) and not LEFT.search(unit.text)


AFTER_TIME = re.compile(r"\b(?:post-?operative\w*|after (?:the )?\w+(?: \w+)?|improvement|resolution|regress\w+|disappeared|resolved)\b", re.IGNORECASE)
