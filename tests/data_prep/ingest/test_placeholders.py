"""What de-identification left becomes a placeholder of the right kind, and nothing else does."""

import pytest

from data_prep.ingest.placeholders import with_placeholders

# The words between [** and **] in MIMIC-III.
MIMIC_III = {
    "NAME": (
        "Known lastname 1234", "Known firstname 12", "Name2 (NI) 12", "Male First Name (un) 12", "Doctor Last Name 12",
        "Female First Name (un) 1", "Initials (NamePattern4) 12", "Attending Info 12", "CC Contact Info 12",
        "Last Name (STitle) 12", "First Name8 (NamePattern2) ", "Name Initial (MD) 12", "Dictator Info 12",
        "Last Name (NamePattern1) 77", "Name (NI) 12", "First Name (Titles) 123", "Name Prefix (Prefixes) 12",
    ),
    "HOSPITAL": (
        "Hospital Ward/Unit Name", "Hospital Ward/Unit Name 12", "Wardname 12", "Hospital1 18", "Hospital 12",
        "Ward Name 3", "Hospital Unit Name 10", "Hospital3 (CH) 12", "Clinic Name 1",
    ),
    "DATE": (
        "2-14", "2118-5", "2151-7-16", "Month/Day (2) 12", "Month/Day/Year 12", "Date range (1) 12", "5-/2118",
        "-5/2118", "Holiday 12", "Year (4 digits) 12", "12/11", "2118", "7/16/2151", "Month (only) 12",
        "Year/Month/Day 1",
        "Day Month 2", "Month Year (2) 2", "2118-6-", "Date Range 12",
    ),
    "PHONE": ("Telephone/Fax (1) 12", "Telephone/Fax (3) 5555", "Pager number 12"),
    "AGE": ("Age over 90 12", "Age over 90 "),
    "LOCATION": (
        "State 12", "Country 12", "Location (un) 12", "Street Address(2) 12", "State/Zipcode 3", "City 9", "PO Box 1",
        "Location (Universities) 12", "Apartment Address(1) 4",
    ),
    "ORGANIZATION": ("Company 12", "University/College 12"),
    "ID": (
        "Job Number 12", "Clip Number (Radiology) 12", "Medical Record Number 12", "Social Security Number 12",
        "URL 12", "Numeric Identifier 12", "MD Number(1) 12", "Unit Number 12", "Serial Number 3",
        "E-mail address 12", "Provider Number 1",
    ),
    "REMOVED": (" ", "", "Something odd"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, all_of in MIMIC_III.items() for words in all_of])
def test_each_tag_of_mimic_iii_becomes_its_kind(kind: str, words: str):
    assert with_placeholders(f"Seen [**{words}**] today") == f"Seen [{kind}] today"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("seen by ___ on ___; sign: ________", "seen by [REMOVED] on [REMOVED]; sign: ________"),
        ("[**Known\nlastname 12**], [**2-14**]-[**2-16**]", "[NAME], [DATE]-[DATE]"),
        ("Dr. **NAME[AAA, BBB M] on **DATE[Jan 05 2008], **AGE[in 50s]", "Dr. [NAME] on [DATE], [AGE]"),
        ("at **INSTITUTION, **PLACE, **ID-NUM, **PHONE", "at [HOSPITAL], [LOCATION], [ID], [PHONE]"),
        (
            "***** is a 54 year old, seen by Dr. **** on **/**/****",
            "[REMOVED] is a 54 year old, seen by Dr. [REMOVED] on [DATE]",
        ),
        ("XXXX-year-old XXXX with pain", "[REMOVED]-year-old [REMOVED] with pain"),
        ("<NAME> on <DATE/>, <PATIENT_1>, [REDACTED]", "[NAME] on [DATE], [NAME], [REMOVED]"),
    ],
)
def test_tags_of_other_corpora(text: str, plain: str):
    assert with_placeholders(text) == plain


@pytest.mark.parametrize(
    "text",
    [
        "*****************",
        "*** FINAL REPORT ***",
        "*** NOTE: read with care",
        "**IMPRESSION:** stable, **very** well, ***now***",
        "Glucose 200** and K 3.0***",
        "BP <130, pH <7.2, <name of drug>, <b>bold</b>",
        "[x] done, [NAME], size XXL, chromosome XXX and XXXXY",
        "a__b, score: ____ of ____, [** unclosed",
    ],
)
def test_what_is_no_tag_stays(text: str):
    assert with_placeholders(text) == text
