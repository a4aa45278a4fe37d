"""Units of measurement: a unit of the table below, or a quotient of several, as a dimension and a factor.

parse_unit("mg/dL") -> ("mass/volume", 0.01)          in grams per litre
"""

import re
from functools import lru_cache

# dimension -> (spellings without plural s, factor to the base unit of the dimension)
SPELLINGS: dict[str, tuple[tuple[str, float], ...]] = {
    "mass": (
        ("kg|kilogram|kilo", 1e3), ("g|gm|gr|grs|gram|gramme", 1.0), ("mg|milligram|milligramme", 1e-3),
        ("mcg|µg|μg|ug|microgram", 1e-6), ("ng|nanogram", 1e-9), ("pg|picogram", 1e-12), ("lb|pound", 453.592),
    ),
    "volume": (
        ("L|l|lt|lts|liter|litre|ℓ", 1.0), ("dL|dl|deciliter|decilitre", 0.1), 
        ("mL|ml|cc|milliliter|millilitre|cm3|cm³", 1e-3),
        ("µL|μL|uL|µl|μl|ul|mm3|mm³|mm\\^3|mm(3)|cmm|microliter|microlitre|cu mm|cubic millimeter"
         "|cubic millimetre", 1e-6),
        ("fL|fl|femtoliter", 1e-15),
    ),
    "length": (
        ("m|meter|metre", 1.0), ("cm|centimeter|centimetre", 1e-2), ("mm|millimeter|millimetre", 1e-3),
        ("µm|μm|micrometer|micron", 1e-6), ("inch|inches", 0.0254), ("feet|ft", 0.3048), ("km", 1e3),
    ),
    "area": (("m2|m²|square meter|square metre", 1.0), ("cm2|cm²", 1e-4), ("mm2|mm²", 1e-6)),
    "amount": (
        ("mol|mole", 1.0), ("mmol|millimole|mM", 1e-3), ("µmol|μmol|umol|mcmol|micromole", 1e-6), ("nmol|nM", 1e-9),
        ("pmol", 1e-12),
    ),
    "charge": (("Eq", 1.0), ("mEq|meq|milliequivalent", 1e-3)),
    "activity": (
        ("IU|iu|U|u|unit|international unit|UI", 1.0), ("mIU|mU", 1e-3), ("µIU|μIU|uIU|µU|μU|uU", 1e-6), ("kU", 1e3),
        ("MU|MIU|million unit", 1e6),
    ),
    "pressure": (("mmHg|mm Hg|mm hg|mmhg|mm of mercury|mm of Hg|millimeter of mercury|millimetre of mercury|torr",
    1.0), ("cmH2O|cm H2O|cm of water", 0.73556), ("kPa", 7.50062)),
    "percent": (("%|percent|per cent", 1.0),),
    "radiation": (("Gy|gray", 1.0), ("cGy|rad", 1e-2)),
    "radioactivity": (("MBq", 1.0), ("mCi", 37.0), ("GBq", 1e3)),
    "energy": (("kcal|kilocalorie", 1.0), ("J|joule", 2.39e-4)),
    "frequency": (("Hz|hertz", 1.0), ("MHz", 1e6), ("kHz", 1e3)),
    "sound": (("dB|decibel", 1.0),),
    "osmoles": (("mOsm|mosm", 1.0),),
    "size": (("Fr|French|french", 1.0),),
    "lens": (("diopter|dioptre", 1.0),),
    "time": (("s|sec|second", 1.0), ("min|minute", 60.0), ("h|hr|hour", 3600.0), ("day|d|24 h|24 hours|24h", 86400.0),
    ("week|wk", 604800.0), ("month", 2629800.0), ("year|yr", 31557600.0)),
    "field": (("HPF|hpf|high power field|high-power field", 1.0),),
    # Counted things have no dimension.
    "": (("beat|breath|cell|copies|leukocyte|bpm", 1.0),),
}  # fmt: skip
SHORT_WITH_PLURAL = frozenset(
    ("lb", "sec", "min", "hr", "wk", "yr", "gm", "cc", "day", "U", "rad", "mg", "ml", "mL", "kg", "cm", "mm")
)


