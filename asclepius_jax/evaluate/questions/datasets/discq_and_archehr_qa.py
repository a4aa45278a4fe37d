"""Questions that clinicians or patients asked about real notes.

DiSCQ: what clinicians ask while reading a discharge summary, on the records of the i2b2 2010 task.

    discq/discq_questions_final.csv    id, start_index, end_index, question, reasoning, ...
    discq/relations_txt/               the texts to which `id` refers, such as record-13.txt

`reasoning` is the part of the note that raised the question. There is no reference answer. Often the note does not
contain the answer, and a good answer says so.

ArchEHR-QA: patients' questions in a clinician's words, with sentences of excerpts from MIMIC that people labelled as
evidence.

    archehr/archehr-qa.xml         <annotations><case id="1"> ... <clinician_question>, <note_excerpt_sentences> with
                                   <sentence id="1" paragraph_id="0" start_char_index="0">
    archehr/archehr-qa_key.json    [{"case_id": "1", "answers": [{"sentence_id": "1", "relevance": "essential"}, ...],
                                   "clinician_answer_without_citations": "..."}, ...]

Labels are essential, supplementary and not-relevant. `clinician_answer_without_citations` is not in every version.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from asclepius_jax.evaluate.questions.datasets.annotated_spans import one_line
from asclepius_jax.evaluate.questions.datasets.tables import rows
from asclepius_jax.evaluate.records import EVIDENCE, Question
from data_prep.contract.errors import UserError
from data_prep.contract.tables import read_text_file

FILE = "discq_questions_final.csv"
COLUMNS = ("id", "question", "reasoning")
CASES, KEY = "archehr-qa.xml", "archehr-qa_key.json"


def discq(source: Path, seed: int) -> Iterator[Question]:
    table = source / FILE
    texts = {path.name: path for path in source.rglob("*.txt")} if source.is_dir() else {}
    for number, row in enumerate(rows(table, COLUMNS, f"a folder with {FILE} and the texts in relations_txt/"), 1):
        name = row["id"].strip().removesuffix(".txt")
        if f"{name}.txt" not in texts:
            raise UserError(f"{table.name}: record {number} refers to {name}, but {source} contains no {name}.txt")
        if not row["question"].strip():
            continue
        about = one_line(row["reasoning"])
        yield Question(
            id=f"discq-{number}",
            note_id=f"discq-{name}",
            task="Question Answering",
            note=read_text_file(texts[f"{name}.txt"]).strip(),
            instruction=one_line(row["question"]) + (f' (on reading "{about}")' if about else ""),
            note_type="discharge summary",
            source="DiSCQ",
            restricted=True,
        )


def archehr_qa(source: Path, seed: int) -> Iterator[Question]:
    for name in (CASES, KEY):
        if not (source / name).is_file():
            raise UserError(f"{source / name}: no such file; expected a folder with {CASES} and {KEY}")
    try:
        cases = {case.get("id"): case for case in ElementTree.fromstring(read_text_file(source / CASES)).iter("case")}
    except ElementTree.ParseError as error:
        raise UserError(f"{source / CASES} is not XML: {error}") from error
    try:
        for labelled in json.loads(read_text_file(source / KEY)):
            number = str(labelled["case_id"])
            if number not in cases:
                raise UserError(f"{KEY} has labels of case {number}, which {CASES} does not contain")
            yield archehr_question(number, cases[number], labelled)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source / KEY}: not a list of cases with case_id and answers ({error!r})") from error


def archehr_question(number: str, case: ElementTree.Element, labelled: dict[str, Any]) -> Question:
    """The excerpt has a line per paragraph, and its labelled sentences are known by their characters."""
    relevance = {str(answer["sentence_id"]): answer["relevance"] for answer in labelled["answers"]}
    if unknown := set(relevance.values()) - set(EVIDENCE):
        raise UserError(f"{KEY}, case {number}: relevance {min(unknown)!r} is not one of {', '.join(EVIDENCE)}")
    note, above, evidence = "", None, []
    for sentence in case.iter("sentence"):
        paragraph = sentence.get("paragraph_id")
        note += ("\n" if paragraph != above else " ") if note else ""
        start, above = len(note), paragraph
        note += one_line(sentence.text or "")
        if label := relevance.pop(str(sentence.get("id")), ""):
            evidence.append([start, len(note), label])
    if relevance:
        raise UserError(f"{KEY}, case {number}: {CASES} has no sentence {min(relevance)}")
    return Question(
        id=f"archehr-{number}",
        note_id=f"archehr-{number}",
        task="Question Answering",
        note=note,
        instruction=one_line(case.findtext("clinician_question") or ""),
        reference=one_line(labelled.get("clinician_answer_without_citations") or ""),
        source="ArchEHR-QA",
        restricted=True,
        evidence=json.dumps(evidence),
    )
