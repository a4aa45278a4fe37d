"""Word tables: drugs, problems, tests, procedures, anatomy; plain words for technical ones. All lower case."""

from data_prep.clinical_text.vocabulary.drugs import BRANDS, MORE_DRUGS
from data_prep.clinical_text.vocabulary.problems import MORE_PROBLEMS
from data_prep.clinical_text.words import table

DRUGS = (
    MORE_DRUGS
    | BRANDS.keys()
    | table("""
acetaminophen, paracetamol, aspirin, acetylsalicylic acid, ibuprofen, naproxen, diclofenac, indomethacin, ketorolac
celecoxib, morphine, fentanyl, oxycodone, tramadol, codeine, methadone, naloxone, ketamine, propofol, midazolam
lorazepam, diazepam, clonazepam, heparin, warfarin, enoxaparin, dabigatran, clopidogrel, ticagrelor, alteplase
streptokinase, urokinase, tranexamic acid, vitamin k, insulin, metformin, glibenclamide, gliclazide, glimepiride
levothyroxine, thyroxine, methimazole, carbimazole, propylthiouracil, hydrocortisone, prednisone, prednisolone
methylprednisolone, dexamethasone, budesonide, fludrocortisone, betamethasone, triamcinolone, corticosteroids
corticosteroid, steroids, steroid, antibiotics, antibiotic, intravenous immunoglobulin, intravenous immunoglobulins
ivig, anticoagulants, furosemide, spironolactone, hydrochlorothiazide, acetazolamide, mannitol, amiodarone, digoxin
adenosine, lidocaine, verapamil, diltiazem, adrenaline, epinephrine, noradrenaline, norepinephrine, dopamine
dobutamine, vasopressin, milrinone, nitroglycerin, nitroprusside, hydralazine, penicillin, penicillin g
amoxicillin, ampicillin, piperacillin, tazobactam, clavulanate, clavulanic acid, ceftriaxone, cefotaxime
ceftazidime, cefepime, cefuroxime, cefazolin, cephalexin, meropenem, imipenem, ertapenem, gentamicin, amikacin
tobramycin, streptomycin, vancomycin, teicoplanin, linezolid, daptomycin, clindamycin, erythromycin, azithromycin
clarithromycin, doxycycline, tetracycline, tigecycline, ciprofloxacin, levofloxacin, moxifloxacin, metronidazole
trimethoprim, sulfamethoxazole, co-trimoxazole, cotrimoxazole, nitrofurantoin, colistin, rifampicin, rifampin
isoniazid, ethambutol, pyrazinamide, fluconazole, voriconazole, itraconazole, amphotericin b
liposomal amphotericin b, amphotericin, caspofungin, acyclovir, aciclovir, ganciclovir, valganciclovir, oseltamivir
lamivudine, zidovudine, tenofovir, entecavir, sofosbuvir, ribavirin, interferon, interferon alfa, albendazole
mebendazole, praziquantel, ivermectin, chloroquine, hydroxychloroquine, quinine, artesunate, mefloquine, atovaquone
dapsone, primaquine, cyclophosphamide, methotrexate, azathioprine, mycophenolate, mycophenolate mofetil
cyclosporine, ciclosporin, cyclosporin, tacrolimus, sirolimus, everolimus, rituximab, infliximab, adalimumab
etanercept, tocilizumab, bevacizumab, trastuzumab, cetuximab, nivolumab, pembrolizumab, ipilimumab, imatinib
sunitinib, sorafenib, erlotinib, gefitinib, cisplatin, carboplatin, oxaliplatin, paclitaxel, docetaxel, doxorubicin
epirubicin, daunorubicin, idarubicin, vincristine, vinblastine, vinorelbine, etoposide, ifosfamide, bleomycin
gemcitabine, cytarabine, fluorouracil, 5-fluorouracil, 5-fu, capecitabine, pemetrexed, irinotecan, topotecan
temozolomide, dacarbazine, bortezomib, lenalidomide, thalidomide, melphalan, chlorambucil, hydroxyurea
l-asparaginase, asparaginase, tamoxifen, letrozole, anastrozole, goserelin, leuprolide, octreotide, lanreotide
cabergoline, bromocriptine, desmopressin, oxytocin, misoprostol, methylergometrine, magnesium sulfate, nifedipine
labetalol, methyldopa, clomiphene, phenytoin, carbamazepine, oxcarbazepine, valproate, valproic acid
sodium valproate, lamotrigine, levetiracetam, topiramate, phenobarbital, phenobarbitone, gabapentin, pregabalin
baclofen, levodopa, carbidopa, ropinirole, pramipexole, donepezil, memantine, pyridostigmine, neostigmine
haloperidol, risperidone, olanzapine, quetiapine, aripiprazole, clozapine, lithium, fluoxetine, sertraline
citalopram, escitalopram, paroxetine, venlafaxine, amitriptyline, nortriptyline, mirtazapine, bupropion
sumatriptan, melatonin, omeprazole, pantoprazole, esomeprazole, ranitidine, ondansetron, metoclopramide, lactulose
mesalazine, mesalamine, sulfasalazine, sulphasalazine, ursodeoxycholic acid, rifaximin, loperamide, cholestyramine
pancreatic enzymes, bisacodyl, senna, salbutamol, albuterol, ipratropium, tiotropium, theophylline, aminophylline
montelukast, fluticasone, salmeterol, formoterol, colchicine, allopurinol, febuxostat, alendronate, zoledronic acid
denosumab, calcitriol, vitamin d, vitamin b12, folic acid, folate, thiamine, pyridoxine, ferrous sulfate
potassium chloride, calcium gluconate, sodium bicarbonate, riboflavin, n-acetylcysteine, acetylcysteine
activated charcoal, atropine, pralidoxime, flumazenil, fomepizole, antivenom, deferoxamine, penicillamine
cetirizine, diphenhydramine, chlorpheniramine, isotretinoin, tretinoin, acitretin, calcipotriol, mupirocin
permethrin, timolol, latanoprost, dorzolamide, brimonidine, tropicamide, cyclopentolate, ranibizumab
povidone-iodine, filgrastim, g-csf, erythropoietin, eltrombopag, romiplostim, omalizumab, eculizumab
bisphosphonate, bisphosphonates, botulinum toxin
""")
)
DRUG_SUFFIXES = (
    "mab", "tinib", "cillin", "mycin", "floxacin", "conazole", "prazole", "sartan", "statin", "olol", "dipine",
    "oxaban", "platin",
    "taxel", "rubicin", "ciclovir", "cyclovir", "navir", "tegravir", "buvir", "cycline", "solone", "methasone",
    "caine", "triptan",
    "gliptin", "gliflozin", "glutide", "setron", "lukast", "parin", "penem", "zosin", "azepam", "barbital", "fibrate",
    "semide",
    "thiazide", "pril", "dronate", "trexate", "stigmine", "curium", "zolamide", "prost", "vudine", "abine", "sporin",
    # Further stems of international nonproprietary names, except those that everyday words share.
    "virine", "lutamide", "ciclib", "parib", "rafenib", "denib", "anib", "lisib", "degib", "citinib", "orexant",
    "ditan", "gepant", "nexor", "bamate", "racetam", "lisant", "amidis", "siran", "nersen", "vancin", "micin", "asvir",
    "previr", "ovir", "avir", "fungin", "fungerp", "manid", "quiline", "quine", "prazan", "renone", "ciguat", "tirelin",
    "relix", "relin", "actide", "natide", "patide", "lutide", "leucel", "ercept", "tacept", "kinra", "mustine",
    "zotocin", "tecan", "poside",
    "bicin", "grastim", "poetin", "sulfan", "dipine", "azosin", "oxetine", "ipramine", "triptyline",
    "perone", "peridol", "apine", "azepine", "zolam", "oxadone", "caserin", "ergoline", "tadine", "astine", "tropium",
    "terol", "phylline", "fenac", "profen", "oxicam", "coxib", "fentanil", "orphan", "metacin", "glinide", "glitazone",
    "formin", "gliclazide", "cogib", "vaptan", "entan", "azoline", "afil", "osuran", "bradine", "ampanel",
    "cromil", "dralazine", "pristin", "oxacin", "penem", "bactam", "sulfone", "thiouracil", "tabine",
    "tocin", "pressin", "ermin", "fovir", "cavir", "mivir", "amivir", "gosivir",
)  # fmt: skip

