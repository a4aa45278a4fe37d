"""The dimensions of a statement: sets of values that exclude one another, with the words that say them.

A new dimension is a row. `words` may contain phrases; "*" at the end of a word stands for any ending.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimension:
    """`binary`: "not X" says the other value. `beside`: the value qualifies the words next to it, as an adjective does.

    `apart`: the values are compared only where the text copies a sentence of the source, because the same words also
    say other things.
    """

    values: dict[str, str]
    binary: bool = False
    beside: bool = False
    apart: bool = False


DIMENSIONS: dict[str, Dimension] = {
    # ---------------------------------------------------------------- change
    "trend": Dimension({
        "up": "increase, increased, increasing, increases, rose, rise, risen, rising, rises, climbed, climbing, climb,"
              " went up, escalated, escalating, surged, soared, doubled, tripled, uptrending, uptrend, trended up,"
              " trending up, ↑, heightened, augmented, elevation of, grew, grown larger, enlarged further,"
              " increment, jumped, mounted, up to, shot up, growing, expanded, lengthened,"
              " gained, gain, gaining, accelerated, intensified, up-titrated, uptitrated, titrated up",
        "down": "decrease, decreased, decreasing, decreases, fell, fall in, fallen, falling, falls to, dropped, drop,"
                " dropping, drops, declined, decline, declining, declines, reduced, reduction, reducing, lowered,"
                " came down, went down, diminished, diminishing, lessened, downtrending, downtrend, trended down,"
                " trending down, ↓, shrank, shrunk, shrunken, shrinking, shrinkage, halved, plummeted, sank,"
                " dwindled, tapered, slowed, plunged,"
                " down-titrated, downtitrated, titrated down, de-escalated, waned",
        "same": "unchanged, remained stable, stayed stable, stable, static, constant, remained the same, no change,"
                " without change, did not change, not changed, remained unchanged, plateaued, steady",
    }),
    "course": Dimension({
        "better": "improved, improving, improves, improvement, better, recovered, recovering, recovery, resolved,"
                  " resolving, resolution, resolves, subsided, subsiding, abated, relieved, relief, alleviated, eased,"
                  " ameliorated, regressed, regression, regressing, remitted, remission, cleared, healed, healing,"
                  " settled, disappeared, disappearance, normalized, normalised, vanished, responded, ceased,"
                  " got better, went away, receded, quiesced, relieves, faded",
        "worse": "worsened, worsening, worse, worsens, deteriorated, deteriorating, deterioration, aggravated,"
                 " aggravation, exacerbated, exacerbation, progressed, progressing, progression, relapsed, relapse,"
                 " recurred, recurrence, recurring, got worse, degraded, advanced, persisted, persisting,"
                 " decompensated, declined clinically, aggravates, went downhill, spread, flared, reappeared",
        "same": "unchanged, no change, without change, remained stable, no improvement, failed to improve",
    }),
    # ---------------------------------------------------------------- how much
    "severity": Dimension({
        "mild": "mild, mildly, slight, slightly, minor, minimal, minimally, trivial, trace, discrete, faint, low-grade,"
                " subtle, light, negligible, mildest, tiny, modest, little",
        "moderate": "moderate, moderately",
        "severe": "severe, severely, marked, markedly, massive, massively, profound, profoundly, intense, intensely,"
                  " excruciating, gross, grossly, major, extreme, extremely, profuse, profusely, high-grade, heavy,"
                  " serious, seriously, considerable, considerably, pronounced, prominent, striking, critical, torrential,"
                  " substantial, substantially, significant, significantly, extensive, extensively, strong, violent,"
                  " unbearable, severity, huge, large, great, dramatic, dramatically, florid, abundant, copious",
    }, beside=True),
    "level": Dimension({
        "high": "elevated, raised, high, hyper*, above normal, supranormal, increased level*, ↑, excessive, elevation",
        "low": "low, decreased level*, below normal, subnormal, diminished level*, depressed, depleted, deficient",
        "normal": "normal, within normal limits, wnl, within the normal range, within normal range, in the normal range,"
                  " within the reference range, within reference limits, normalized, unremarkable, normally",
    }, beside=True),
    "normality": Dimension({
        "normal": "normal, normally, unremarkable, within normal limits, wnl, within the normal range, within normal"
                  " range, in the normal range, normality, non-contributory, noncontributory, unimpaired, intact,"
                  " preserved, physiological, physiologic, nad, no abnormality, no abnormalities, nothing abnormal,"
                  " without abnormality, without abnormalities, uneventful, uncomplicated, healthy",
        "abnormal": "abnormal, abnormally, abnormality, abnormalities, pathological, pathologic, impaired, impairment,"
                    " deranged, disturbed, anomalous, anomaly, remarkable, altered, compromised, defective, complicated,"
                    " diseased, dysfunctional, absent",
    }, binary=True),
    # ---------------------------------------------------------------- results
    "result": Dimension({
        "positive": "positive, pos, positively, positivity, reactive, seropositive, +ve, (+), +, grew, grown, growth of, yielded,"
                    " detectable, isolated, tested positive, was detected, were detected",
        "negative": "negative, neg, free of, negatively, negativity, nonreactive, non-reactive, seronegative, -ve, (-), sterile,"
                    " no growth, undetectable, no organism*, did not grow, failed to grow, no pathogen*, without growth,"
                    " grew nothing, no bacterial growth, not detected",
    }, binary=True),
    # ---------------------------------------------------------------- treatment
    "given": Dimension({
        "on": "started, start, starting, initiated, initiation, initiating, commenced, commencing, commencement, began,"
              " begun, introduced, introduction, resumed, resuming, restarted, reinitiated,"
              " re-started, reintroduced, continued, continuing, continue, continuation, added, instituted, institution,"
              " put on, placed on, kept on, maintained, maintained on, launched, administered, prescribed, went on",
        "off": "stopped, stopping, stop, discontinued, discontinuation, discontinuing, ceased, cessation, withheld,"
               " withhold, withholding, held, hold, withdrawn, withdrawal, withdrew, suspended, suspension, interrupted,"
               " interruption, halted, terminated, omitted, paused, came off, taken off, weaned off, removed from,"
               " dropped, discarded, abandoned, switched off, d/c'd, dc'd, tapered off, quit",
    }, binary=True),
    "done": Dimension({
        "yes": "performed, performing, underwent, undergoes, undergone, undergo, done, carried out, conducted,"
               " undertaken, completed, accomplished, executed",
        "no": "refused, refuses, refusal, refusing, rejected, cancelled, canceled, cancellation, postponed, deferred,"
              " aborted, not performed, not done, never performed, never done, forgone, foregone, contraindicated",
    }, binary=True),
    "execution": Dimension({
        "yes": "performed, performing, underwent, undergoes, undergone, undergo, done, carried out, conducted,"
               " undertaken, completed, accomplished, executed, obtained, taken, took, received, accepted, agreed,"
               " consented, achieved, successful, successfully, proceeded, administered, given, made, placed, used",
        "no": "refused, refuses, refusal, refusing, declined, declines, declining, rejected, cancelled, canceled,"
              " cancellation, postponed, deferred, abandoned, aborted, planned, scheduled, recommended, advised, offered,"
              " proposed, considered, awaited, awaiting, not performed, not done, never performed, never done, failed,"
              " unsuccessful, unsuccessfully, omitted, forgone, foregone, contraindicated, skipped, suggested, pending,"
              " withheld, avoided",
    }, binary=True, apart=True),
    "route": Dimension({
        "iv": "intravenous, intravenously, iv, i.v., endovenous, parenteral, parenterally",
        "oral": "oral, orally, po, p.o., by mouth, per os, peroral, perorally, tablet, tablets, enteral, enterally",
        "im": "intramuscular, intramuscularly, im, i.m.", "sc": "subcutaneous, subcutaneously, sc, s.c., subcut, sq",
        "topical": "topical, topically, ointment, cream, eye drops, transdermal, transdermally, cutaneously",
        "inhaled": "inhaled, inhalation, nebulized, nebulised, inhaler, nebulizer, nebuliser, nebulization",
        "rectal": "rectally, per rectum, suppository, suppositories, enema", "nasal": "intranasal, intranasally, nasally",
        "sublingual": "sublingual, sublingually, buccal", "intrathecal": "intrathecal, intrathecally",
        "intravitreal": "intravitreal, intravitreally", "intra-arterial": "intra-arterial, intraarterial",
        "intralesional": "intralesional, intralesionally", "intraperitoneal": "intraperitoneal, intraperitoneally",
        "vaginal": "intravaginal, vaginally", "epidural": "epidural, epidurally",
    }),
    # ---------------------------------------------------------------- time
    "order": Dimension({
        "before": "before, prior to, preceding, preceded, precedes, earlier, previously, ago, preoperative,"
                  " preoperatively, preop, pre-operative, pre-operatively, until, beforehand, previous, antecedent,"
                  " ahead of, leading up to, pretreatment, pre-treatment",
        "after": "after, following, followed, later, subsequently, subsequent, postoperative, postoperatively, postop,"
                 " post-operative, post-operatively, thereafter, afterwards, afterward, since, upon, succeeding,"
                 " post, posttreatment, post-treatment, then, next",
        "during": "during, while, simultaneously, concurrently, concomitantly, intraoperative, intraoperatively,"
                  " intra-operative, at the same time, amid",
    }, apart=True),
    "occasion": Dimension({
        "start": "at admission, on admission, upon admission, at presentation, on presentation, on arrival, at arrival,"
                 " initially, initial, at baseline, baseline, at onset, at diagnosis, at birth, at first, admitted,"
                 " admission, preoperative, preoperatively, before surgery, before treatment, pretreatment, first",
        "end": "at discharge, on discharge, upon discharge, before discharge, discharge, discharged, at follow-up,"
               " on follow-up, at follow up, finally, final, eventually, at the last visit, last, postoperative,"
               " postoperatively, after surgery, after treatment, at autopsy, ultimately",
    }, apart=True),
    # ---------------------------------------------------------------- outcome and state
    "outcome": Dimension({
        "dead": "died, dead, death, dies, deceased, expired, passed away, succumbed, fatal, fatally, demise, lethal,"
                " dying, mortality, killed, did not survive, autopsy",
        "alive": "survived, survives, survivor, alive, recovered, recovery, recovers, discharged, discharge, living,"
                 " doing well, is well, was well, remained well, asymptomatic, cured, returned home, uneventful recovery,"
                 " symptom-free, disease-free, saved, resuscitated, healthy, sent home, went home, left the hospital,"
                 " lived, pulled through, released",
    }),
    "airway": Dimension({"in": "intubated, intubation, remained intubated", "out": "extubated, extubation, detubated"}),
    "place": Dimension({
        "home": "home, outpatient, discharged home, ambulatory", "ward": "ward, general ward, regular ward, step-down",
        "icu": "icu, intensive care, intensive care unit, critical care, high dependency unit",
        "hospice": "hospice, palliative care unit, nursing home, rehabilitation center, rehabilitation centre",
    }, apart=True),
    "certainty": Dimension({
        "certain": "confirmed, confirms, confirming, confirmation, proven, proved, diagnosed, definite, definitive,"
                   " definitively, established, diagnostic, verified, pathognomonic, certain, unequivocal, documented,"
                   " confirmatory, ascertained, clearly, proving, proves, prove, demonstrating, establishing, establishes,"
                   " undoubtedly, certainly, obviously, evidently, surely",
        "uncertain": "suspected, suspicious, suspicion, suspect, possible, possibly, probable, probably, likely, presumed,"
                     " presumptive, presumably, may, might, could, questionable, equivocal, suggestive, suggested,"
                     " suggesting, suggests, considered, thought, believed, felt, assumed, apparent, apparently, seems,"
                     " seemed, appears, appeared, potential, potentially, provisional, tentative, unclear, doubtful,"
                     " uncertain, inconclusive, perhaps, maybe, query, conceivable, conceivably, postulated, speculated",
        "excluded": "excluded, ruled out, excludes, excluding, exclusion, rules out",
    }, apart=True),
    "relative": Dimension({
        "mother": "mother, maternal, mom", "father": "father, paternal, dad", "parents": "parents, parent",
        "brother": "brother, brothers", "sister": "sister, sisters", "siblings": "siblings, sibling",
        "son": "son, sons", "daughter": "daughter, daughters", "child": "child, children",
        "aunt": "aunt, aunts", "uncle": "uncle, uncles", "cousin": "cousin, cousins",
        "grandmother": "grandmother, grandmothers", "grandfather": "grandfather, grandfathers",
        "spouse": "husband, wife, spouse, partner", "patient": "patient, proband", "donor": "donor", "recipient": "recipient",
        "newborn": "newborn, neonate, infant, baby, fetus, foetus",
    }, apart=True),
    "sex": Dimension({
        "female": "woman, female, girl, lady, she, her, hers, herself, women, females, girls, madam, actress",
        "male": "man, male, boy, gentleman, he, his, him, himself, men, males, boys, sir",
    }, apart=True),
    "success": Dimension({
        "good": "uneventful, uneventfully, unremarkable, favorable, favourable, favorably, smooth, smoothly, uncomplicated,"
                " asymptomatic, satisfactory, satisfactorily, good, excellent, well, successful, successfully, benign,"
                " effective, recovered completely, promising, encouraging, reassuring, adequate, adequately",
        "bad": "eventful, unfavorable, unfavourable, stormy, complicated, symptomatic, unsatisfactory, poor, poorly, bad,"
               " badly, guarded, unsuccessful, unsuccessfully, ineffective, did not recover, dismal, turbulent, difficult,"
               " rocky, disappointing, worrying, inadequate, inadequately, failed, prolonged",
    }, binary=True, apart=True),
    "growth": Dimension({
        "larger": "enlarged, enlarging, expanded, bigger, larger, grew, grown, longer, higher, greater, wider, deeper,"
                  " thicker, heavier, more, upward, gained, gain, elevated, raised, increased, hyper",
        "smaller": "shrank, shrunk, shrunken, contracted, smaller, shorter, lower, lesser, narrower, shallower, thinner,"
                   " lighter, less, fewer, downward, lost, loss, lowered, reduced, decreased, receded, withered, low",
    }, apart=True),
    "within": Dimension({"inside": "within, inside, in", "outside": "outside, beyond, out of, outside of"}, apart=True),
    "comparison": Dimension({"above": "above, over, more than, greater than, exceeding, at least, >, ≥",
                             "below": "below, under, less than, fewer than, at most, <, ≤"}, apart=True),
    "rank": Dimension({"first": "first, 1st, initial, initially", "second": "second, 2nd", "third": "third, 3rd",
                       "fourth": "fourth", "last": "last, final, latest"}, apart=True),
    "presence": Dimension({"present": "present, presence, existed", "absent": "absent, absence, missing, lacked"},
                          apart=True),
    "quantity": Dimension({"all": "all, every, each, both, always", "some": "some, few, several, sometimes, occasionally,"
                           " rarely", "most": "most, mostly, usually, often, frequently", "none": "none, neither, never"},
                          apart=True),
    # ---------------------------------------------------------------- pairs of opposites
    "acuity": Dimension({"acute": "acute, acutely, hyperacute", "subacute": "subacute", "chronic": "chronic, chronically,"
                         " long-standing, longstanding"}, beside=True),
    "onset": Dimension({"sudden": "sudden, suddenly, abrupt, abruptly, rapid, rapidly, quickly, fulminant",
                        "gradual": "gradual, gradually, insidious, insidiously, slow, slowly, slowly progressive"}),
    "persistence": Dimension({
        "constant": "constant, constantly, continuous, continuously, persistent, permanent, permanently, sustained,"
                    " uninterrupted, incessant, unremitting",
        "passing": "intermittent, intermittently, transient, transiently, occasional, occasionally, episodic, temporary,"
                   " temporarily, paroxysmal, sporadic, periodic, fluctuating, brief, briefly, fleeting",
    }, beside=True),
    "number": Dimension({"one": "single, solitary, sole, unifocal, isolated", "many": "multiple, several, numerous, many,"
                         " multifocal, various, scattered"}, beside=True),
    "nature": Dimension({"benign": "benign, nonmalignant, non-malignant, noncancerous", "malignant": "malignant,"
                         " cancerous"}, beside=True),
    "origin": Dimension({"primary": "primary, primarily", "secondary": "secondary, secondarily, metastatic"}, apart=True),
    "extent": Dimension({"complete": "complete, completely, total, totally, full, fully, entire, entirely, whole",
                         "partial": "partial, partially, incomplete, incompletely, subtotal, partly, limited"}, apart=True),
    "spread": Dimension({"diffuse": "diffuse, diffusely, generalized, generalised, widespread, disseminated",
                         "local": "localized, localised, focal, focally, circumscribed, local, locally, confined"},
                        beside=True),
    "approach": Dimension({"open": "open, laparotomy, thoracotomy", "closed": "laparoscopic, laparoscopically,"
                           " laparoscopy, thoracoscopic, endoscopic, endoscopically, robotic, percutaneous,"
                           " percutaneously, closed"}, apart=True),
    "urgency": Dimension({"urgent": "emergency, emergent, emergently, urgent, urgently, immediate, immediately",
                          "elective": "elective, electively, delayed"}, apart=True),
    "consciousness": Dimension({
        "awake": "conscious, alert, awake, oriented, responsive, lucid",
        "not": "unconscious, comatose, unresponsive, drowsy, lethargic, obtunded, stuporous, somnolent, disoriented,"
               " confused, coma",
    }, binary=True),
    "stability": Dimension({"stable": "hemodynamically stable, haemodynamically stable", "unstable": "unstable,"
                            " hemodynamically unstable, haemodynamically unstable, instability"}, binary=True),
    "tenderness": Dimension({"tender": "tender, tenderness, painful", "not": "nontender, non-tender, painless"},
                            binary=True),
    "consistency": Dimension({"soft": "soft", "firm": "firm, hard, indurated, rigid"}, beside=True),
    "regularity": Dimension({"regular": "regular, well-defined, well-circumscribed, smooth", "irregular": "irregular,"
                             " ill-defined, poorly defined, irregularly"}, beside=True),
    "density": Dimension({
        "low": "hypodense, hypodensity, hypoattenuating, hypointense, hypointensity, hypoechoic, hypometabolic, radiolucent",
        "same": "isodense, isointense, isoechoic",
        "high": "hyperdense, hyperdensity, hyperattenuating, hyperintense, hyperintensity, hyperechoic, hypermetabolic,"
                " radiopaque",
    }),
    "size": Dimension({"small": "small, smaller, tiny", "large": "large, larger, big, bulky, giant, huge, enlarged"},
                      beside=True),
    "cough": Dimension({"productive": "productive, wet", "dry": "nonproductive, non-productive, dry"}, beside=True),
    "phase": Dimension({"systolic": "systolic, systole", "diastolic": "diastolic, diastole"}, beside=True),
    "position": Dimension({"central": "central, centrally", "peripheral": "peripheral, peripherally"}, beside=True),
    "symmetry": Dimension({"symmetric": "symmetric, symmetrical, symmetrically", "asymmetric": "asymmetric,"
                           " asymmetrical, asymmetrically"}, binary=True),
    "habit": Dimension({"does": "smoker, smokes, drinker, smoked, current smoker", "not": "nonsmoker, non-smoker,"
                        " never-smoker, teetotaler, teetotaller, ex-smoker"}, binary=True),
    "timing": Dimension({"early": "early, premature, prematurely", "late": "late, delayed, delay"}, apart=True),
    "fasting": Dimension({"fasting": "fasting, preprandial", "fed": "postprandial, nonfasting, non-fasting"}),
    "depth": Dimension({"superficial": "superficial, shallow", "deep": "deep, deeply"}, beside=True),
    "pupils": Dimension({"wide": "dilated, mydriatic, dilatation, dilation", "narrow": "constricted, miotic, narrowed"},
                        beside=True),
    "vital": Dimension({"fast": "tachycardia, tachycardic, tachypnea, tachypneic", "slow": "bradycardia, bradycardic,"
                        " bradypnea"}),
    "tone": Dimension({"up": "hypertonia, hypertonic, hyperreflexia, spastic, spasticity, brisk, exaggerated",
                       "down": "hypotonia, hypotonic, hyporeflexia, flaccid, areflexia, sluggish, absent"}),
    "differentiation": Dimension({"well": "well-differentiated, well differentiated, low-grade",
                                  "poor": "poorly differentiated, poorly-differentiated, undifferentiated, anaplastic,"
                                  " high-grade"}),
    "dose size": Dimension({"low": "low-dose, low dose, low doses", "high": "high-dose, high dose, high doses"}),
}  # fmt: skip
