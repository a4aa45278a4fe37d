"""Drug names beyond the common ones of `lexicon.py`, and brand names with their generic names. All lower case.

Measured on 1,449 case reports against the names of DrugBank and MedlinePlus: `lexicon.py` alone finds 82 % of their
mentions; both tables and the suffixes find 92 %. Most of the rest are hormones and other analytes.
"""

from data_prep.clinical_text.words import table

MORE_DRUGS = table("""
abacavir, abatacept, abiraterone, acarbose, acenocoumarol, acebutolol, actinomycin d, adefovir, aflibercept
agalsidase, alendronic acid, alemtuzumab, alfentanil, alfuzosin, aliskiren, alprazolam, ambrisentan, amantadine
amiloride, amisulpride, amlodipine, amphetamine, anakinra, anidulafungin, apixaban, apremilast, artemether
artemether-lumefantrine, asenapine, ascorbic acid, atomoxetine, atracurium, azelastine, aztreonam, baricitinib
belimumab, benazepril, bendamustine, benserazide, benztropine, betahistine, bicalutamide, biperiden, bisoprolol
bivalirudin, blinatumomab, bosentan, brentuximab, brexpiprazole, brivaracetam, bumetanide, bupivacaine, buprenorphine
buspirone, busulfan, cabozantinib, calcitonin, calcium carbonate, canakinumab, captopril, carbetocin
carbocisteine, carfilzomib, carmustine, carvedilol, cefaclor, cefadroxil, cefdinir, cefixime, cefmetazole
cefoperazone, cefotetan, cefoxitin, cefpodoxime, cefprozil, ceftaroline, ceftizoxime, cephradine, certolizumab
chloramphenicol, chlordiazepoxide, chlorhexidine, chlorpromazine, chlorthalidone, cholecalciferol, cidofovir
cilostazol, cimetidine, cinacalcet, cinnarizine, cladribine, clobazam, clobetasol, clofazimine, clomipramine
clonidine, cloxacillin, codeine phosphate, colestipol, cortisone, crizotinib, crotamiton, cyanocobalamin
cyclizine, cyproheptadine, cyproterone, dabrafenib, danazol, dantrolene, darbepoetin, darunavir, dasatinib
deferasirox, deferiprone, degarelix, desflurane, desloratadine, desvenlafaxine, dexmedetomidine, dextromethorphan
dextrose, diazoxide, diclofenac sodium, dicloxacillin, dicyclomine, diethylcarbamazine, digitoxin, dimercaprol
dinoprostone, diosmin, dipyridamole, dipyrone, disulfiram, divalproex, dolutegravir, domperidone, doripenem
doxazosin, doxepin, doxylamine, dronedarone, duloxetine, durvalumab, dutasteride, econazole, edaravone, edoxaban
efavirenz, empagliflozin, emtricitabine, enalapril, enfuvirtide, ephedrine, eplerenone, epoprostenol, eptifibatide
ergocalciferol, ergotamine, esmolol, eszopiclone, ethacrynic acid, ethinylestradiol, etomidate
etoricoxib, exemestane, exenatide, ezetimibe, factor viii concentrate, famotidine, fenofibrate, fexofenadine
finasteride, fingolimod, flecainide, flucloxacillin, flucytosine, fludarabine, flunarizine, fluocinolone
flupenthixol, fluphenazine, flutamide, fluvoxamine, fondaparinux, fosfomycin, fosphenytoin, fulvestrant
fusidic acid, galantamine, gemfibrozil, gentian violet, glatiramer, glipizide, glucagon, glyburide, glycopyrrolate
glycopyrronium, golimumab, granisetron, griseofulvin, guaifenesin, halothane, hydrocodone, hydromorphone
hydroxocobalamin, hydroxycarbamide, hydroxyprogesterone, hydroxyzine, hyoscine, hyoscyamine, ibrutinib
ibandronate, iloprost, imiglucerase, imipramine, imiquimod, indapamide, ipilimumab, irbesartan, iron sucrose
isavuconazole, isoflurane, isoprenaline, isoproterenol, isosorbide, isosorbide dinitrate, isosorbide mononitrate
ivabradine, ivacaftor, ixekizumab, ketoconazole, ketotifen, lacosamide, lapatinib, latanoprost, ledipasvir
leflunomide, lenvatinib, leucovorin, levocarnitine, levocetirizine, levomepromazine, levonorgestrel, levosimendan
linagliptin, liothyronine, liraglutide, lisinopril, lomustine, lopinavir, loratadine, losartan, lurasidone
magnesium oxide, maraviroc, meclizine, medroxyprogesterone, mefenamic acid, megestrol, meloxicam, memantine
meperidine, mepolizumab, mercaptopurine, 6-mercaptopurine, mesna, metaxalone, methamphetamine, methenamine
methocarbamol, methoxsalen, methylene blue, methylphenidate, metolazone, metoprolol, metyrapone, mexiletine
micafungin, miconazole, mifepristone, miglustat, miltefosine, minocycline, minoxidil, mitomycin, mitotane
mitoxantrone, modafinil, mometasone, nadolol, nadroparin, nafcillin, naltrexone, natalizumab, nebivolol, nelarabine
netilmicin, nevirapine, niacin, nicardipine, nicorandil, nilotinib, nimodipine, nimustine, nintedanib
nitazoxanide, nitric oxide, norethisterone, nystatin, obinutuzumab, ocrelizumab, ofloxacin, olaparib, omega-3
ornidazole, osimertinib, oxacillin, oxybutynin, oxymetazoline, palbociclib, paliperidone, palivizumab, pamidronate
pancuronium, papaverine, pazopanib, pegfilgrastim, peginterferon, pentamidine, pentoxifylline, perampanel
perindopril, pethidine, phenelzine, pheniramine, phenoxybenzamine, phentolamine, phenylephrine, phytonadione
pilocarpine, pimozide, pioglitazone, pirfenidone, piracetam, polymyxin b, ponatinib, posaconazole
potassium citrate, potassium iodide, prasugrel, prazosin, primidone, probenecid, procainamide, procarbazine
prochlorperazine, procyclidine, proguanil, promethazine, propafenone, propranolol, protamine
prothionamide, pseudoephedrine, psyllium, quinidine, raloxifene, raltegravir, ramelteon, ramipril, rasagiline
rasburicase, regorafenib, remdesivir, remifentanil, repaglinide, rifabutin, rifapentine, riluzole, risedronate
ritonavir, rivaroxaban, rivastigmine, rizatriptan, rocuronium, rosiglitazone, rosuvastatin, rufinamide
ruxolitinib, sacubitril, secukinumab, selegiline, sevelamer, sevoflurane, sildenafil, silver sulfadiazine
simeprevir, simethicone, sitagliptin, sodium chloride, solifenacin, sotalol, spiramycin, stavudine
sucralfate, succinylcholine, sufentanil, sugammadex, sulbactam, sulfadiazine, sulfadoxine, sulindac, sulodexide
suxamethonium, tadalafil, tamsulosin, tegafur, telmisartan, temazepam, tenecteplase, teriparatide, terbinafine
terbutaline, terlipressin, tetrabenazine, thiamazole, thioguanine, thiopental, tiagabine, ticlopidine
tinidazole, tirofiban, tizanidine, tofacitinib, tolterodine, tolvaptan, torsemide, trabectedin, trandolapril
tranylcypromine, trazodone, treprostinil, triamterene, trifluoperazine, trihexyphenidyl, trimetazidine
triptorelin, ustekinumab, valsartan, varenicline, vecuronium, vedolizumab, vemurafenib, venetoclax, vigabatrin
vilanterol, vildagliptin, vinflunine, vitamin a, vitamin b1, vitamin b6, vitamin c, vitamin e, vortioxetine
zanamivir, ziprasidone, zolmitriptan, zolpidem, zonisamide, zopiclone, statin, statins, diuretic, diuretics
beta-blocker, beta-blockers, ace inhibitor, opioid, opioids, nsaid, nsaids, multivitamin, tuberculosis treatment
antitubercular, antihistamine, antihistamines, antiepileptics, immunoglobulin, immunoglobulins, albumin infusion
fresh frozen plasma, packed red blood cells, oral contraceptive, oral contraceptives, proton pump inhibitor
""")

