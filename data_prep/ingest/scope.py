"""Texts that the rules of this package cannot read: those in another language, and those about an animal.

A case report in Spanish would pass every rule that finds nothing in it, and a dog's doses are no patient's.
"""

import re

from data_prep.clinical_text.words import word_set

# Words of grammar, about a third of any text. No list holds a word of the other.
ENGLISH = word_set("""
the of and to in with was for on at is were by from that had as an be which after this are or not without his her he
she who it no has been there she did due than then showed revealed normal history patient
""")
# Spanish, Portuguese, French, Italian; German, Dutch, Danish, Swedish; Polish, Czech; Turkish, Indonesian.
FOREIGN = word_set("""
de la el los las del que en con una por para se fue su al lo como más le est les des un une du dans pour avec sur au
qui pas sont été il et di che per della non si nel alla è con da do em um uma não os dos na ao foi com
der die das und mit von den dem ein eine einer nicht wurde bei nach zu auf ist im für sich het een van op te voor met
niet werd og af til på ikke som och att det av för med ej var
w z na nie się przez oraz jest po od do u se je že byla ve bir bu ile için olarak dan yang pada dengan untuk
""") - {"do", "on", "die", "se", "was", "per", "von", "var", "w", "z", "u", "com", "na"}
WORD = re.compile(r"[^\W\d_]+")
LEAST_FOREIGN = 4  # words; fewer may be a quotation
OTHER_SCRIPT = re.compile(r"[\u0370-\u1dff\u2c00-\ud7ff\uf900-\ufdff\ufe70-\ufefc]")
ACCENTED = re.compile(r"[À-ÖØ-öø-ʯ]")

SPECIES = (
    r"dogs?|bitch|pupp(?:y|ies)|cats?|kittens?|horses?|mares?|geldings?|stallions?|foals?|fill(?:y|ies)|colts?|pon(?:y|ies)"
    r"|donkeys?|cows?|heifers?|bulls?|steers?|goats?|sheep|ewes?|lambs?|pigs?|sows?|piglets?|alpacas?|llamas?|camels?"
    r"|rabbits?|ferrets?|hamsters?|parrots?|cockatoos?|macaws?|tortoises?|turtles?|macaques?|chimpanzees?"
    r"|retrievers?|shepherd|terriers?|poodles?|dachshunds?|bulldogs?|spaniels?|beagles?|collies?|short-?hair(?:ed)?"
    r"|thoroughbreds?|warmbloods?|holsteins?"
)
HUMAN = (
    r"man|men|woman|women|boys?|girls?|lad(?:y|ies)|gentlem[ae]n|husband|wife|mother|father|child|children|sons?|daughters?"
    r"|infants?|newborns?|neonates?|baby|farmer|veterinarian|worker|student|smoker|Mr|Mrs|Ms"
)
AGE = (
    r"\b(?:\d+(?:\.\d+)?|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)[ -]"
    r"(?:years?|months?|weeks?|days?)[ -]old\b"
)
# Adjectives and breeds may stand between age and species; "a boy who was bitten by a dog" holds other words.
BETWEEN = r"(?:[ ,]+(?!(?:by|with|who|whose|was|the|a|an|of|from|after|in|and [a-z]+ (?:a|the))\b)[\w/-]+){0,7}?[ ,]+"
FOLLOWS = (
    r"(?=\s*[,.;:(]|\s+(?:was|were|with|present\w+|who|had|has|is|that|which|weighing|of|from|in|and|show\w+|develop\w+|under\w+"
    r"|suffer\w+|died|owned|belonging|housed|kept|referred|admitted|for|after|exhibit\w+|being|affected|diagnosed)\b)"
)
ANIMAL_OF_AGE = re.compile(rf"{AGE}{BETWEEN}(?:{SPECIES})\b{FOLLOWS}", re.IGNORECASE)
HUMAN_OF_AGE = re.compile(rf"{AGE}[^.;]{{0,60}}?\b(?:{HUMAN}|patient)\b", re.IGNORECASE)
# Animals that are not there themselves: "cow's milk", "sheep blood agar", "a dog bite", "animal studies".
ANIMALS = re.compile(
    rf"(?<![\w-])(?:{SPECIES}|animals?)(?![\w-]|['’]s|\s+(?:blood|milk|bites?|scratch\w*|ser(?:um|a)|anti\w+|dander|hair|meat"
    r"|farm\w*|rid\w+|epitheli\w+|model\w*|stud\w+|experiment\w*|contacts?|exposure|allerg\w+|food|product\w*)\b)",
    re.IGNORECASE,
)
HUMANS = re.compile(rf"(?<![\w-])(?:{HUMAN})(?![\w-])")
THE_ANIMAL = re.compile(r"\bthe animal(?: was| had| showed| presented| developed| experienced| died)\b", re.IGNORECASE)
PATIENT = re.compile(r"\bpatients?\b", re.IGNORECASE)
FEWEST_MENTIONS = 3


def foreign(text: str) -> str:
    """The evidence that a text is not English, or ""."""
    words = [word.lower() for word in WORD.findall(text)]
    letters = sum(map(len, words))
    others = len(OTHER_SCRIPT.findall(text))
    if others > 0.3 * letters:
        return f"{others} of its {letters} letters are of another script"
    ours = sum(word in ENGLISH for word in words)
    theirs = sum(word in FOREIGN for word in words)
    if theirs > max(ours, LEAST_FOREIGN - 1):
        return f"{theirs} of its {len(words)} words are those of other languages, and {ours} are English ones"
    if len(words) >= 20 and ours < 0.03 * len(words) and len(ACCENTED.findall(text)) > 0.01 * letters:
        return f"{ours} of its {len(words)} words are common English ones"
    return ""


def animal(text: str) -> str:
    """The evidence that the patient of a text is an animal, or ""."""
    if HUMAN_OF_AGE.search(text):
        return ""
    animals, humans = len(ANIMALS.findall(text)), len(HUMANS.findall(text))
    found = ANIMAL_OF_AGE.search(text)
    if found and animals > humans:
        return repr(" ".join(found[0].split()))
    if animals >= FEWEST_MENTIONS and not humans and animals > len(PATIENT.findall(text)):
        return f"{animals} words for animals and none for people"
    subject = THE_ANIMAL.search(text)
    if subject and not humans and not PATIENT.search(text):
        return repr(" ".join(subject[0].split()))
    return ""


def out_of_scope(text: str) -> tuple[str, str] | None:
    """The reason to reject a text, `language` or `animal`, with the evidence; None if it is in scope."""
    if evidence := foreign(text):
        return "language", evidence
    if evidence := animal(text):
        return "animal", evidence
    return None
