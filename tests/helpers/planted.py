"""The least recall of the gate for each class of planted errors, and rewordings that plant none."""

import re
from random import Random

LEAST_RECALL = {
    "dose x10": 0.95,
    "number changed": 0.95,
    "unit swapped": 0.95,
    "side swapped": 0.95,
    "drug swapped": 0.9,
    "date shifted": 0.9,
    "duration shifted": 0.9,
    "age changed": 0.9,
    "negation dropped": 0.85,
    "negation added": 0.85,
    "finding invented": 0.85,
}
LEAST_RECALL_OF_MEANING = {
    "severity": 0.95,
    "trend": 0.95,
    "route": 0.95,
    "result": 0.95,
    "normality": 0.95,
    "started or stopped": 0.95,
    "done or not done": 0.95,
    "order": 0.95,
    "outcome": 0.95,
    "value exchanged": 0.9,
    "dose exchanged": 0.9,
    "blood pressure": 0.9,
    "frequency": 0.9,
    "grade or stage": 0.9,
    "sex": 0.9,
    "subject": 0.85,
    "family": 0.85,
    "hedge left out": 0.85,
    "hedge added": 0.85,
}


# ---------------------------------------------------------------- rewordings that change no fact

UNIT_FORMS = (
    (r"(?<=\d) ?mg\b(?!/)", " milligrams"), (r"(?<=\d) ?mL\b(?!/)", " ml"), (r"(?<=\d) ml\b", " mL"),
    (r"(?<=\d) ?cm\b", "-cm"),
    (r"mg/dl\b", "mg/dL"), (r"g/dl\b", "g/dL"), (r"\bmm Hg\b", "mmHg"), (r"/mm3\b", "/µL"), (r"\bµg\b", "mcg"), (r"℃",
    "°C"),
)  # fmt: skip
WORD_FORMS = (
    (r"\btwice (?:a day|daily)\b", "bid"), (r"\bthree times (?:a day|daily)\b", "tid"), (r"\bonce daily\b", "daily"),
    (r"\b(\d{1,3})[- ]years?[- ]old\b", r"\1 y/o"), (r"\btwo (?=weeks|days|months|years|hours)", "2 "),
    (r"\bthree (?=weeks|days|months|years)", "3 "),
    (r"\b2 (?=weeks\b)", "two "), (r"\b14 days\b", "2 weeks"), (r"\bone year\b", "12 months"), (r"\b48 hours\b",
    "2 days"), (r"\b6 months\b", "six months"),
    (r"\bmagnetic resonance imaging\b", "MRI"), (r"\bcomputed tomography\b", "CT"), (r"\bblood pressure\b", "BP"),
    (r"\bheart rate\b", "HR"),
    (r"\bhemoglobin\b", "Hb"), (r"\bwhite blood cell(?:s| count)?\b", "WBC"), (r"\bcreatinine\b", "Cr"),
    (r"\bshortness of breath\b", "SOB"),
    (r"\bdyspn(?:o)?ea\b", "shortness of breath"), (r"\bhypertension\b", "HTN"), (r"\bdiabetes mellitus\b", "DM"),
    (r"\bchest x-ray\b", "CXR"),
    (r"\bmyocardial infarction\b", "MI"), (r"\belectrocardiogram\b", "ECG"), (r"\bhaem", "hem"), (r"\btumour",
    "tumor"), (r"\boedema", "edema"),
    (r"\banaemia", "anemia"), (r"\bwas administered\b", "was given"), (r"\bunderwent\b", "had"), (r"\brevealed\b",
    "showed"), (r"\bdemonstrated\b", "showed"),
    (r"\bpresented with\b", "came in with"), (r"\bcomplained of\b", "reported"), (r"\bThe patient\b", "Pt"),
    (r"\bwas started on\b", "was put on"),
    (r"\bdenied\b", "denies"), (r"\bThere was no\b", "No"), (r"\bwithout any\b", "without"), (r"\bno evidence of\b",
    "no"), (r"\bhistory of\b", "h/o"),
    (r"\bapproximately\b", "~"), (r"\bintravenous(?:ly)?\b", "IV"), (r"\bultrasonography\b", "ultrasound"),
    (r"\bacetaminophen\b", "paracetamol"),
    (r"\bbilateral\b", "left and right"), (r"\bbody temperature\b", "Temp"), (r"\bfever\b(?! of)", "pyrexia"),
    (r"\bpostoperative day (\d+)", r"POD \1"),
)  # fmt: skip
REWORDINGS = tuple((re.compile(pattern), new) for pattern, new in UNIT_FORMS + WORD_FORMS)