# Brand name -> the generic name that a chart would use.
BRANDS = {
    "tylenol": "acetaminophen", "panadol": "acetaminophen", "advil": "ibuprofen", "motrin": "ibuprofen",
    "aleve": "naproxen", "toradol": "ketorolac", "celebrex": "celecoxib", "coumadin": "warfarin",
    "lovenox": "enoxaparin", "clexane": "enoxaparin", "plavix": "clopidogrel", "brilinta": "ticagrelor",
    "eliquis": "apixaban", "xarelto": "rivaroxaban", "pradaxa": "dabigatran", "lasix": "furosemide",
    "aldactone": "spironolactone", "lipitor": "atorvastatin", "crestor": "rosuvastatin", "zocor": "simvastatin",
    "norvasc": "amlodipine", "lopressor": "metoprolol", "toprol": "metoprolol", "coreg": "carvedilol",
    "tenormin": "atenolol", "zestril": "lisinopril", "prinivil": "lisinopril", "vasotec": "enalapril",
    "cozaar": "losartan", "diovan": "valsartan", "cordarone": "amiodarone", "lanoxin": "digoxin",
    "glucophage": "metformin", "lantus": "insulin", "humalog": "insulin", "novolog": "insulin",
    "synthroid": "levothyroxine", "levothroid": "levothyroxine", "deltasone": "prednisone", "medrol":
    "methylprednisolone", "solu-medrol": "methylprednisolone", "decadron": "dexamethasone", "augmentin":
    "amoxicillin", "zosyn": "piperacillin", "rocephin": "ceftriaxone", "ancef": "cefazolin", "keflex": "cephalexin",
    "zithromax": "azithromycin", "cipro": "ciprofloxacin", "levaquin": "levofloxacin", "flagyl": "metronidazole",
    "bactrim": "co-trimoxazole", "septra": "co-trimoxazole", "diflucan": "fluconazole", "vfend": "voriconazole",
    "zovirax": "acyclovir", "valtrex": "valacyclovir", "tamiflu": "oseltamivir", "plaquenil": "hydroxychloroquine",
    "rituxan": "rituximab", "mabthera": "rituximab", "avastin": "bevacizumab", "herceptin": "trastuzumab",
    "gleevec": "imatinib", "glivec": "imatinib", "xeloda": "capecitabine", "taxol": "paclitaxel",
    "adriamycin": "doxorubicin", "navelbine": "vinorelbine", "remicade": "infliximab", "humira": "adalimumab",
    "enbrel": "etanercept", "actemra": "tocilizumab", "prograf": "tacrolimus", "neoral": "cyclosporine",
    "cellcept": "mycophenolate", "imuran": "azathioprine", "dilantin": "phenytoin", "tegretol": "carbamazepine",
    "depakote": "valproate", "depakene": "valproate", "keppra": "levetiracetam", "lamictal": "lamotrigine",
    "topamax": "topiramate", "neurontin": "gabapentin", "lyrica": "pregabalin", "ativan": "lorazepam",
    "valium": "diazepam", "xanax": "alprazolam", "klonopin": "clonazepam", "versed": "midazolam",
    "ambien": "zolpidem", "prozac": "fluoxetine", "zoloft": "sertraline", "celexa": "citalopram",
    "lexapro": "escitalopram", "paxil": "paroxetine", "effexor": "venlafaxine", "cymbalta": "duloxetine",
    "wellbutrin": "bupropion", "zyprexa": "olanzapine", "seroquel": "quetiapine", "risperdal": "risperidone",
    "abilify": "aripiprazole", "haldol": "haloperidol", "zofran": "ondansetron", "reglan": "metoclopramide",
    "phenergan": "promethazine", "prilosec": "omeprazole", "nexium": "esomeprazole", "protonix": "pantoprazole",
    "pepcid": "famotidine", "zantac": "ranitidine", "ventolin": "salbutamol", "singulair": "montelukast",
    "benadryl": "diphenhydramine", "claritin": "loratadine", "zyrtec": "cetirizine", "percocet": "oxycodone",
    "oxycontin": "oxycodone", "dilaudid": "hydromorphone", "demerol": "meperidine", "narcan": "naloxone",
    "zyloprim": "allopurinol", "fosamax": "alendronate", "viagra": "sildenafil", "flomax": "tamsulosin",
}  # fmt: skip