PROBLEMS = MORE_PROBLEMS | table("""
pain, fever, cough, dyspnea, dyspnoea, shortness of breath, nausea, vomiting, diarrhea, diarrhoea, constipation
headache, dizziness, vertigo, syncope, fatigue, weakness, malaise, weight loss, weight gain, night sweats, chills
anorexia, loss of appetite, palpitations, chest pain, abdominal pain, back pain, sore throat, rash, rashes, itching
pruritus, swelling, edema, oedema, erythema, jaundice, icterus, pallor, cyanosis, clubbing, seizure, seizures
convulsion, convulsions, tremor, ataxia, confusion, delirium, coma, hallucinations, delusions, insomnia, depression
anxiety, mania, psychosis, agitation, suicidal ideation, dementia, numbness, paresthesia, paraesthesia, diplopia
ptosis, photophobia, blurred vision, visual loss, loss of vision, blindness, hearing loss, tinnitus, hoarseness
dysphagia, dysphonia, odynophagia, dysarthria, aphasia, bleeding, hemorrhage, haemorrhage, hematoma, haematoma
hemoptysis, haemoptysis, epistaxis, melena, melaena, hematemesis, haematemesis, ecchymosis, petechiae, purpura
bruising, hypertension, hypotension, tachycardia, bradycardia, tachypnea, hypoxia, hypoxemia, shock, sepsis
septic shock, cardiac arrest, heart failure, cardiac failure, myocardial infarction, atrial fibrillation
arrhythmia, angina, endocarditis, cardiomyopathy, pericardial effusion, tamponade, aneurysm, pseudoaneurysm
dissection, thrombosis, thrombus, embolism, embolus, ischemia, ischaemia, infarction, infarct, stroke, stenosis
occlusion, fistula, varices, gangrene, ulcer, ulcers, ulceration, abscess, abscesses, infection, infections
pneumonia, tuberculosis, meningitis, encephalitis, influenza, malaria, hiv infection, candidiasis, cellulitis
asthma, copd, chronic obstructive pulmonary disease, pleural effusion, pleural effusions, pneumothorax, emphysema
bronchiectasis, atelectasis, consolidation, respiratory failure, respiratory distress, pulmonary embolism
pulmonary edema, apnea, wheezing, crackles, diabetes, diabetes mellitus, type 2 diabetes, type 1 diabetes
hypothyroidism, hyperthyroidism, obesity, dyslipidemia, hyperlipidemia, hypoglycemia, hyperglycemia, ketoacidosis
acidosis, hyponatremia, hypokalemia, hyperkalemia, hypercalcemia, hypocalcemia, dehydration, renal failure
kidney injury, acute kidney injury, renal insufficiency, hydronephrosis, nephrotic syndrome, proteinuria, hematuria
haematuria, dysuria, oliguria, anuria, urinary retention, incontinence, urinary tract infection, stones, stone
calculus, calculi, cirrhosis, hepatitis, hepatitis b, hepatitis c, ascites, liver failure, pancreatitis
cholecystitis, appendicitis, peritonitis, bowel obstruction, intestinal obstruction, perforation, hernia
intussusception, volvulus, crohn's disease, ulcerative colitis, anemia, anaemia, leukemia, leukaemia, lymphoma
myeloma, thrombocytopenia, leukocytosis, neutropenia, pancytopenia, eosinophilia, coagulopathy, lymphadenopathy
hepatomegaly, splenomegaly, hepatosplenomegaly, cancer, tumor, tumour, tumors, tumours, mass, masses, lesion
lesions, nodule, nodules, cyst, cysts, polyp, polyps, metastasis, metastases, malignancy, neoplasm, carcinoma
sarcoma, melanoma, adenocarcinoma, recurrence, fracture, fractures, dislocation, injury, injuries, trauma, wound
laceration, burn, deformity, arthritis, arthralgia, myalgia, osteoporosis, osteomyelitis, lupus
systemic lupus erythematosus, vasculitis, sarcoidosis, gout, psoriasis, eczema, alopecia, vesicles, papules
plaques, blisters, bullae, urticaria, angioedema, anaphylaxis, necrosis, fibrosis, inflammation, obstruction
rupture, malformation, atrophy, hypertrophy, hyperplasia, calcification, calcifications, effusion, collection
paralysis, hemiparesis, paraplegia, neuropathy, multiple sclerosis, epilepsy, hydrocephalus, parkinson's disease
myasthenia gravis, preeclampsia, pre-eclampsia, eclampsia, abortion, miscarriage, ectopic pregnancy
growth retardation, developmental delay, prematurity, glaucoma, cataract, uveitis, retinal detachment, papilledema
papilloedema, nystagmus, neck stiffness, nuchal rigidity, tenderness, guarding, murmur, distension, distention
hypothermia, complications, allergy, allergies, adhesions, dysfunction, compression, reflux
""")
PROBLEM_SUFFIXES = (
    "itis", "oma", "omas", "omata", "osis", "oses", "emia", "aemia", "pathy", "pathies", "algia", "uria", "megaly",
    "penia", "plegia",
    "paresis", "rrhea", "rrhoea", "rrhage", "edema", "oedema", "cytosis", "trophy", "dynia", "phagia", "pnea",
    "pnoea", "plasia", "thorax",
    "malacia", "ectasia", "ectasis", "stenosis", "iasis", "oxia", "thermia", "tension", "cardia", "phobia",
    "sclerosis", "philia",
)  # fmt: skip
TESTS = table("""
ct, ct scan, ct scans, cect, hrct, computed tomography, computed tomography scan, mri, mri scan
magnetic resonance imaging, mra, mrcp, ercp, pet, pet scan, pet-ct, pet/ct, x-ray, x ray, x-rays, radiograph
radiographs, radiography, ultrasound, ultrasonography, sonography, doppler, doppler ultrasound, echocardiogram
echocardiography, transthoracic echocardiography, transesophageal echocardiography, electrocardiogram
electrocardiography, ecg, ekg, eeg, electroencephalography, emg, electromyography, nerve conduction studies
angiography, angiogram, coronary angiography, venography, mammography, scintigraphy, bone scan, cystography
urography, barium swallow, barium enema, spirometry, pulmonary function tests, endoscopy, gastroscopy, colonoscopy
bronchoscopy, laryngoscopy, cystoscopy, hysteroscopy, fundoscopy, esophagogastroduodenoscopy, biopsy, biopsies
fine needle aspiration, fine-needle aspiration, bone marrow aspiration, bone marrow biopsy, histology
histopathology, immunohistochemistry, cytology, gram stain, culture, cultures, blood culture, blood cultures
urine culture, sputum culture, lumbar puncture, urinalysis, complete blood count, blood count, blood tests
blood test, laboratory tests, laboratory findings, liver function tests, renal function tests
thyroid function tests, serology, karyotype, karyotyping, polymerase chain reaction, pcr, genetic testing
audiometry, hemoglobin, haemoglobin, hematocrit, haematocrit, white blood cell count, white blood cell
white cell count, wbc, leukocyte count, platelet count, platelets, platelet, neutrophils, lymphocytes, eosinophils
c-reactive protein, crp, erythrocyte sedimentation rate, esr, creatinine, serum creatinine, urea, blood urea
blood urea nitrogen, bun, sodium, potassium, calcium, phosphate, magnesium, chloride, glucose, blood glucose, hba1c
bilirubin, total bilirubin, albumin, total protein, aspartate aminotransferase, alanine aminotransferase, ast, alt
alkaline phosphatase, lactate dehydrogenase, ldh, gamma-glutamyl transpeptidase, amylase, lipase, ammonia, lactate
troponin, troponin t, troponin i, creatine kinase, d-dimer, prothrombin time, international normalized ratio, inr
fibrinogen, ferritin, tsh, cortisol, acth, prolactin, parathyroid hormone, afp, alpha-fetoprotein, cea
carcinoembryonic antigen, ca-125, ca 125, ca 19-9, ca19-9, psa, prostate-specific antigen, hcg, procalcitonin
blood pressure, heart rate, pulse rate, pulse, respiratory rate, temperature, body temperature, oxygen saturation
body mass index, bmi, glasgow coma scale, visual acuity, intraocular pressure, ejection fraction
antinuclear antibodies, antinuclear antibody, rheumatoid factor, complement, examination, physical examination
neurological examination, clinical examination, autopsy, mantoux test, tuberculin test, arterial blood gas
blood gas analysis
""")
TEST_SUFFIXES = ("graphy", "gram", "grams", "scopy", "metry", "graph", "graphs")
PROCEDURES = table("""
surgery, operation, resection, excision, biopsy excision, drainage, aspiration, debridement, amputation
transplantation, liver transplantation, kidney transplantation, bone marrow transplantation, chemotherapy
radiotherapy, radiation therapy, chemoradiotherapy, dialysis, hemodialysis, haemodialysis, plasmapheresis
plasma exchange, mechanical ventilation, intubation, tracheal intubation, extubation, oxygen therapy, cpap
transfusion, blood transfusion, resuscitation, cardiopulmonary resuscitation, defibrillation, cardioversion
ablation, pacemaker, stenting, stent, percutaneous coronary intervention, coronary artery bypass grafting, bypass
embolization, embolisation, ligation, catheterization, chest tube, shunt, ventriculoperitoneal shunt
open reduction, internal fixation, open reduction and internal fixation, arthrodesis, physiotherapy
physical therapy, psychotherapy, electroconvulsive therapy, phototherapy, laser therapy, vaccination
cesarean section, caesarean section, vaginal delivery, induction of labour, curettage, gastric lavage
enteral nutrition, parenteral nutrition, antibiotic therapy, antiviral therapy, steroid therapy
corticosteroid therapy, antifungal therapy, anticoagulation, thrombolysis, sclerotherapy, reconstruction, flap
skin graft, graft, repair, removal, decompression, fixation, anastomosis, palliative care, hormone therapy
stem cell transplantation, ecmo, extracorporeal membrane oxygenation, immunosuppressive therapy, general anesthesia
general anaesthesia, rehabilitation, isolation
""")
PROCEDURE_SUFFIXES = (
    "ectomy", "ectomies", "otomy", "ostomy", "plasty", "desis", "pexy", "centesis", "rrhaphy", "tripsy", "pheresis",
    "lysis",
)  # fmt: skip
ANATOMY = table("""
head, brain, skull, face, scalp, eye, eyes, eyelid, orbit, retina, cornea, ear, ears, nose, nasal cavity, sinus
sinuses, mouth, tongue, lip, lips, palate, tonsil, pharynx, larynx, trachea, thyroid, parathyroid, neck, chest
thorax, lung, lungs, right lung, left lung, pleura, bronchus, mediastinum, heart, pericardium, aorta, aortic arch
mitral valve, aortic valve, left ventricle, right ventricle, left atrium, right atrium, coronary artery
carotid artery, pulmonary artery, portal vein, inferior vena cava, femoral artery, breast, breasts, abdomen
stomach, duodenum, jejunum, ileum, small bowel, bowel, colon, sigmoid colon, cecum, caecum, appendix, rectum, anus
liver, gallbladder, bile duct, common bile duct, pancreas, spleen, kidney, kidneys, ureter, bladder, urethra
prostate, testis, testes, penis, scrotum, uterus, cervix, ovary, ovaries, vagina, vulva, placenta, pelvis, spine
cervical spine, thoracic spine, lumbar spine, spinal cord, vertebra, vertebrae, sacrum, shoulder, arm, arms, elbow
forearm, wrist, hand, hands, finger, fingers, thumb, hip, thigh, knee, knees, leg, legs, ankle, ankles, foot, feet
toe, toes, femur, tibia, fibula, humerus, radius, ulna, rib, ribs, sternum, clavicle, mandible, maxilla, skin
bone marrow, lymph nodes, lymph node, peritoneum, retroperitoneum, diaphragm, esophagus, oesophagus, adrenal gland
adrenal glands, pituitary, pituitary gland, cerebellum, brainstem, thalamus, hypothalamus, frontal lobe
temporal lobe, parietal lobe, occipital lobe, corpus callosum, groin, axilla, buttocks, trunk, upper limb
lower limb, upper limbs, lower limbs, extremities, lower extremities, upper extremities, flank, umbilicus, perineum
""")
# Words that a suffix rule would misclassify.
NOT_TERMS = table("""
microgram, micrograms, nanogram, nanograms, picogram, picograms, diagnosis, diagnoses, prognosis, basis, analysis
emphasis, hypothesis, synthesis, dialysis, urinalysis, coma, stoma, stroma, soma, diploma, genoma, program
programs, kilogram, kilograms, milligram, milligrams, gram, grams, diagram, mitosis, mitoses, apoptosis
metamorphosis, bacteria, paralysis, tension, extension, pathy, april, anastomosis, anastomoses, photograph
photographs, paragraph, cytometry, geometry, symmetry, asymmetry, abine, philia, dimension, intension, pretension
hemolysis, haemolysis, electrolysis, osteolysis, rhabdomyolysis, spondylolysis, microscopy, immunohistochemistry
lactulose, monogram, sphincter, thorax, hemithorax, haemithorax, telemetry, haptoglobin, sequential, anaphylaxis
phlebotomy, parin, biometry, homeostasis
""")
QUALIFIERS = table("""
acute, chronic, severe, mild, moderate, recurrent, progressive, bilateral, left, right, unilateral, diffuse
massive, large, small, multiple, left-sided, right-sided, upper, lower, deep, sudden, intermittent, persistent
productive, dry, generalized, generalised, localized, low-grade, high-grade, primary, secondary, metastatic
malignant, benign, invasive, cell, type, stage, advanced, congenital, idiopathic, open, closed, total, partial
subtotal, laparoscopic, emergency, emergent, elective, urgent, follow-up, contrast-enhanced, enhanced, repeat
high-resolution, non-contrast, plain, atypical, suspected, solid, intense, marked, tender, painful, painless, early
late, postoperative, spontaneous, serum, bone, liver, lung, brain, breast, skin, chest, heart, kidney, blood
muscle, joint, soft, tissue, tube, wound, urine, sputum, stool, limb, knee, hip, shoulder, neck, eye, bowel, cord
optic, disc, disk, gastric, excisional, squamous, vein, artery, valve, septal, duct, node, nerve, foot, leg, arm
hand, face, facial, back, flank, groin, throat, ear, b, t, weight-bearing, dull, sharp, new-onset
""")
QUALIFIER_SUFFIXES = ("al", "ic", "ous", "ary", "ar", "oid", "ine", "ular", "atic", "ative", "genic", "itious", "ive")

