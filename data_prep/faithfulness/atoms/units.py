"""Units of measurement: any product and quotient of the ones below, as a dimension and a factor.

parse_unit("mg/dL") -> ("mass/volume", 0.01)          in grams per litre
"""

import re
from functools import lru_cache

BASE: dict[str, tuple[tuple[str, ...], float]] = {}


# dimension -> spellings (without plural s) -> factor
SPELLINGS: dict[str, tuple[tuple[str, float], ...]] = {
    "mass": (
        ("kg|kilogram|kilo", 1e3), ("g|gm|gr|gram", 1.0), ("mg|milligram", 1e-3),
        ("mcg|µg|μg|ug|microgram", 1e-6), ("ng|nanogram", 1e-9), ("pg|picogram", 1e-12), ("lb|pound", 453.592),
    ),
    "volume": (
        ("L|l|liter|litre", 1.0), ("dL|dl|deciliter|decilitre", 0.1), ("mL|ml|cc|milliliter|millilitre|cm3|cm³", 1e-3),
        ("µL|μL|uL|µl|μl|ul|mm3|mm³|mm\\^3|cmm|microliter|microlitre|cu mm|cubic millimeter|cubic millimetre", 1e-6),
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
    # What is counted has no unit of its own.
    "": (("beat|breath|cell|copies|leukocyte|bpm", 1.0),),
}  # fmt: skip
for _dimension, _spellings in SPELLINGS.items():
    for _names, _factor in _spellings:
        for _name in _names.split("|"):
            BASE[_name.replace("\\^", "^")] = ((_dimension,) if _dimension else (), _factor)
            if (len(_name) > 3 and _name[-1].isalpha() and _name.islower() and _name[-1] != "s") or _name in (
                "lb",
                "sec",
                "min",
                "hr",
                "wk",
                "yr",
                "gm",
                "cc",
                "day",
                "U",
                "rad",
            ):
                BASE[_name + "s"] = BASE[_name]
# A quotient may begin with its stroke: "70/min", "12,000/mm3".
NAMES = "|".join(sorted(map(re.escape, BASE), key=len, reverse=True))
TEMPERATURE = r"(?:°\s?[CF]|º\s?[CF]|℃|℉|degrees? (?:Celsius|Fahrenheit|C|F|centigrade)|C(?![\w-])|F(?![\w-]))"
DENOMINATOR = rf"(?:\s?/\s?|\s(?:per|a)\s(?:100 )?)(?:{NAMES})(?![A-Za-z0-9])"
UNIT = re.compile(
    rf"(?:\s?-?(?P<temperature>{TEMPERATURE})|\s?-?(?P<first>{NAMES})(?![A-Za-z])(?P<rest>(?:{DENOMINATOR}){{0,3}})"
    rf"|(?P<bare>(?:\s?/\s?|\sper\s)(?:{NAMES})(?![A-Za-z0-9])(?:{DENOMINATOR}){{0,2}}))"
)
PART = re.compile(r"\s?/\s?|(?:^|\s)(?:per|a)\s(?:100 )?")


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> tuple[str, float] | None:
    """The dimension and the factor of "mg/kg/day", "beats per minute" or "/mm3"; None where it is no unit."""
    parts = PART.split(text.strip().strip("-"))
    up: list[str] = []
    down: list[str] = []
    factor = 1.0
    for index, part in enumerate(parts):
        name = part.strip()
        if not name and index == 0:
            continue
        if name not in BASE:
            return None
        dimensions, scale = BASE[name]
        factor = factor * scale if index == 0 else factor / scale
        (up if index == 0 else down).extend(dimensions)
    # "bpm" is a rate already.
    if text.strip().lower() == "bpm":
        down, factor = ["time"], 1 / 60
    return "/".join(["".join(up) or "1", *sorted(down)]) if down else "".join(up), factor
