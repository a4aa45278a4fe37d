"""The benchmarks' files, in the layout of their owners and with invented text, become restricted questions."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from asclepius_jax.evaluate.questions import registry
from asclepius_jax.evaluate.questions.datasets.references import load
from asclepius_jax.evaluate.records import Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.records import TASKS
from tests.helpers.places import shared


def asked(name: str, source: Path, out: Path, **options: int) -> list[Question]:
    registry.run(registry.SetConfig(name, source, out, **options))
    return list(read_records(out, "questions", Question))


def refused(name: str, source: Path, out: Path, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        registry.run(registry.SetConfig(name, source, out))
    assert "\n" not in str(caught.value)
    assert not out.exists()


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def table(path: Path, *rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# ---------------------------------------------------------------- notes alone


MIMIC_III = "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION CGID ISERROR TEXT".split()
MIMIC_IV = "note_id subject_id hadm_id note_type note_seq charttime storetime text".split()


def test_mimic_iii_discharge_summaries(tmp_path: Path):
    rows = [
        ["1", "10", "5", "", "", "", "Discharge summary", "Report", "", "", "Seen by [**Last Name 3**].\nWell."],
        ["2", "11", "6", "", "", "", "Nursing", "Report", "", "", "Resting."],
        ["3", "12", "7", "", "", "", "Discharge summary", "Report", "", "1", "Filed in error."],
    ]
    (question,) = asked("mimic-iii", table(tmp_path / "NOTEEVENTS.csv", MIMIC_III, *rows), tmp_path / "q")
    assert question.restricted
    assert (question.note_id, question.note) == ("MIMIC-III-1", "Seen by [NAME].\nWell.")
    assert (question.note_type, question.source, question.reference) == ("discharge summary", "MIMIC-III", "")
    refused("mimic-iii", table(tmp_path / "x.csv", ["TEXT"], ["a"]), tmp_path / "x", "lacks the columns ROW_ID, SUBJ")


def test_mimic_iv_discharge_notes(tmp_path: Path):
    rows = [[f"1000-DS-{n}", str(n), "7", "DS", str(n), "", "", f"Name: ___\nNote {n}. Stable."] for n in range(60)]
    source = table(tmp_path / "discharge.csv", MIMIC_IV, *rows)
    questions = asked("mimic-iv", source, tmp_path / "q")
    assert all(question.restricted and question.note.startswith("Name: [REMOVED]") for question in questions)
    assert len(questions) == 60
    assert set(Counter(question.task for question in questions)) == set(TASKS)
    # A smaller draw is part of the larger one, and asks the same.
    few = asked("mimic-iv", source, tmp_path / "few", limit=10)
    more = asked("mimic-iv", source, tmp_path / "more", limit=20)
    assert len(few) == 10
    assert {question.id for question in few} < {question.id for question in more}
    assert {question.id for question in few} != {question.id for question in questions[:10]}
    assert {(question.id, question.instruction) for question in few} <= {(q.id, q.instruction) for q in questions}
    radiology = table(
        tmp_path / "mimic/note/radiology.csv", MIMIC_IV, ["1-RR-1", "1", "7", "RR", "1", "", "", "Clear."]
    )
    table(radiology.with_name("discharge.csv"), MIMIC_IV, *rows)
    table(radiology.with_name("discharge_detail.csv"), ["note_id", "field_name"], ["1000-DS-1", "author"])
    written(tmp_path / "mimic/LICENSE.txt", "of PhysioNet")
    assert asked("mimic-iv", tmp_path / "mimic", tmp_path / "folder") == questions
    written(tmp_path / "other/a.csv", "text\nA note.\n")
    refused("mimic-iv", tmp_path / "other", tmp_path / "x", "lacks the columns note_id, subject_id, note_type")


def test_real_mtsamples(tmp_path: Path):
    source = shared("data/mtsamples.jsonl")
    questions = asked("mtsamples", source, tmp_path / "q")
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert len(questions) == len(lines)
    assert not any(question.restricted for question in questions)
    summaries = [question for question in questions if "Discharge Summary" in question.note_type]
    assert len(summaries) == sum("Discharge Summary" in line["types"] for line in lines)
    assert any(":\n" in question.note or "\nHISTORY" in question.note for question in questions)


def test_mtsamples_as_a_csv(tmp_path: Path):
    header = ["", "description", "medical_specialty", "sample_name", "transcription", "keywords"]
    rows = [
        ["0", "d", " Discharge Summary", "s", "HISTORY: cough.,PLAN:, rest.", "k"],
        ["1", "d", " Radiology", "s", "", ""],
    ]
    (question,) = asked("mtsamples", table(tmp_path / "mtsamples.csv", header, *rows), tmp_path / "q")
    assert question.note_type == "Discharge Summary"
    assert question.note == "HISTORY: cough.\nPLAN: rest."


# ---------------------------------------------------------------- i2b2


RECORD = """\
Admission Date :
The patient had chest pain and fever .
An EKG showed ischemia , and aspirin was given for the chest pain .
This pain resolved , and the drug was stopped ."""


def test_i2b2_2010(tmp_path: Path):
    written(tmp_path / "i/txt/record-1.txt", RECORD)
    concepts = [
        'c="chest pain" 2:3 2:4||t="problem"',
        'c="fever" 2:6 2:6||t="problem"',
        'c="an ekg" 3:0 3:1||t="test"',
        'c="ischemia" 3:3 3:3||t="problem"',
        'c="aspirin" 3:6 3:6||t="treatment"',
        'c="the chest pain" 3:10 3:12||t="problem"',
    ]
    relations = [
        'c="an ekg" 3:0 3:1||r="TeRP"||c="ischemia" 3:3 3:3',
        'c="aspirin" 3:6 3:6||r="TrAP"||c="the chest pain" 3:10 3:12',
    ]
    written(tmp_path / "i/concept/record-1.con", "\n".join(concepts) + "\n")
    written(tmp_path / "i/rel/record-1.rel", "\n".join(relations))
    questions = asked("i2b2-2010", tmp_path / "i", tmp_path / "q")
    assert [question.task for question in questions] == ["Named Entity Recognition", *["Relation Extraction"] * 2]
    gold = load(questions[0].reference)["gold"]
    # "chest pain" and "the chest pain" are one mention's words.
    assert [(kind, words) for kind, _, _, words in gold] == [
        ("problem", "chest pain"),
        ("problem", "fever"),
        ("test", "An EKG"),
        ("problem", "ischemia"),
        ("treatment", "aspirin"),
    ]
    assert all(RECORD[start:end] == words for _, start, end, words in gold)
    assert load(questions[1].reference)["gold"] == [["aspirin", "the chest pain"]]
    assert load(questions[2].reference)["gold"] == [["An EKG", "ischemia"]]
    assert all(question.restricted and question.note == RECORD for question in questions)

    written(tmp_path / "i/concept/record-1.con", 'c="x" 9:0 9:0||t="problem"')
    refused("i2b2-2010", tmp_path / "i", tmp_path / "x", "record-1.con:1: x: the text has no words 9:0 to 9:0")
    written(tmp_path / "i/concept/record-1.con", 'c="x" 9:0||t="problem"')
    refused("i2b2-2010", tmp_path / "i", tmp_path / "x", "record-1.con:1: not a concept such as")
    written(tmp_path / "i/concept/record-2.con", concepts[0])
    refused("i2b2-2010", tmp_path / "i", tmp_path / "x", "contains no record-2.txt")
    refused("i2b2-2010", tmp_path / "i/txt", tmp_path / "x", r"contains no \*.con")


def test_i2b2_2011(tmp_path: Path):
    written(tmp_path / "i/docs/clinical-1.txt", RECORD)
    chains = [
        'c="chest pain" 2:3 2:4||c="the chest pain" 3:10 3:12||c="this pain" 4:0 4:1||t="coref problem"',
        'c="aspirin" 3:6 3:6||c="the drug" 4:5 4:6||t="coref treatment"',
        'c="the patient" 2:0 2:1||c="pain" 2:4 2:4||t="coref person"',
    ]
    path = written(tmp_path / "i/chains/clinical-1.txt.chains", "\n".join(chains))
    questions = asked("i2b2-2011", tmp_path / "i", tmp_path / "q")
    gold = sorted([words for _, _, _, words in load(question.reference)["gold"]] for question in questions)
    assert gold == [["aspirin"], ["chest pain"]]
    assert any('"the drug" in "This pain resolved , and the drug was stopped' in q.instruction for q in questions)
    assert all(question.restricted for question in questions)
    path.write_text('c="aspirin" 3:6 3:6||t="coref treatment"')
    refused("i2b2-2011", tmp_path / "i", tmp_path / "x", "clinical-1.txt.chains:1: not a chain")


TEMPORAL = """\
<?xml version="1.0" encoding="UTF-8" ?>
<ClinicalNarrativeTemporalAnnotation>
<TEXT><![CDATA[
He was admitted after a fall . Surgery & casting followed , then discharge on 3/4 .
]]></TEXT>
<TAGS>
<EVENT id="E0" start="2" end="9" text="admitted" modality="FACTUAL" polarity="POS" type="OCCURRENCE" />
<EVENT id="E1" start="20" end="26" text="a fall" modality="FACTUAL" polarity="POS" type="PROBLEM" />
<EVENT id="E2" start="30" end="40" text="Surgery & casting" modality="FACTUAL" polarity="POS" type="TREATMENT" />
<TIMEX3 id="T0" start="60" end="63" text="3/4" type="DATE" val="2001-03-04" mod="NA" />
<TLINK id="TL0" fromID="E1" fromText="a fall" toID="E0" toText="admitted" type="BEFORE" />
<TLINK id="TL1" fromID="E2" fromText="Surgery & casting" toID="E0" toText="admitted" type="AFTER" />
<TLINK id="TL2" fromID="E2" fromText="Surgery & casting" toID="T0" toText="3/4" type="BEFORE" />
</TAGS>
</ClinicalNarrativeTemporalAnnotation>
"""


def test_i2b2_2012(tmp_path: Path):
    path = written(tmp_path / "i/7.xml", TEMPORAL)
    (question,) = asked("i2b2-2012", tmp_path / "i", tmp_path / "q")
    pairs = [line.split(". ", 1)[1] for line in question.instruction.splitlines()[1:]]
    labels = dict(zip(pairs, load(question.reference)["gold"], strict=True))
    truth = {
        '"a fall" and "admitted"': "before",
        '"admitted" and "a fall"': "after",
        '"Surgery & casting" and "admitted"': "after",
        '"admitted" and "Surgery & casting"': "before",
    }
    assert len(labels) == 2
    assert labels.items() <= truth.items()
    assert question.restricted
    assert question.note.startswith("He was admitted")
    path.write_text("<TEXT>")
    refused("i2b2-2012", tmp_path / "i", tmp_path / "x", "7.xml: not XML")
    path.write_text("<A></A>")
    refused("i2b2-2012", tmp_path / "i", tmp_path / "x", "TEXT or TAGS is missing")


# ---------------------------------------------------------------- files as people have them


def test_annotations_keep_their_words_where_characters_are_replaced(tmp_path: Path):
    text = "\ufeffThe pa\u00adtient\r\nhad\u00a0chest\u00a0pain\u200b and\x0cfe\u00adver ."
    entities = [("chest\u00a0pain", "Sign_symptom"), ("fe\u00adver", "Sign_symptom")]
    places = [(text.index(words), text.index(words) + len(words)) for words, _ in entities]
    lines = [f"T{k}\tSign_symptom {start} {end}\t{text[start:end]}" for k, (start, end) in enumerate(places)]
    folder = tmp_path / "brat"
    folder.mkdir()
    (folder / "1.txt").write_bytes(text.encode())
    (folder / "1.ann").write_bytes("\r\n".join(lines).encode())
    (question,) = asked("maccrobat", folder, tmp_path / "q")
    assert question.note == "The patient\nhad chest pain and\nfever ."
    gold = load(question.reference)["gold"]
    assert [question.note[start:end] for _, start, end, _ in gold] == ["chest pain", "fever"]
    assert [words for *_, words in gold] == ["chest pain", "fever"]

    # Words and lines are counted in the text as it is: a line feed that a form feed becomes begins no new line.
    (tmp_path / "i").mkdir()
    (tmp_path / "i/1.txt").write_bytes("First\x0cpage .\r\nHe had fe\u00adver .".encode("utf-8"))
    (tmp_path / "i/1.con").write_text('c="fever" 2:2 2:2||t="problem"')
    (question,) = asked("i2b2-2010", tmp_path / "i", tmp_path / "q")
    ((_, start, end, _),) = load(question.reference)["gold"]
    assert question.note[start:end] == "fever"


def test_tables_are_read_like_those_of_the_corpus(tmp_path: Path, capsys):
    text = "Abbreviation;SENSE;text\nMS;multiple sclerosis;MS since 2004, at 39 °C – ill\n"
    source = tmp_path / "a.csv.gz"
    source.write_bytes(gzip.compress(text.encode("cp1252")))
    (question,) = asked("abbreviations", source, tmp_path / "q")
    assert (question.id, question.source) == ("a-1-abbreviation", "a")
    assert question.note == "MS since 2004, at 39 °C – ill"
    said = capsys.readouterr().err
    assert "separated by semicolons" in said
    assert "Windows-1252" in said
    refused("abbreviations", written(tmp_path / "b.csv", "sense,Sense,abbreviation,text\n"), tmp_path / "x", "one name")
    # MTSamples gives a list of types, and copies of it give one.
    row = json.dumps({"id": 1, "types": "Radiology", "text": "CHEST: clear."})
    (question,) = asked("mtsamples", written(tmp_path / "m.jsonl", row), tmp_path / "m")
    assert question.note_type == "Radiology"


# ---------------------------------------------------------------- CASI and DiSCQ


def test_casi_abbreviations(tmp_path: Path):
    lines = [
        "AC|acromioclavicular|AC|54|55|EXAM|Tenderness over the AC joint – left | right.",
        "AC|before meals|a.c.|10|14|MEDICATIONS|Insulin a.c. and AC",
        "AC|UNSURED SENSE|AC|1|2|PLAN|AC to follow.",
        "PD|peritoneal dialysis||3|4||On PD at home.",
        "RA|right atrium|RA|3|4|ECHO|No such letters here.",
    ]
    source = written(tmp_path / "casi.txt", "\n".join(lines) + "\n", "cp1252")
    questions = asked("casi", source, tmp_path / "q")
    assert [(q.note_id, load(q.reference)["gold"], load(q.reference)["others"]) for q in questions] == [
        ("casi-1", ["acromioclavicular"], []),
        ("casi-2", ["before meals"], []),
        ("casi-4", ["peritoneal dialysis"], []),
    ]
    assert "– left | right" in questions[0].note
    assert '"a.c."' in questions[1].instruction
    assert all(question.restricted for question in questions)
    header = "sf|target_lf|sf_rep|start_idx|end_idx|section|context\n"
    assert len(asked("casi", written(tmp_path / "h.txt", header + lines[0]), tmp_path / "h")) == 1
    refused("casi", written(tmp_path / "b.txt", "AC|x|y\n"), tmp_path / "x", "b.txt:1: 3 fields; expected 7")


def test_casi_senses_of_one_abbreviation_exclude_one_another(tmp_path: Path):
    lines = ["PD|peritoneal dialysis|PD|3|4||On PD.", "PD|Parkinson disease|PD|3|4||PD, tremor."]
    questions = asked("casi", written(tmp_path / "casi.txt", "\n".join(lines)), tmp_path / "q")
    assert [load(question.reference)["others"] for question in questions] == [
        ["Parkinson disease"],
        ["peritoneal dialysis"],
    ]


def test_casi_coreference(tmp_path: Path):
    header = ["text", "pronoun", "antecedent"]
    row = ["The stent was placed. It was patent.", "It", "The stent|stent"]
    source = table(tmp_path / "c.csv", header, row)
    (question,) = asked("casi-coreference", source, tmp_path / "q")
    assert load(question.reference)["gold"] == ["The stent", "stent"]
    assert question.restricted
    assert question.instruction.startswith('What does "It" stand for')
    bad = table(tmp_path / "b.csv", header, ["A text.", "It", "the stent"])
    refused("casi-coreference", bad, tmp_path / "x", "record 1: its text does not contain the antecedent")


def test_discq(tmp_path: Path):
    folder = tmp_path / "discq"
    written(folder / "relations_txt/record-1.txt", RECORD)
    header = ["id", "start_index", "end_index", "question", "reasoning"]
    rows = [["record-1.txt", "3", "9", "Was troponin raised?", "an EKG\nshowed"], ["record-1", "1", "2", "", "fever"]]
    table(folder / "discq_questions_final.csv", header, *rows)
    (question,) = asked("discq", folder, tmp_path / "q")
    assert question.instruction == 'Was troponin raised? (on reading "an EKG showed")'
    assert (question.note, question.restricted, question.reference) == (RECORD, True, "")
    table(folder / "discq_questions_final.csv", header, ["record-9", "1", "2", "Why?", ""])
    refused("discq", folder, tmp_path / "x", "record 1 refers to record-9, but .* contains no record-9.txt")
    refused("discq", tmp_path / "discq/relations_txt", tmp_path / "x", "no such file; expected a folder with")


XML = """<annotations><case id="7"><patient_narrative>My mother ...</patient_narrative>
<clinician_question>
Why was heparin
stopped? </clinician_question><note_excerpt> ... </note_excerpt><note_excerpt_sentences>
<sentence id="0" paragraph_id="0" start_char_index="0">Brief Hospital Course:</sentence>
<sentence id="1" paragraph_id="1" start_char_index="0">She bled &amp; was
transfused.</sentence>
<sentence id="2" paragraph_id="1" start_char_index="28">Heparin was stopped.</sentence>
</note_excerpt_sentences></case></annotations>"""


def write_archehr(folder: Path, relevance: str = "essential", **more: object) -> Path:
    written(folder / "archehr-qa.xml", XML)
    labels = [("0", "not-relevant"), ("1", "supplementary"), ("2", relevance)]
    answers = [{"sentence_id": name, "relevance": label} for name, label in labels]
    written(folder / "archehr-qa_key.json", json.dumps([{"case_id": "7", "answers": answers, **more}]))
    return folder


def test_archehr_qa(tmp_path: Path):
    folder = write_archehr(tmp_path / "a", clinician_answer_without_citations="She bled.")
    (question,) = asked("archehr-qa", folder, tmp_path / "q")
    assert question.note == "Brief Hospital Course:\nShe bled & was transfused. Heparin was stopped."
    assert (question.instruction, question.reference) == ("Why was heparin stopped?", "She bled.")
    assert question.restricted
    assert [(question.note[start:end], label) for start, end, label in json.loads(question.evidence)] == [
        ("Brief Hospital Course:", "not-relevant"),
        ("She bled & was transfused.", "supplementary"),
        ("Heparin was stopped.", "essential"),
    ]


def test_mistakes_in_archehr_qa(tmp_path: Path):
    refused("archehr-qa", tmp_path, tmp_path / "x", "archehr-qa.xml: no such file; expected a folder with")
    refused(
        "archehr-qa",
        write_archehr(tmp_path / "b", "vital"),
        tmp_path / "x",
        "^archehr-qa_key.json, case 7: relevance 'vital'",
    )
    folder = write_archehr(tmp_path / "c")
    for key, message in (
        ('[{"case_id": "8", "answers": []}]', "has labels of case 8, which archehr-qa.xml does not contain"),
        ('[{"case_id": "7", "answers": [{"sentence_id": "9", "relevance": "essential"}]}]', "has no sentence 9"),
        ('[{"case_id": "7"}]', "not a list of cases with case_id and answers"),
        ("{", "not a list of cases"),
    ):
        written(folder / "archehr-qa_key.json", key)
        refused("archehr-qa", folder, tmp_path / "x", message)
    written(folder / "archehr-qa.xml", "<annotations>")
    refused("archehr-qa", folder, tmp_path / "x", "archehr-qa.xml is not XML")
