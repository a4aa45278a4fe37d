"""Normal forms of words for comparison, equal for the plural, the British spelling and the possessive.

    stem("haemorrhages") == stem("hemorrhage")        stem("metastases") == stem("metastasis")

Also the parsers of this package's word tables.
"""

import re
from functools import lru_cache

TOKEN = re.compile(r"[A-Za-zÀ-ÿα-ωµ]+(?:['’][A-Za-z]+)?|\d+(?:\.\d+)?")
# Thai, Lao, Myanmar, Khmer, kana and Han, which have no spaces between words. The inside of a character class.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
BRITISH = (("ae", "e"), ("oe", "e"), ("our", "or"), ("isation", "ization"), ("litre", "liter"), ("metre", "meter"))
KEPT = frozenset(("foetor", "does", "shoe", "toe", "toes", "four", "hour", "hours", "poem", "aerobic"))


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that state no fact by themselves.
EMPTY = word_set("""
a an the of in on at to for from by with without and or but as is was were are be been being had has have having he
she his her him hers they their them it its this that these those who which whom whose there then than so not no nor
also did do does done after before during while when upon into onto over under between about per patient patients
showed shown show revealed reveal noted seen found given case report year years old month months week weeks day days
hour hours mg ml cm mm kg g dl mmhg one two three four five six seven eight nine ten eleven twelve i we our us you
your all any some each other both due because
""")


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The normal form of a word, for comparison."""
    word = word.lower().replace("’", "'").removesuffix("'s").rstrip("'")
    if len(word) < 4:
        return word
    if word not in KEPT:
        for british, american in BRITISH:
            word = word.replace(british, american)
    return singular(word)


def singular(word: str) -> str:
    if word.endswith(("ss", "us", "is", "ous")):
        return word
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    if word.endswith(("yses", "oses", "ases", "eses")) and word not in ("diseases", "doses", "cases", "increases"):
        return word[:-2] + "is"
    if word.endswith(("xes", "ches", "shes", "sses", "uses")):
        return word[:-2]
    if word.endswith("s"):
        return word[:-1]
    return word


@lru_cache(maxsize=16384)
def bag(sentence: str) -> frozenset[str]:
    """The words of a sentence in lower case: one look at them may save many searches by pattern."""
    return frozenset(TOKEN.findall(sentence.lower()))


def stems(text: str) -> list[str]:
    return [stem(token) for token in TOKEN.findall(text)]
