"""Synonyms: abbreviations that charts use without spelling them out, and words with the same meaning.

A row of ABBREVIATIONS is a short form with its long forms. A row of SYNONYMS is a group of interchangeable names.
Names with two meanings in one specialty are left out.
"""

from functools import lru_cache

from data_prep.clinical_text.vocabulary.lexicon import BRANDS, PLAIN_WORDS
from data_prep.clinical_text.words import stems

ABBREVIATIONS = {
    # problems
    "AF": ("atrial fibrillation",), "AFib": ("atrial fibrillation",), "AKI": ("acute kidney injury",
    "acute renal failure"),
    "ALL": ("acute lymphoblastic leukemia", "acute lymphocytic leukemia"), "AML": ("acute myeloid leukemia",),
    "ARDS": ("acute respiratory distress syndrome",), "BPH": ("benign prostatic hyperplasia",),
    "CAD": ("coronary artery disease",), "CHF": ("congestive heart failure", "heart failure"),
    "CKD": ("chronic kidney disease", "chronic renal failure"), "CLL": ("chronic lymphocytic leukemia",),
    "CML": ("chronic myeloid leukemia", "chronic myelogenous leukemia"),
    "COPD": ("chronic obstructive pulmonary disease",), "CVA": ("cerebrovascular accident", "stroke"),
    "DIC": ("disseminated intravascular coagulation",), "DKA": ("diabetic ketoacidosis",),
    "DLBCL": ("diffuse large b cell lymphoma",), "DM": ("diabetes mellitus", "diabetes"),
    "DVT": ("deep vein thrombosis", "deep venous thrombosis"), "ESRD": ("end stage renal disease",),
    "GERD": ("gastroesophageal reflux disease", "reflux"), "GIST": ("gastrointestinal stromal tumor",),
    "HA": ("headache",), "HBV": ("hepatitis b virus", "hepatitis b"), "HCC": ("hepatocellular carcinoma",),
    "HCV": ("hepatitis c virus", "hepatitis c"), "HF": ("heart failure",), "HIV": ("human immunodeficiency virus",),
    "HLD": ("hyperlipidemia", "dyslipidemia"), "HTN": ("hypertension",), "IBD": ("inflammatory bowel disease",),
    "ICH": ("intracranial hemorrhage", "intracerebral hemorrhage"), "IDA": ("iron deficiency anemia",),
    "LAD": ("lymphadenopathy", "left anterior descending"), "LOC": ("loss of consciousness",),
    "MI": ("myocardial infarction",), "MS": ("multiple sclerosis",), "N/V": ("nausea and vomiting", "nausea",
    "vomiting"),
    "NSCLC": ("non small cell lung cancer", "non small cell lung carcinoma"), "NSTEMI": ("myocardial infarction",),
    "OA": ("osteoarthritis",), "PE": ("pulmonary embolism", "pulmonary embolus"), "PNA": ("pneumonia",),
    "PTX": ("pneumothorax",), "PVD": ("peripheral vascular disease",), "RA": ("rheumatoid arthritis", "right atrium"),
    "SAH": ("subarachnoid hemorrhage",), "SBO": ("small bowel obstruction",), "SCC": ("squamous cell carcinoma",),
    "RCC": ("renal cell carcinoma",), "SDH": ("subdural hematoma",), "SLE": ("systemic lupus erythematosus", "lupus"),
    "SOB": ("shortness of breath", "dyspnea", "breathlessness"), "SVT": ("supraventricular tachycardia",),
    "STEMI": ("st elevation myocardial infarction", "myocardial infarction"), "TB": ("tuberculosis",),
    "TIA": ("transient ischemic attack",), "TTP": ("thrombotic thrombocytopenic purpura", "tender to palpation"),
    "UC": ("ulcerative colitis",), "URI": ("upper respiratory infection", "upper respiratory tract infection"),
    "UTI": ("urinary tract infection",), "VF": ("ventricular fibrillation",), "VT": ("ventricular tachycardia",),
    "T2D": ("type 2 diabetes",), "T2DM": ("type 2 diabetes mellitus", "type 2 diabetes"),
    "T1DM": ("type 1 diabetes mellitus", "type 1 diabetes"),
    "ASD": ("atrial septal defect",), "VSD": ("ventricular septal defect",), "PDA": ("patent ductus arteriosus",),
    "JVD": ("jugular venous distension", "jugular vein distension"), "NASH": ("nonalcoholic steatohepatitis",),
    "ITP": ("immune thrombocytopenic purpura", "idiopathic thrombocytopenic purpura", "immune thrombocytopenia"),
    "AAA": ("abdominal aortic aneurysm",), "OSA": ("obstructive sleep apnea",), "PID": ("pelvic inflammatory disease",),
    "LVH": ("left ventricular hypertrophy",), "MRSA": ("methicillin resistant staphylococcus aureus",),
    # tests and measurements
    "ABG": ("arterial blood gas",), "AFP": ("alpha fetoprotein",), "ALP": ("alkaline phosphatase",),
    "ALT": ("alanine aminotransferase", "alanine transaminase"), "ANA": ("antinuclear antibody",),
    "AST": ("aspartate aminotransferase", "aspartate transaminase"), "BMI": ("body mass index",),
    "BNP": ("brain natriuretic peptide",), "BP": ("blood pressure",), "BUN": ("blood urea nitrogen",),
    "CBC": ("complete blood count", "blood count"), "CEA": ("carcinoembryonic antigen",), "CK": ("creatine kinase",),
    "CPK": ("creatine phosphokinase", "creatine kinase"), "Cr": ("creatinine",), "CRP": ("c reactive protein",),
    "CSF": ("cerebrospinal fluid",), "CT": ("computed tomography", "computerized tomography"),
    "CXR": ("chest x ray", "chest radiograph", "chest radiography", "chest film"),
    "ECG": ("electrocardiogram", "electrocardiography", "electrocardiographic"),
    "EKG": ("electrocardiogram", "electrocardiography"), "EEG": ("electroencephalogram", "electroencephalography"),
    "EF": ("ejection fraction",), "LVEF": ("left ventricular ejection fraction", "ejection fraction"),
    "EGD": ("esophagogastroduodenoscopy", "upper endoscopy", "gastroscopy"), "EMG": ("electromyography",),
    "ERCP": ("endoscopic retrograde cholangiopancreatography",),
    "ESR": ("erythrocyte sedimentation rate", "sedimentation rate"), "FNA": ("fine needle aspiration",),
    "GCS": ("glasgow coma scale", "glasgow coma score"), "GGT": ("gamma glutamyl transferase",
    "gamma glutamyl transpeptidase"),
    "Hb": ("hemoglobin",), "Hgb": ("hemoglobin",), "HbA1c": ("glycated hemoglobin",), "Hct": ("hematocrit",),
    "HR": ("heart rate", "pulse rate", "pulse"), "INR": ("international normalized ratio",),
    "IOP": ("intraocular pressure",),
    "IHC": ("immunohistochemistry", "immunohistochemical"), "K": ("potassium",), "LDH": ("lactate dehydrogenase",),
    "LFTs": ("liver function test",), "LP": ("lumbar puncture",), "MRA": ("magnetic resonance angiography",),
    "MRCP": ("magnetic resonance cholangiopancreatography",), "MRI": ("magnetic resonance imaging",), "Na": ("sodium",),
    "PCR": ("polymerase chain reaction",), "PET": ("positron emission tomography",), "Plt": ("platelet",
    "platelet count"),
    "PSA": ("prostate specific antigen",), "PT": ("prothrombin time",), "RR": ("respiratory rate", "respiration rate"),
    "SpO2": ("oxygen saturation",), "TSH": ("thyroid stimulating hormone",), "TTE": ("transthoracic echocardiography",),
    "TEE": ("transesophageal echocardiography",), "UA": ("urinalysis",), "US": ("ultrasound", "ultrasonography",
    "sonography"),
    "USG": ("ultrasonography", "ultrasound"), "VA": ("visual acuity",), "WBC": ("white blood cell",
    "white cell count", "leukocyte"),
    "RBC": ("red blood cell", "erythrocyte"), "aPTT": ("activated partial thromboplastin time",),
    "Temp": ("temperature",), "Echo": ("echocardiography", "echocardiogram"), "BAL": ("bronchoalveolar lavage",),
    # procedures and treatment
    "CABG": ("coronary artery bypass grafting", "coronary artery bypass graft"), "chemo": ("chemotherapy",),
    "CPR": ("cardiopulmonary resuscitation",), "ECMO": ("extracorporeal membrane oxygenation",),
    "HD": ("hemodialysis",),
    "ORIF": ("open reduction and internal fixation",), "PCI": ("percutaneous coronary intervention",),
    "RT": ("radiotherapy", "radiation therapy"), "XRT": ("radiotherapy", "radiation therapy"),
    "THA": ("total hip arthroplasty",), "TKA": ("total knee arthroplasty",), "TAH": ("total abdominal hysterectomy",),
    "IVIG": ("intravenous immunoglobulin",), "MTX": ("methotrexate",), "ASA": ("aspirin", "acetylsalicylic acid"),
    "HCTZ": ("hydrochlorothiazide",), "HCQ": ("hydroxychloroquine",), "5-FU": ("fluorouracil",), "INH": ("isoniazid",),
    "PPI": ("proton pump inhibitor",), "NSAIDs": ("nonsteroidal anti inflammatory drug",), "PCN": ("penicillin",),
    "TMP-SMX": ("trimethoprim sulfamethoxazole", "co trimoxazole"), "FFP": ("fresh frozen plasma",),
    "PRBC": ("packed red blood cell", "red blood cell"), "abx": ("antibiotic",),
    # places, sides, times
    "ED": ("emergency department", "emergency room"), "ER": ("emergency room", "emergency department"),
    "ICU": ("intensive care unit", "intensive care"), "RUQ": ("right upper quadrant",), "LUQ": ("left upper quadrant",),
    "RLQ": ("right lower quadrant",), "LLQ": ("left lower quadrant",), "RUL": ("right upper lobe",),
    "RLL": ("right lower lobe",), "RML": ("right middle lobe",), "LUL": ("left upper lobe",),
    "LLL": ("left lower lobe",),
    "LV": ("left ventricle", "left ventricular"), "RV": ("right ventricle", "right ventricular"),
    "LA": ("left atrium", "left atrial"), "LE": ("lower extremity",), "UE": ("upper extremity",),
    "GI": ("gastrointestinal",),
    "GU": ("genitourinary",), "CNS": ("central nervous system",), "IVC": ("inferior vena cava",), "LN": ("lymph node",),
}  # fmt: skip

