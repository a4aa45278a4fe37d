"""What the gate takes for a fact, what it takes for support, and what it does not."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clinical_text.sentences import split_sentences
from data_prep.faithfulness.atoms.kinds import KINDS
from data_prep.faithfulness.atoms.quantities import find_quantities
from data_prep.faithfulness.atoms.read import read
from data_prep.faithfulness.atoms.units import parse_unit
from data_prep.faithfulness.certificate import certify, check, rules_version
from data_prep.faithfulness.checks.table import CHECKS
from data_prep.faithfulness.dimensions.tables import DIMENSIONS, kind_of
from data_prep.faithfulness.places import places_of_sentences


def unsupported(text: str, source: str) -> list[str]:
    return [f"{f.atom.kind}: {f.atom.text}" for f in check(text, source) if not f.supported]


def rules(text: str, source: str) -> set[str]:
    found = check(text, source)
    assert all(f.supported for f in found), [f for f in found if not f.supported]
    return {f.verdict.rule for f in found if f.verdict.status == "derived"}


def test_every_kind_has_a_check():
    assert set(CHECKS) | {kind_of(name) for name in DIMENSIONS} == set(KINDS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mg/dL", "g/L"),
        ("/mm3", "/µL"),
        ("mmol/l", "mmol/L"),
        ("beats per minute", "/min"),
        ("bpm", "/min"),
        ("mcg", "µg"),
        ("mm Hg", "mmHg"),
        ("U/L", "IU/L"),
    ],
)
def test_units_of_one_dimension_are_known_as_such(one, other):
    a, b = parse_unit(one), parse_unit(other)
    assert a
    assert b
    assert a[0] == b[0]


def test_units_convert():
    assert parse_unit("mg/dL") == ("mass/volume", pytest.approx(0.01))
    assert parse_unit("parsec") is None
    assert rules("The mass was 3.5 cm.", "A mass of 35 mm was seen.") == {"unit conversion"}
    assert rules("WBC was 12 x 10^9/L.", "WBC was 12,000/mm3.") == {"unit conversion"}
    assert rules("Temperature 98.6 F.", "The temperature was 37.0 °C.") == {"unit conversion"}
    assert unsupported("The mass was 35 cm.", "A mass of 35 mm was seen.") == ["quantity: 35 cm"]


def test_a_lost_superscript_is_still_a_power_of_ten():
    assert rules("Platelets were 198 x 109/L.", "Platelets were 198,000/µL.") == {"unit conversion"}


@pytest.mark.parametrize(
    ("text", "source", "rule"),
    [
        ("Ki-67 was 37 %.", "Ki-67 was 37.4 %.", "rounding"),
        ("About 1,500 mL of blood were lost.", "Blood loss was 1,480 mL.", "estimate"),
        ("He took aspirin bid.", "He took aspirin twice a day.", "frequency words"),
        ("He took aspirin q8h.", "He took aspirin three times daily.", "frequency words"),
        ("Fever for 14 days.", "He had fever for two weeks.", "unit conversion"),
        ("Discharged 9 days later.", "Seen on 3 May 2019. Discharged on 12 May 2019.", "difference of dates"),
        ("Removed on POD 3.", "The drain was removed three days after surgery.", "days counted"),
        ("Seen in May 2019.", "Seen on 3 May 2019.", "less precise"),
        ("BP was 120/80 mmHg.", "Blood pressure was 120/80.", "customary unit"),
        ("Two lesions were seen.", "There were 2 lesions.", "spelled number"),
        ("CT showed a mass.", "Computed tomography showed a mass.", "abbreviation"),
        ("He had SOB.", "He complained of dyspnoea.", "abbreviation"),
        ("Tylenol was given.", "Paracetamol was given.", "synonym"),
        ("He was afebrile.", "He had no pyrexia.", "synonym"),
        ("Left pleural effusion.", "Bilateral pleural effusion.", "one of both sides"),
        ("No pneumonia is mentioned in the note.", "He had fever.", "said to be absent"),
    ],
)
def test_what_follows_by_a_named_rule(text, source, rule):
    assert rule in rules(text, source)


def test_an_abbreviation_means_what_either_text_says():
    assert not unsupported("ABC was seen.", "An atypical bone cyst (ABC) was seen.")
    assert not unsupported(
        "An atypical bone cyst (ABC) was seen. The ABC grew.", "An atypical bone cyst was seen. It grew."
    )
    assert unsupported("RRR, CTAB.", "The heart was normal.") == ["abbreviation: RRR", "abbreviation: CTAB"]


@pytest.mark.parametrize(
    ("text", "source", "wrong"),
    [
        ("K 7.2 mmol/L.", "Na 7.2 mmol/L. K 4.1 mmol/L.", "quantity: 7.2 mmol/L"),
        ("Aspirin 50 mg.", "Aspirin 100 mg and atenolol 50 mg were given.", "dose: 50 mg"),
        ("Aspirin 1000 mg daily.", "Aspirin 100 mg daily.", "dose: 1000 mg"),
        ("Aspirin tid.", "Aspirin twice daily.", "frequency: tid"),
        ("About 1,480 mL were lost.", "About 1,500 mL were lost.", "quantity: 1,480 mL"),
        ("A 54-year-old man.", "A 45-year-old man.", "age: 54-year-old"),
        ("Seen on 4 May 2019.", "Seen on 3 May 2019.", "date: 4 May 2019"),
        ("Seen on 3 May 2019.", "Seen in May 2019.", "date: 3 May 2019"),
        ("Fever for 3 weeks.", "Fever for 2 weeks. Seen after 3 days.", "duration: 3 weeks"),
        ("Pain in the right thigh.", "Pain in the left thigh, and a scar of the right hand.", "side: right"),
        ("The right and right kidney were small.", "The right and left kidney were small.", "side: right"),
        ("The L5 vertebra was fractured.", "The L4 vertebra was fractured.", "code: L5"),
        ("A grade III tumor.", "A grade II tumor.", "code: grade III"),
        ("No fever.", "He had fever.", "negated finding: fever"),
        ("He had fever.", "He had chills but no fever.", "finding: fever"),
        ("No germ grew.", "A germ grew.", "negated finding: germ"),
        ("Germ growth was seen.", "There was no germ growth.", "finding: growth"),
        ("Started on rituximab.", "Started on infliximab.", "drug: rituximab"),
        ("Xyzalin 5 mg was given.", "Aspirin 5 mg was given.", "drug: Xyzalin"),
        ("MRI was normal.", "CT was normal.", "test: MRI"),
        ("He underwent splenectomy.", "He underwent colectomy.", "procedure: splenectomy"),
        ("He had pneumonia.", "He had fever.", "finding: pneumonia"),
    ],
)
def test_what_the_source_does_not_support(text, source, wrong):
    assert wrong in unsupported(text, source)


def test_a_value_that_stands_elsewhere_is_no_support_for_the_sentence_that_is_retold():
    source = "Fever had lasted for 2 weeks before admission to the ward. The cast was removed after 3 weeks."
    assert unsupported("Fever had lasted for 3 weeks before admission to the ward.", source) == ["duration: 3 weeks"]
    assert not unsupported("The cast was taken off after 3 weeks. Fever for 2 weeks.", source)


def test_a_unit_after_the_last_number_counts_for_all():
    values = [
        atom.value[:2] for atom in read("It measured 3 x 4 x 5 cm and later 39x24 mm.").atoms if atom.kind == "quantity"
    ]
    assert values == [(0.03, "length"), (0.04, "length"), (0.05, "length"), (0.039, "length"), (0.024, "length")]


def test_numbers_in_names_and_lists_are_no_facts():
    assert not [a for a in read("1. Vitamin B12 was low; CA 19-9 was high (Fig. 2A) [12].").atoms if a.kind == "number"]
    for text in (
        "1. Fever.\n2. Cough.",
        "**1.** Fever.\n\n 12. **Cough**.",
        "DIAGNOSES: 1. Fever. 2. Cough.",
        "- 3. Fever.",
    ):
        assert not [f for f in check(text, "Fever and cough.") if f.atom.kind == "number"], text
    assert [f.atom.text for f in check("He has children: 3. They live abroad.", "") if f.atom.kind == "number"] == ["3"]


def test_left_as_a_verb_is_no_side():
    for sentence in ("He left the hospital.", "The drain was left in place.", "Seen right after surgery."):
        assert not [atom for atom in read(sentence).atoms if atom.kind == "side"], sentence


def test_places_lead_back_to_the_text():
    text = "  HISTORY:\n- No  fever.\n-\tHb 7.2\u00a0g/dL, \u200bK 5.5 mmol/L\n"
    found = check(text, "Nothing.")
    assert [text[f.start : f.end] for f in found] == ["fever", "Hb", "7.2\u00a0g/dL", "K", "5.5 mmol/L"]
    assert text[slice(*found[0].within)].strip() == "- No  fever."


@pytest.mark.parametrize(
    "text",
    [
        "DISCHARGE SUMMARY\n\nSeen on 3 May. Dr. Adams found no ST elevation.\n  - metoprolol   25 mg\n",
        "One.\r\n\r\n  Two\u200b\tthree.\u00a0Four!\u200b Five?",
        "Wrapped\nline here. The 1. January\n\n1. item\n2. item",
        "He was well.The patient left.",
        "\n\n",
        "",
    ],
)
def test_places_of_sentences_hold_their_text(text):
    found = [text[start:end] for start, end in places_of_sentences(text)]
    assert all(part.strip() == part != "" for part in found)
    assert [re.findall(r"\w", part) for part in found] == [re.findall(r"\w", part) for part in split_sentences(text)]


def test_a_certificate_counts_and_names_what_is_not_stated():
    report = "A 45-year-old man had fever for 2 weeks. He took aspirin 100 mg. CT showed a mass."
    made = certify("45 y/o man with fever for 14 days. Aspirin 200 mg.", report)
    assert (made.stated, made.derived, made.unsupported, made.omitted) == (3, 1, 1, 3)
    details = json.loads(made.details)
    assert [(d["kind"], d["text"], d["status"], d["rule"]) for d in details] == [
        ("duration", "14 days", "derived", "unit conversion"),
        ("dose", "200 mg", "unsupported", "absent"),
    ]
    assert made.rules == rules_version()
    assert certify(report, report).omitted == 0


def test_the_version_of_the_rules_changes_with_any_of_their_files(tmp_path, monkeypatch):
    module = sys.modules[certify.__module__]
    here = Path(module.__file__).parent.parent
    for name in ("faithfulness", "clinical_text"):
        shutil.copytree(here / name, tmp_path / name)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "faithfulness/certificate.py"))
    versions = [module.rules_version.__wrapped__()]
    (tmp_path / "clinical_text/vocabulary/drugs.txt").write_text("aspirin\n")
    versions.append(module.rules_version.__wrapped__())
    assert versions[0] == rules_version() != versions[1]


def test_reading_is_pure():
    sentence = "Aspirin 100 mg bid for 2 weeks, no fever, left leg."
    assert read.__wrapped__(sentence) == read.__wrapped__(sentence)
    assert find_quantities.__defaults__ is None


def test_per_cent_is_percent():
    assert unsupported("35% of the tissue was viable.", "About 35 per cent of the tissue was viable.") == []
    assert unsupported("45% of the tissue was viable.", "About 35 per cent of the tissue was viable.")
    assert parse_unit("per cent") == parse_unit("%")


def test_a_measure_that_cannot_be_read_is_compared_as_it_stands(monkeypatch):
    monkeypatch.setattr("data_prep.faithfulness.atoms.quantities.parse_unit", lambda _: None)
    read.cache_clear()
    assert unsupported("It weighed 12 kg.", "It weighed 12 kg.") == []
    assert unsupported("It weighed 13 kg.", "It weighed 12 kg.") == ["quantity: 13 kg"]
    read.cache_clear()


PIECES = st.lists(
    st.sampled_from(
        "35 per cent|5 mg|1,5 g/L|12 x10^9/L|10^99|9999999999999999999999|-|±|½|Half a tablet|per|/|kg/m2|°|°F|38.5|"
        "POD|twenty-|first|in|1999|31.02.2019|99/99/99|y/o|q|q 0 h|every|0|once a|IV|G2P1|T2N0|×|E|.|,|(|)|°C per|"
        "a day|mm Hg|no|denies|left|\u2028|\x00|‰|percent per cent|cu mm|100 |µ|1e400|٣|²|no. 5".split("|")
    ),
    max_size=12,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(PIECES, PIECES)
def test_no_text_is_an_error(text: list[str], source: list[str]):
    certify(" ".join(text), " ".join(source))