# Units as a chart writes them -> the unit spelled out.
UNITS = {
    "mg/dL": "milligrams per decilitre", "mg/dl": "milligrams per decilitre", "g/dL": "grams per decilitre",
    "g/dl": "grams per decilitre", "mg/L": "milligrams per litre", "mg/l": "milligrams per litre",
    "g/L": "grams per litre", "g/l": "grams per litre", "mmol/L": "millimoles per litre",
    "mmol/l": "millimoles per litre", "ng/mL": "nanograms per millilitre", "ng/ml": "nanograms per millilitre",
    "mmHg": "millimetres of mercury", "mm Hg": "millimetres of mercury", "mm": "millimetres", "cm": "centimetres",
    "kg": "kilograms", "mg": "milligrams", "mL": "millilitres", "ml": "millilitres",
    "mg/kg": "milligrams per kilogram", "mg/kg/day": "milligrams per kilogram per day",
    "mg/m2": "milligrams per square metre", "kg/m2": "kilograms per square metre",
    "IU/L": "international units per litre", "U/L": "units per litre", "/mm3": "per cubic millimetre",
    "cells/mm3": "cells per cubic millimetre", "mm/h": "millimetres per hour", "bpm": "beats per minute",
    "mEq/L": "milliequivalents per litre", "pg/mL": "picograms per millilitre", "mg/day": "milligrams per day",
    "µmol/L": "micromoles per litre", "μmol/L": "micromoles per litre", "Gy": "gray", "°C": "degrees Celsius",
}  # fmt: skip