# Abbreviations of a chart's structure, routes of administration and titles, which a report need not contain.
CHART_WORDS = frozenset(
    """
HPI PMH PSH FH SH ROS PE CC DX HX RX TX MD RN NP PA DO OR IV PO IM SC SQ SL PR PRN BID TID QID QD QHS Q4H Q6H Q8H Q12H
MEDS LABS VS NAME DOB MRN DNR DNI POD HD ID AM PM NA ETC VITALS PCP F M YO USA UK II III IV VI VII VIII IX XI XII
DISCHARGE SUMMARY NOTE HISTORY EXAM AND THE OF FOR NO NOT WITH TO IN ON AT AS IS A I S O P SOAP PLAN
""".split()
)

SYNONYMS = (
    ("heart", "cardiac"), ("kidney", "renal"), ("liver", "hepatic"), ("lung", "pulmonary"), ("thyroid", "thyroidal"),
    ("surgery", "operation", "operative", "surgical", "operated", "surgically"), ("resection", "resected", "excision",
    "excised", "removal", "removed"),
    ("biopsy", "biopsied"), ("drainage", "drained", "drain"), ("aspiration", "aspirated", "aspirate"),
    ("intubation", "intubated"), ("extubation", "extubated"), ("transfusion", "transfused"), ("dialysis",
    "hemodialysis"),
    ("ligation", "ligated"), ("repair", "repaired"), ("embolization", "embolized"), ("transplantation", "transplant",
    "transplanted"),
    ("ablation", "ablated"), ("amputation", "amputated"), ("debridement", "debrided"), ("ventilation", "ventilated"),
    ("vaccination", "vaccinated", "immunization", "vaccine", "immunized"), ("decompression", "decompressed"),
    ("fever", "febrile", "pyrexia", "pyrexial"), ("jaundice", "icterus", "icteric", "jaundiced"),
    ("dyspnea", "shortness of breath", "breathlessness", "difficulty breathing", "difficulty in breathing"),
    ("edema", "swelling", "swollen", "edematous"), ("vomiting", "emesis", "vomited"), ("nausea", "nauseated",
    "nauseous"),
    ("tenderness", "tender"), ("hypertension", "hypertensive", "high blood pressure"), ("hypotension", "hypotensive",
    "low blood pressure"),
    ("tachycardia", "tachycardic"), ("bradycardia", "bradycardic"), ("tachypnea", "tachypneic"), ("hypoxia",
    "hypoxic", "hypoxemia"),
    ("diabetes", "diabetic"), ("anemia", "anemic"), ("obesity", "obese"), ("pain", "painful", "ache"), ("itching",
    "pruritus", "pruritic"),
    ("bleeding", "hemorrhage", "bled", "hemorrhagic"), ("weakness", "weak"), ("confusion", "confused"), ("cyanosis",
    "cyanotic"),
    ("dizziness", "dizzy"), ("cancer", "carcinoma", "malignancy", "malignant"), ("tumor", "mass", "neoplasm",
    "lesion", "growth"),
    ("stroke", "cerebrovascular accident", "cerebral infarction"), ("seizure", "convulsion", "seizing", "epileptic"),
    ("metastasis", "metastatic"), ("infection", "infected"), ("inflammation", "inflamed", "inflammatory"), ("ulcer",
    "ulceration", "ulcerated"),
    ("calcification", "calcified"), ("fracture", "fractured"), ("rupture", "ruptured"), ("perforation", "perforated"),
    ("stenosis", "stenotic", "narrowing"), ("occlusion", "occluded"), ("thrombosis", "thrombus", "thrombosed", "clot"),
    ("embolism", "embolus"), ("ischemia", "ischemic"), ("infarction", "infarct"), ("necrosis", "necrotic"),
    ("fibrosis", "fibrotic"),
    ("atrophy", "atrophic"), ("hypertrophy", "hypertrophic", "hypertrophied"), ("allergy", "allergic"), ("injury",
    "injured", "trauma"),
    ("lymphadenopathy", "enlarged lymph node", "adenopathy"), ("hepatomegaly", "enlarged liver"), ("splenomegaly",
    "enlarged spleen"),
    ("sepsis", "septic"), ("ascites", "ascitic"), ("depression", "depressed", "depressive"), ("anxiety", "anxious"),
    ("smoking", "smoker", "smoked"),
    ("erythema", "erythematous", "redness"), ("distension", "distended", "distention"), ("dehydration", "dehydrated"),
    ("pallor", "pale"),
    ("recurrence", "recurred", "recurrent", "relapse"), ("obstruction", "obstructed", "obstructive"), ("cough",
    "coughing"), ("diarrhea", "loose stool"),
    ("acetaminophen", "paracetamol"), ("epinephrine", "adrenaline"), ("norepinephrine", "noradrenaline"),
    ("salbutamol", "albuterol"),
    ("furosemide", "frusemide"), ("cyclosporine", "ciclosporin", "cyclosporin"), ("rifampicin", "rifampin"),
    ("acyclovir", "aciclovir"),
    ("fluorouracil", "5 fluorouracil", "5 fu"), ("meperidine", "pethidine"), ("mesalamine", "mesalazine"),
    ("glyburide", "glibenclamide"),
    ("aspirin", "acetylsalicylic acid"), ("co trimoxazole", "trimethoprim sulfamethoxazole", "cotrimoxazole"),
    ("valproate", "valproic acid", "divalproex"),
    ("steroid", "corticosteroid"), ("levothyroxine", "thyroxine"), ("hydroxyurea", "hydroxycarbamide"),
    ("methimazole", "thiamazole"),
    ("phenobarbital", "phenobarbitone"), ("folic acid", "folate"), ("vitamin k", "phytonadione"), ("isoproterenol",
    "isoprenaline"),
    ("radiograph", "x ray", "radiography", "film"), ("ultrasound", "ultrasonography", "sonography",
    "ultrasonographic", "sonographic", "sonogram"),
    ("echocardiography", "echocardiogram", "echocardiographic"), ("electrocardiogram", "electrocardiography",
    "electrocardiographic"),
    ("angiography", "angiogram", "angiographic"), ("endoscopy", "endoscopic"), ("colonoscopy", "colonoscopic"),
    ("bronchoscopy", "bronchoscopic"),
    ("mammography", "mammogram", "mammographic"), ("electroencephalogram", "electroencephalography"), ("leukocyte",
    "white blood cell", "white cell", "leucocyte"),
    ("platelet", "platelet count", "thrombocyte"), ("computed tomography", "computerized tomography", "ct scan"),
    ("chemotherapy", "chemotherapeutic"),
    ("radiotherapy", "radiation therapy", "radiation", "irradiation", "irradiated"), ("histology", "histopathology",
    "histological", "histopathological", "histologic", "histopathologic"),
    ("cytology", "cytological"), ("immunohistochemistry", "immunohistochemical", "immunostaining"), ("laparoscopy",
    "laparoscopic"),
    ("laparotomy", "exploratory laparotomy"), ("physiotherapy", "physical therapy"), ("cesarean", "cesarean section",
    "c section"),
    ("pulse", "pulse rate", "heart rate"), ("temperature", "body temperature"), ("lumbar puncture", "spinal tap"),
    ("urinalysis", "urine analysis"),
    ("culture", "cultured"), ("serology", "serologic", "serological"), ("autopsy", "postmortem", "necropsy"),
)  # fmt: skip