# Written apart from the gate: abbreviations both ways, spellings, numbers, turns of phrase, brands.
SHORT_FORMS = (
    (r"\bcoronary artery disease\b", "CAD"),
    (r"\bchronic obstructive pulmonary disease\b", "COPD"),
    (r"\bcongestive heart failure\b", "CHF"),
    (r"\bpulmonary embolism\b", "PE"),
    (r"\bdeep vein thrombosis\b", "DVT"),
    (r"\batrial fibrillation\b", "AF"),
    (r"\burinary tract infection\b", "UTI"),
    (r"\bC-reactive protein\b(?! \()", "CRP"),
    (r"\berythrocyte sedimentation rate\b(?! \()", "ESR"),
    (r"\bblood urea nitrogen\b(?! \()", "BUN"),
    (r"\blactate dehydrogenase\b(?! \()", "LDH"),
    (r"\balkaline phosphatase\b(?! \()", "ALP"),
    (r"\baspartate aminotransferase\b(?! \()", "AST"),
    (r"\balanine aminotransferase\b(?! \()", "ALT"),
    (r"\bcerebrospinal fluid\b(?! \()", "CSF"),
    (r"\bultrasonography\b", "US"),
    (r"\b[Rr]espiratory rate\b", "RR"),
    (r"\b[Oo]xygen saturation\b", "SpO2"),
    (r"\bbody mass index\b(?! \()", "BMI"),
    (r"\bintensive care unit\b(?! \()", "ICU"),
    (r"\bemergency department\b(?! \()", "ED"),
    (r"\bleft ventricular ejection fraction\b(?! \()", "LVEF"),
    (r"\belectroencephalogram\b", "EEG"),
    (r"\bhuman immunodeficiency virus\b(?! \()", "HIV"),
    (r"(?<!Mycobacterium )(?<!mycobacterium )(?<!M\. )\btuberculosis\b", "TB"),
    (r"\bmyocardial infarction\b", "MI"),
    (r"\bend[- ]stage renal disease\b(?! \()", "ESRD"),
    (r"\bsystemic lupus erythematosus\b(?! \()", "SLE"),
    (r"\brheumatoid arthritis\b(?! \()", "RA"),
    (r"\bsubcutaneously\b", "SC"),
    (r"\bintramuscularly\b", "IM"),
    (r"\bright upper quadrant\b", "RUQ"),
    (r"\bright lower quadrant\b", "RLQ"),
    (r"\bleft lower quadrant\b", "LLQ"),
    (r"\bplatelet count\b", "platelets"),
)
LONG_FORMS = (
    (r"(?<!\()\bCRP\b(?!\))", "C-reactive protein"),
    (r"(?<!\()\bESR\b(?!\))", "sedimentation rate"),
    (r"(?<!\()\bLDH\b(?!\))", "lactate dehydrogenase"),
    (r"(?<!\()\bHIV\b(?!\))(?!-)", "human immunodeficiency virus"),
    (r"(?<!\()\bICU\b(?!\))", "intensive care unit"),
    (r"(?<!\()\bMRI\b(?!\))", "magnetic resonance imaging"),
    (r"(?<!\()\bECG\b(?!\))", "electrocardiogram"),
    (r"(?<!\()\bBMI\b(?!\))", "body mass index"),
    (r"(?<!\()\bTSH\b(?!\))", "thyroid-stimulating hormone"),
    (r"(?<!\()\bCSF\b(?!\))", "cerebrospinal fluid"),
    (r"(?<=\d )bpm\b", "beats per minute"),
    (r"\bHb\b(?!A)", "hemoglobin"),
    (r"\bIV\b(?= (?:fluid|antibiotic|steroid))", "intravenous"),
    (r"(?<=\d mg )BID\b", "twice daily"),
    (r"(?<=\d mg )TID\b", "three times daily"),
)
SPELLINGS = (
    (r"\bedema", "oedema"),
    (r"\bDiarrhea|\bdiarrhea", "diarrhoea"),
    (r"\bhemorrhag", "haemorrhag"),
    (r"\banemi", "anaemi"),
    (r"\besophag", "oesophag"),
    (r"\bischemi", "ischaemi"),
    (r"\bhematuri", "haematuri"),
    (r"\btumor\b", "tumour"),
    (r"\bleukemi", "leukaemi"),
    (r"\bhematoma", "haematoma"),
    (r"\bfetal\b", "foetal"),
    (r"\bpediatric", "paediatric"),
    (r"\bgynecolog", "gynaecolog"),
    (r"\borthopedic", "orthopaedic"),
    (r"\banesthe", "anaesthe"),
    (r"\bhemoptysis", "haemoptysis"),
    (r"\bhypoglycemi", "hypoglycaemi"),
    (r"\bfiber\b", "fibre"),
    (r"\bcenter\b", "centre"),
    (r"\bfurosemide\b", "frusemide"),
    (r"\brifampicin\b", "rifampin"),
    (r"\bsulphasalazine\b", "sulfasalazine"),
    (r"\badrenaline\b", "epinephrine"),
    (r"\bgentamicin\b", "gentamycin"),
    (r"\bcyclosporine?\b", "ciclosporin"),
    (r"\bsalbutamol\b", "albuterol"),
    (r"\bhospitalised\b", "hospitalized"),
    (r"\bgrey\b", "gray"),
    (r"\blabour\b", "labor"),
    (r"\bx-ray\b", "radiograph"),
)
NUMBERS = (
    (r"(?<![\d.,])(\d),?000 ?mg\b", r"\1 g"),
    (r"(?<![\d.,])0\.5 ?g\b(?!/)", "500 mg"),
    (r"(?<![\d.,])1 ?g\b(?!/)", "1000 mg"),
    (r"\bfour (?=days|weeks|months|years)", "4 "),
    (r"\bfive (?=days|weeks|months|years)", "5 "),
    (r"\bsix (?=days|weeks|months|years)", "6 "),
    (r"\bten (?=days|weeks|months|years)", "10 "),
    (r"(?<![\d.,–-])3 (?=(?:days|weeks|months|years)\b)", "three "),
    (r"(?<![\d.,–-])5 (?=(?:days|weeks|months|years)\b)", "five "),
    (r"\b24 months\b", "2 years"),
    (r"\b7 days\b", "one week"),
    (r"\b12 months\b", "1 year"),
    (r"\btwo weeks\b", "14 days"),
    (r"\b72 hours\b", "three days"),
    (r"(?<=\d) ?%", " percent"),
    (r"\bper ?cent\b", "%"),
    (r"\bthe third day\b", "day 3"),
    (r"\bthe second day\b", "day 2"),
    (r"\bthe next day\b", "the following day"),
)
TURNS = (
    (r"\bwas performed\b", "was carried out"),
    (r"\bwere performed\b", "were done"),
    (r"\bwas admitted to\b", "was hospitalized in"),
    (r"\bwas discharged from (?:the )?hospital\b", "left the hospital"),
    (r"\bwas treated with\b", "received"),
    (r"\bwas diagnosed with\b", "received a diagnosis of"),
    (r"\bdue to\b", "because of"),
    (r"\bsecondary to\b", "caused by"),
    (r"\bprior to\b", "before"),
    (r"\bsubsequently\b", "later"),
    (r"\bwas discontinued\b", "was stopped"),
    (r"\bwas initiated\b", "was begun"),
    (r"\bpassed away\b", "died"),
    (r"\bpruritus\b", "itching"),
    (r"\bcephalgia\b|\bcephalalgia\b", "headache"),
    (r"\bemesis\b", "vomiting"),
    (r"\bvomiting\b", "emesis"),
    (r"(?<!portal )(?<!pulmonary )(?<!intracranial )(?<!ocular )(?<!venous )\bhypertension\b", "high blood pressure"),
    (r"\bfatigue\b", "tiredness"),
    (r"\bunremarkable\b", "normal"),
    (r"\bwithin normal limits\b", "normal"),
    (r"\bwithin (?:the )?normal range\b", "normal"),
    (r"(?<!was )(?<!were )\bworsened\b", "got worse"),
    (r"(?<!was )(?<!were )\bimproved\b(?= (?:after|over|with|and|within|during)|[.,])", "got better"),
    (r"\bdecreased to\b", "fell to"),
    (r"\bincreased to\b", "rose to"),
    (r"\bonce a day\b", "daily"),
    (r"\bevery day\b", "daily"),
    (r"\bevery 12 hours\b", "twice a day"),
    (r"\bevery 8 hours\b", "q8h"),
    (r"\borally\b", "by mouth"),
    (r"\bexcision\b", "surgical removal"),
)
ABSENCE = (
    (r"\b[Nn]o evidence of\b", "absence of"),
    (r"\bwas afebrile\b", "had no fever"),
    (r"\bdenied\b(?= [a-z]+[.,])", "had no"),
    (r"\bwithout (?:any )?complications?\b", "uneventfully"),
    (r"\bdid not show\b", "failed to show"),
    (r"\bdid not reveal (?:any|an?)\b", "showed no"),
    (r"\bThere was no\b", "We found no"),
    (r"\bwas negative for\b", "showed no"),
    (r"\bshowed no\b", "did not show any"),
    (r"\bwas ruled out\b", "was excluded"),
    (r"\bwas excluded\b", "was ruled out"),
    (r"\bwas normal\b", "showed no abnormality"),
)
BRANDS = (
    (r"\bacetaminophen\b", "Tylenol"),
    (r"\benoxaparin\b", "Lovenox"),
    (r"\brivaroxaban\b", "Xarelto"),
    (r"\bapixaban\b", "Eliquis"),
    (r"\btrastuzumab\b", "Herceptin"),
    (r"\brituximab\b", "MabThera"),
    (r"\badalimumab\b", "Humira"),
    (r"\binfliximab\b", "Remicade"),
    (r"\bimatinib\b", "Gleevec"),
    (r"\bbevacizumab\b", "Avastin"),
    (r"\blevetiracetam\b", "Keppra"),
    (r"\bsildenafil\b", "Viagra"),
    (r"\bdiazepam\b", "Valium"),
    (r"\bwarfarin\b", "Coumadin"),
    (r"\bceftriaxone\b", "Rocephin"),
    (r"\bmeropenem\b", "Merrem"),
)
OTHER_WORDS = tuple(
    (re.compile(pattern), new)
    for pattern, new in SHORT_FORMS + LONG_FORMS + SPELLINGS + NUMBERS + TURNS + ABSENCE + BRANDS
)


def in_other_words(note: str, random: Random) -> str:
    """The note with a third of these rules, each applied once at most to a place, none of which changes a fact."""
    for pattern, new in random.sample(OTHER_WORDS, len(OTHER_WORDS) // 3):
        note = pattern.sub(new, note)
    return note


def reworded(note: str, random: Random) -> str:
    """The note in a chart's hand: each rule applied or not by chance, none of which changes a fact."""
    for pattern, new in REWORDINGS:
        if random.random() < 0.8:
            note = pattern.sub(new, note)
    return note
