"""All spellings of an article's identifier are one, and different articles stay different."""

import pytest

from data_prep.ingest.article_ids import article_id

SPELLINGS = {
    "10.1016/j.crad.2020.01.001": [
        "10.1016/j.crad.2020.01.001",
        "10.1016/J.CRAD.2020.01.001",
        "doi:10.1016/j.crad.2020.01.001",
        "DOI: 10.1016/j.crad.2020.01.001.",
        "https://doi.org/10.1016/j.crad.2020.01.001",
        "http://dx.doi.org/10.1016/j.crad.2020.01.001/",
        "https://doi.org/10.1016%2Fj.crad.2020.01.001",
        " 10.1016/j.crad.2020.01.001\u200b",
        "https://www.example-journal.com/doi/full/10.1016/j.crad.2020.01.001?journalCode=crad",
        "https://www.example-journal.com/doi/10.1016/j.crad.2020.01.001/pdf",
    ],
    "10.1186/1752-1947-2-12": ["10.1186/1752-1947-2-12", "10.1186/1752‐1947‐2‐12", "doi 10.1186/1752–1947–2–12"],
    "10.1016/s0140-6736(05)12345-6": ["10.1016/S0140-6736(05)12345-6", "(doi:10.1016/S0140-6736(05)12345-6)"],
    "10.1093/x/pdf": ["https://doi.org/10.1093/x/pdf", "10.1093/X/pdf"],
    "33492400": [
        "33492400",
        "33492400.0",
        "PMID: 33492400",
        "pmid33492400",
        "PubMed ID 33492400",
        "https://pubmed.ncbi.nlm.nih.gov/33492400/",
        "http://www.ncbi.nlm.nih.gov/pubmed/33492400?dopt=Abstract",
        "https://europepmc.org/article/MED/33492400",
    ],
    "PMC7654321": [
        "PMC7654321",
        "pmc7654321",
        "PMCID: PMC7654321",
        "PMC 7654321",
        "PMC7654321.1",
        "https://www.ncbi.nlm.nih.gov/pmc/articles/PMC7654321/",
        "https://pmc.ncbi.nlm.nih.gov/articles/PMC7654321/#sec2",
    ],
    "example.org/Case?id=1": ["https://www.example.org/Case?id=1", "http://Example.org/Case/?id=1#top"],
    "J Med Cases 2020;3:4": ["J Med Cases  2020;3:4", "J Med Cases\u00a02020;3:4 "],
    "": ["", "  ", "\u200b"],
}


@pytest.mark.parametrize(("expected", "text"), [(one, text) for one, texts in SPELLINGS.items() for text in texts])
def test_every_spelling_is_one_identifier(expected: str, text: str):
    assert article_id(text) == expected
    assert article_id(expected) == expected


def test_a_bare_number_of_pubmed_central_is_not_one_of_pubmed():
    assert article_id("7654321", "PMCID") == "PMC7654321" == article_id("PMC7654321", "pmcid")
    assert article_id("7654321", "pmid") == "7654321"
