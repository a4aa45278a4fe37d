"""Names of diseases and findings beyond the common ones of `lexicon.py`. All lower case."""

from data_prep.clinical_text.words import table

MORE_PROBLEMS = table("""
abnormality, abnormalities, achalasia, acne, acromegaly, addison's disease, air embolism, albinism, alzheimer's disease
amenorrhea, amnesia, amyloid, anal fissure, angioma, ankylosis, aortic stenosis, aortic regurgitation
mitral regurgitation, mitral stenosis, tricuspid regurgitation, regurgitation, aspiration pneumonia, asthenia, autism
bell's palsy, palsy, cerebral palsy, facial palsy, bedsore, bedsores, pressure ulcer, bloating, bradypnea
bronchospasm, bundle branch block, atrioventricular block, heart block, bunion, candida, carpal tunnel syndrome
celiac disease, coeliac disease, cerebral edema, chickenpox, cholera, cholestasis, cleft palate, cleft lip, clubfoot
colitis, common cold, conjunctival injection, contracture, contusion, contusions, cramps, cramp, crepitus, croup
cushing's syndrome, cystic fibrosis, cytomegalovirus, deafness, dengue, desquamation, diplegia
disc herniation, herniation, diverticulum, diverticula, down syndrome, drooling, drowsiness
dumping syndrome, dyslexia, dysmorphism, dyspepsia, dystonia, dystrophy, ebola, empyema, enuresis, epigastric pain
erosion, erosions, esophageal varices, exophthalmos, exudate, exudates, faecal incontinence, failure to thrive
fainting, fasciculations, fatty liver, febrile seizure, fetal distress, fibroid, fibroids, fissure, flatulence, flu
foreign body, frostbite, gait disturbance, gallstone, gallstones, galactorrhea, ganglion, gastric ulcer
gastrointestinal bleeding, goitre, goiter, graves disease, graves' disease, growth restriction, guillain-barre syndrome
guillain-barré syndrome, gynecomastia, gynaecomastia, halitosis, heartburn, heart murmur, heat stroke, hemiplegia
hemothorax, herpes, herpes zoster, herpes simplex, shingles, hiccup, hiccups, hirsutism, hives, hodgkin lymphoma
hodgkin's lymphoma, huntington's disease, hydrocele, hypertrichosis, hypospadias, ileus, impetigo, impotence
indigestion, infertility, infestation, influenza a, insomnia, intellectual disability
iron deficiency, irritability, irritable bowel syndrome, joint stiffness, stiffness, kawasaki disease, keloid, ketosis
kyphosis, lethargy, leprosy, lipoma, limp, lockjaw, loose stools, lordosis, lung cancer, breast cancer, lyme disease
macules, maculopapular rash, malabsorption, malnutrition, marasmus, measles, memory loss, meningioma, menorrhagia
mental retardation, migraine, migraines, mitral valve prolapse, prolapse, mumps, murmurs, muscle spasm, spasm, spasms
muscle wasting, wasting, cachexia, myoclonus, myxedema, necrotizing fasciitis, nevus, nocturia, obstructive sleep apnea
sleep apnea, opacity, opacities, orthopnea, orthostasis, osteopenia, otorrhea, otalgia, overdose, panic attacks
parkinsonism, pericardial rub, pes planus, phlegm, pinworms, pneumomediastinum, poisoning, intoxication
polydipsia, polyphagia, portal hypertension, postpartum hemorrhage, post-traumatic stress disorder, priapism
pulmonary hypertension, pustules, quadriplegia, rabies, rales, rhonchi, raynaud phenomenon, raynaud's phenomenon
respiratory arrest, restless legs, restless legs syndrome, restlessness, retinal hemorrhage
rheumatic fever, rhinorrhea, rickets, rigidity, rigors, rigor, rubella, scabies, scar, scars, schizophrenia, sciatica
scoliosis, scurvy, sensory loss, septicemia, septicaemia, serositis, shingles, sickle cell disease, sinus tachycardia
skin lesion, skin lesions, snoring, sore, sores, spasticity, spina bifida, sprain, strabismus
streptococcal pharyngitis, stridor, subluxation, suicidality, sunburn, suppuration, sweating, diaphoresis, syphilis
tamponade, telangiectasia, testicular torsion, torsion, tetanus, tetany, thalassemia, thalassaemia, thrush, tics
tinea, toothache, toxicity, toxoplasma, trachoma, tonsillar enlargement, organomegaly, tremors, trismus, twitching
typhoid, typhoid fever, typhus, vegetation, vegetations, unconsciousness, loss of consciousness, uremia, uraemia
urinary frequency, urinary urgency, vaginal bleeding, vaginal discharge, valvular disease, varicella, varicose veins
varicocele, vegetative state, vitiligo, warts, wart, weight gain, wheeze, wheezes, whooping cough, withdrawal symptoms
yellow fever, xerosis, zika, lymphedema, midline shift, mass effect, free fluid, free air, extravasation, leak, leakage
deficit, deficits, neurological deficit, focal deficit, bruit, gallop, rub, masses, pneumoperitoneum, hemoperitoneum
haemoperitoneum, stillbirth, coronary artery disease, heart attack, chronic kidney disease, kidney stones
kidney stone, deep vein thrombosis, deep venous thrombosis, acute respiratory distress syndrome, down's syndrome
multiple myeloma, peptic ulcer, peptic ulcer disease, peripheral artery disease, peripheral neuropathy
restlessness, skin rash, bone metastases, brain metastases, liver metastases, distant metastases, dyslipidaemia
""")