def takes_plural(name: str) -> bool:
    is_word = len(name) > 3 and name[-1].isalpha() and name.islower() and name[-1] != "s"
    return is_word or name in SHORT_WITH_PLURAL


def _units_by_name() -> dict[str, tuple[tuple[str, ...], float]]:
    """A dictionary of every spelling, singular and plural, to its dimensions and factor."""
    units: dict[str, tuple[tuple[str, ...], float]] = {}
    for dimension, spellings in SPELLINGS.items():
        for names, factor in spellings:
            unit = ((dimension,) if dimension else (), factor)
            for name in names.split("|"):
                units[name.replace("\\^", "^")] = unit
                if takes_plural(name):
                    units[name + "s"] = unit
    return units


BASE = _units_by_name()
# Longest first, so that a name never matches only the beginning of a longer one.
NAMES = "|".join(sorted(map(re.escape, BASE), key=len, reverse=True))
TEMPERATURE = r"(?:°\s?[CF]|º\s?[CF]|℃|℉|degrees? (?:Celsius|Fahrenheit|C|F|centigrade)|C(?![\w-])|F(?![\w-]))"
# A lost superscript: "50 mg/m 2", "430/mm 3".
SPACED = {"m 2": "m2", "mm 3": "mm3", "cm 2": "cm2"}
BASE |= {spaced: BASE[name] for spaced, name in SPACED.items()}
# "beats·min(-1)", "mL kg⁻¹"
TO_MINUS_ONE = r"(?:\s?\(\s?[-−–]\s?1\s?\)|⁻¹|\s?\^\s?[-−–]1|[-−–]1(?![\d.]))"
INVERSE = re.compile(rf"[\s·⋅.∙]\s?([A-Za-zµμ]+){TO_MINUS_ONE}")
DENOMINATOR = (
    rf"(?:[\s·⋅.∙]\s?(?:{NAMES}){TO_MINUS_ONE}"
    rf"|(?:\s?/\s?|\s(?:per|a)\s(?:100 )?)(?:{'|'.join(SPACED)}|{NAMES})(?![A-Za-z0-9]))"
)
# A quotient may begin with its slash: "70/min", "12,000/mm3".
UNIT = re.compile(
    rf"(?:\s?(?P<count>[GT]/[Ll])(?![A-Za-z])|\s?-?(?P<temperature>{TEMPERATURE})|\s?-?(?P<first>{NAMES})(?![A-Za-z])(?P<rest>(?:{DENOMINATOR}){{0,3}})"
    rf"|(?P<bare>(?:\s?/\s?|\sper\s)(?:{'|'.join(SPACED)}|{NAMES})(?![A-Za-z0-9])(?:{DENOMINATOR}){{0,2}}))"
)
# Giga and tera per litre, of cells. A capital G by itself is often a gram.
CELLS = {"G/L": 1e9, "G/l": 1e9, "T/L": 1e12, "T/l": 1e12}
PART = re.compile(r"\s?/\s?|(?:^|\s)(?:per|a)\s(?:100 )?")


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> tuple[str, float] | None:
    """The dimension and the factor of "mg/kg/day", "beats per minute" or "/mm3"; None if it is not a unit."""
    if text.strip() in CELLS:
        return "1/volume", CELLS[text.strip()]
    numerator: list[str] = []
    denominator: list[str] = []
    factor = 1.0
    text = INVERSE.sub(r"/\1", text.replace("per cent", "percent"))  # a name, and no quotient
    for index, split_name in enumerate(PART.split(text.strip().strip("-"))):
        name = split_name.strip()
        if not name and index == 0:
            continue
        if name not in BASE:
            return None
        dimensions, scale = BASE[name]
        factor = factor * scale if index == 0 else factor / scale
        (numerator if index == 0 else denominator).extend(dimensions)
    # "bpm" is a rate without a slash.
    if text.strip().lower() == "bpm":
        denominator, factor = ["time"], 1 / 60
    top = "".join(numerator)
    return "/".join([top or "1", *sorted(denominator)]) if denominator else top, factor
