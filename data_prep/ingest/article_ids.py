"""One spelling for the identifier of an article, so that all its patients are found to be of one article."""

import functools
import re
import unicodedata
from urllib.parse import unquote, urlsplit

DOI = re.compile(r"(?<![\d.])10\.\d+(?:\.\d+)*/[^\s<>\"]+")
AT_THE_RESOLVER = re.compile(r"\bdoi(?:\.org|\s*[:=])|^10\.", re.IGNORECASE)
# What publishers' addresses append to a DOI: /full, /pdf, .pdf, ?journal=...
OF_AN_ADDRESS = re.compile(r"[?#].*$|/(?:full|abstract|e?pdf|meta|summary|references|fulltext)/?$|\.(?:pdf|html?)$")
PMCID = re.compile(r"\bPMC(?:ID)?[\s:#]*(?:PMC)?\s*(\d+)(?:\.\d+)?\b", re.IGNORECASE)
PMID = re.compile(
    r"\b(?:pmid|pubmed(?:\s*id)?)[\s:#=]*(\d+)"
    r"|pubmed\.ncbi\.nlm\.nih\.gov/(\d+)|ncbi\.nlm\.nih\.gov/pubmed/(\d+)|/MED/(\d+)",
    re.IGNORECASE,
)
NUMBER = re.compile(r"0*(\d+)(?:\.0)?")
CLOSING = {")": "(", "]": "[", "}": "{"}
DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")


@functools.lru_cache(maxsize=1024)
def article_id(text: str, column: str = "") -> str:
    """The identifier in the form in which it is compared and stored; "" if the text is empty.

    A DOI becomes `10.1000/xyz` in lower case, a PubMed number `12345678`, a PubMed Central number `PMC1234567`, all of
    them also out of an address. Another address loses its scheme and `www.`; any other text keeps its words. Whether a
    DOI and a PubMed number are those of one article is not known here.

    Args:
        column: the column that the text is from; a bare number in `pmcid` is one of PubMed Central.
    """
    text = unicodedata.normalize("NFKC", text).translate(DASHES)
    text = " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())
    if doi := DOI.search(unquote(text)):
        found = doi[0]
        if not AT_THE_RESOLVER.search(unquote(text)[: doi.start() + 3]):
            found = OF_AN_ADDRESS.sub("", OF_AN_ADDRESS.sub("", found))
        return without_ending(found).lower()
    if number := NUMBER.fullmatch(text):
        return f"PMC{number[1]}" if column.strip().lower() == "pmcid" else number[1]
    if number := PMID.search(text):
        return next(digits for digits in number.groups() if digits).lstrip("0")
    if number := PMCID.search(text):
        return f"PMC{number[1].lstrip('0')}"
    return address(text) or text


def without_ending(doi: str) -> str:
    """The DOI without the punctuation of the sentence around it; a bracket that it opened stays closed."""
    last = doi[-1]
    if last in ".,;:'/" or (last in CLOSING and doi.count(last) > doi.count(CLOSING[last])):
        return without_ending(doi[:-1])
    return doi


def address(text: str) -> str:
    """An address on the web without scheme, `www.`, fragment and final slash; "" for other texts."""
    if " " in text or not re.match(r"https?://", text, re.IGNORECASE):
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    host = parts.netloc.lower().removeprefix("www.")
    return host + parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