# Words that negate a finding by themselves.
DENYING = {
    "afebrile": "fever", "apyrexial": "fever", "apyrexic": "fever", "anicteric": "jaundice", "nontender": "tenderness",
    "non-tender": "tenderness", "painless": "pain", "normotensive": "hypertension", "nondistended": "distension",
    "non-distended": "distension", "acyanotic": "cyanosis", "nonsmoker": "smoking", "non-smoker": "smoking",
    "nondiabetic": "diabetes", "non-diabetic": "diabetes", "seizure-free": "seizure", "pain-free": "pain",
}  # fmt: skip


def _groups() -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """A dictionary of the stems of a name to the stems of its synonyms."""
    groups = [tuple(tuple(stems(name)) for name in group) for group in SYNONYMS]
    groups += [
        (tuple(stems(plain.removeprefix("a ").removeprefix("an "))), tuple(stems(technical)))
        for technical, plain in PLAIN_WORDS.items()
    ]
    groups += [(tuple(stems(brand)), tuple(stems(generic))) for brand, generic in BRANDS.items()]
    others: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for group in groups:
        for name in group:
            others.setdefault(name, []).extend(other for other in group if other != name)
    return others


NAMES_FOR = _groups()
# Short forms keep their capitals: "US" is not the pronoun, "PE" not a syllable.
LONG_FORMS = {short: [tuple(stems(long)) for long in longs] for short, longs in ABBREVIATIONS.items()}
SHORT_FORMS: dict[tuple[str, ...], list[str]] = {}
for _short, _longs in LONG_FORMS.items():
    for _long in _longs:
        SHORT_FORMS.setdefault(_long, []).append(_short)


@lru_cache(maxsize=16384)
def other_names(name: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(rule, stems) for each other name of a term, including names that replace only a part of a long term."""
    found: list[tuple[str, tuple[str, ...]]] = [("synonym", other) for other in NAMES_FOR.get(name, [])]
    found += [("abbreviation", (short,)) for short in SHORT_FORMS.get(name, [])]
    if len(name) == 1:
        found += [("abbreviation", long) for long in LONG_FORMS.get(name[0]) or LONG_FORMS.get(name[0].upper(), [])]
    for size in range(len(name) - 1, 0, -1):
        for start in range(len(name) - size + 1):
            replaced = name[start : start + size]
            before, after = name[:start], name[start + size :]
            found += [("synonym", (*before, *other, *after)) for other in NAMES_FOR.get(replaced, [])]
            found += [("abbreviation", (*before, short, *after)) for short in SHORT_FORMS.get(replaced, [])]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4096)
def implying(test: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Stems of the findings that imply a result of the test: "thrombocytopenia" implies a platelet count."""
    return tuple(tuple(stems(name)) for name, plain in PLAIN_WORDS.items() if set(test) <= set(stems(plain)))