# Technical term -> exact equivalent in plain words. Terms with a second meaning are left out.
PLAIN_WORDS = {
    "myocardial infarction": "heart attack", "hypertension": "high blood pressure",
    "hypotension": "low blood pressure", "dyspnea": "shortness of breath", "dyspnoea": "shortness of breath",
    "pruritus": "itching", "edema": "swelling", "oedema": "swelling", "erythema": "redness", "epistaxis": "nosebleed",
    "hematuria": "blood in the urine", "haematuria": "blood in the urine", "hemoptysis": "coughing up blood",
    "haemoptysis": "coughing up blood", "hematemesis": "vomiting blood", "dysuria": "painful urination",
    "dysphagia": "difficulty swallowing", "odynophagia": "painful swallowing", "arthralgia": "joint pain",
    "myalgia": "muscle pain", "tachycardia": "a fast heart rate", "bradycardia": "a slow heart rate",
    "pyrexia": "fever", "alopecia": "hair loss", "diplopia": "double vision", "hypoglycemia": "low blood sugar",
    "hyperglycemia": "high blood sugar", "leukocytosis": "a high white blood cell count",
    "thrombocytopenia": "a low platelet count", "hyponatremia": "low blood sodium",
    "hypokalemia": "low blood potassium", "hyperkalemia": "high blood potassium",
    "hypercalcemia": "high blood calcium", "hypocalcemia": "low blood calcium", "hepatomegaly": "an enlarged liver",
    "splenomegaly": "an enlarged spleen", "cholecystectomy": "removal of the gallbladder",
    "splenectomy": "removal of the spleen", "appendectomy": "removal of the appendix",
    "nephrectomy": "removal of the kidney", "hysterectomy": "removal of the womb",
    "thyroidectomy": "removal of the thyroid", "cerebrovascular accident": "stroke", "intravenously": "into a vein",
    "subcutaneously": "under the skin", "orally": "by mouth", "pyelonephritis": "kidney infection",
    "cephalgia": "headache", "cephalalgia": "headache", "emesis": "vomiting", "syncope": "fainting",
    "urticaria": "hives", "renal": "kidney", "hepatic": "liver", "cholelithiasis": "gallstones",
    "nephrolithiasis": "kidney stones", "anorexia": "loss of appetite", "rhinorrhea": "a runny nose",
    "hemorrhage": "bleeding", "haemorrhage": "bleeding", "hypothyroidism": "an underactive thyroid",
    "hyperthyroidism": "an overactive thyroid", "ecchymosis": "bruising", "xerostomia": "dry mouth",
    "vertigo": "a spinning sensation", "paresthesia": "tingling", "lymphadenopathy": "enlarged lymph nodes",
}  # fmt: skip
