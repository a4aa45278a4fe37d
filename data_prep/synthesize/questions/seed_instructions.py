"""Seed instructions by task: few-shot examples for a run that has no questions of its own yet.

They belong to no particular note, and show the variety of a task in targets, outputs and wording.
"""

SEED_INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "Named Entity Recognition": (
        "List every medication in the note together with its dose and route as written.",
        "Which imaging studies did this patient have? Name each one once.",
        "Pull out all signs and symptoms that were present on admission; leave out those that were denied.",
        "Find the organisms and the antibiotics mentioned in the hospital course and give them as two lists.",
        "Name all procedures and operations in the order in which the note mentions them.",
        "Extract the anatomical sites that were affected, with the side where one is given.",
    ),
    "Abbreviation Expansion": (
        "Write out what ESR and CRP stand for in the laboratory section.",
        "Which abbreviations does the past medical history use, and what is the long form of each?",
        "Give the full term for every acronym in the imaging findings.",
        "The exam says 'RUQ'. What does it mean here?",
        "Make a small glossary of the shortened terms in this note for a student on her first ward day.",
        "Spell out the abbreviated drug regimen that was started after the biopsy.",
    ),
    "Relation Extraction": (
        "For each drug that was given, say what it was given for.",
        "Which findings on CT led to the decision to operate?",
        "Match every laboratory test with its result and unit.",
        "What complication followed the procedure, and what was done about it?",
        "Connect each culture specimen with the organism that grew from it.",
        "Which of the listed symptoms improved after the change of treatment, and after which change?",
    ),
    "Temporal Information Extraction": (
        "How long had the symptoms lasted when the patient came in?",
        "Put the operations and admissions into chronological order with the time of each.",
        "On which postoperative day did the fever begin?",
        "For how many days or weeks was each antibiotic given?",
        "When was the last follow-up, counted from discharge, and what was found then?",
        "Draw up a timeline from first complaint to final outcome, one event a line.",
    ),
    "Coreference Resolution": (
        "In the operative findings, what does 'the mass' refer to?",
        "Who is meant by 'she' in the sentence about family history?",
        "The course says that 'this was stopped'. What was stopped?",
        "Gather all expressions in the note that refer to the lesion first seen on ultrasound.",
        "Does 'the second procedure' mean the drainage or the resection?",
        "To which earlier finding does 'these changes' in the MRI paragraph point back?",
    ),
    "Paraphrasing": (
        "Tell the hospital course in plain words that the patient's family would understand.",
        "Reword the history of present illness in full sentences, without abbreviations.",
        "Say the main imaging finding again for a colleague outside radiology.",
        "Turn the discharge medications into clear sentences for the patient.",
        "Restate the pathology result in one simple sentence and keep its meaning.",
        "Rewrite the physical examination in lay language, normal findings included.",
    ),
    "Summarization": (
        "Sum up the stay in three sentences for the family physician.",
        "Give a one-line summary: age, sex, main diagnosis, treatment, outcome.",
        "Condense the laboratory and imaging results to the abnormal ones.",
        "Write a handover of at most fifty words for the night team.",
        "What are the key points of the surgical course? Use bullet points.",
        "Summarize what was ruled out, and how.",
    ),
    "Question Answering": (
        "What was the final diagnosis, and which test confirmed it?",
        "Did the patient have any known allergies?",
        "Why was the first treatment abandoned?",
        "What was the blood pressure on arrival?",
        "Was the surgical margin free of tumor?",
        "What follow-up was arranged at discharge?",
    ),
}
