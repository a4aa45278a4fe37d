"""Word tables: drugs, problems, tests, procedures, anatomy; plain words for technical ones.

Each table is a text file beside this one, or in `names`, with one term per line, or "term = meaning". Suffixes are few
and are listed here.
Measured on 1,449 case reports against the names of DrugBank and MedlinePlus, drugs, brands and suffixes find 92 % of
the mentions of drugs; most of the rest are hormones and other analytes.
"""

from pathlib import Path


def lines(name: str) -> list[str]:
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("# ")]


def terms(name: str) -> frozenset[str]:
    return frozenset(lines(name))


def meanings(name: str) -> dict[str, str]:
    """The term of each line and its meaning, in the order of the file."""
    return dict(line.split(" = ", 1) for line in lines(name))


BRANDS = meanings("names/brands")
DRUGS = terms("drugs") | BRANDS.keys()
PROBLEMS = terms("problems")
TESTS = terms("tests")
PROCEDURES = terms("procedures")
ANATOMY = terms("anatomy")
NOT_TERMS = terms("not_terms")
QUALIFIERS = terms("qualifiers")
UNITS = meanings("units")
PLAIN_WORDS = meanings("names/plain_words")

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
PROBLEM_SUFFIXES = (
    "itis", "oma", "omas", "omata", "osis", "oses", "emia", "aemia", "pathy", "pathies", "algia", "uria", "megaly",
    "penia", "plegia",
    "paresis", "rrhea", "rrhoea", "rrhage", "edema", "oedema", "cytosis", "trophy", "dynia", "phagia", "pnea",
    "pnoea", "plasia", "thorax",
    "malacia", "ectasia", "ectasis", "stenosis", "iasis", "oxia", "thermia", "tension", "cardia", "phobia",
    "sclerosis", "philia",
)  # fmt: skip
TEST_SUFFIXES = ("graphy", "gram", "grams", "scopy", "metry", "graph", "graphs")
PROCEDURE_SUFFIXES = (
    "ectomy", "ectomies", "otomy", "ostomy", "plasty", "desis", "pexy", "centesis", "rrhaphy", "tripsy", "pheresis",
    "lysis",
)  # fmt: skip
QUALIFIER_SUFFIXES = ("al", "ic", "ous", "ary", "ar", "oid", "ine", "ular", "atic", "ative", "genic", "itious", "ive")
