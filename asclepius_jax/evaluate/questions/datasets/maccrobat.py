"""MACCROBAT: published case reports with entities, relations, order in time and coreference, annotated in brat.

maccrobat/16778410.txt      maccrobat/16778410.ann
"""

from collections.abc import Iterator
from pathlib import Path

from asclepius_jax.evaluate.questions.datasets import annotated_spans, brat
from asclepius_jax.evaluate.questions.datasets.annotated_spans import Link
from asclepius_jax.evaluate.records import Question

TYPES = {
    "Sign_symptom": "symptom",
    "Disease_disorder": "disease",
    "Medication": "drug",
    "Diagnostic_procedure": "test",
    "Therapeutic_procedure": "treatment",
}
FINDINGS = ("Sign_symptom", "Disease_disorder")
PROCEDURES = ("Diagnostic_procedure", "Therapeutic_procedure")
AS_PAIRS = "Use the words of the note, one pair a line, as"
LINKS = (
    Link(
        ("MODIFY",),
        ("Lab_value",),
        PROCEDURES,
        f'Match every result in the note with the test that it belongs to. {AS_PAIRS} "result -> test".',
    ),
    Link(
        ("MODIFY",),
        ("Biological_structure",),
        (*FINDINGS, *PROCEDURES),
        "For each finding and procedure whose site the note names, say which part of the body it concerns. "
        f'{AS_PAIRS} "site -> finding or procedure".',
    ),
    Link(
        ("MODIFY",),
        ("Dosage", "Administration", "Frequency", "Duration"),
        ("Medication", "Therapeutic_procedure"),
        "Match every dose, route, frequency and duration in the note with the treatment that it belongs to. "
        f'{AS_PAIRS} "dose -> treatment".',
    ),
    Link(
        ("MODIFY",),
        ("Severity", "Detailed_description", "Shape", "Color", "Texture", "Distance", "Area", "Volume"),
        FINDINGS,
        "Which words in the note describe a symptom or disease more closely, such as its severity, size or kind? "
        f'{AS_PAIRS} "description -> symptom or disease".',
    ),
    Link(("CAUSE",), (), (), f'What does the note say caused what? {AS_PAIRS} "cause -> effect".'),
)
ORDERS = {"BEFORE": "before", "AFTER": "after", "OVERLAP": "overlap"}
TIMES = ("Date", "Time", "Duration", "Age", "Frequency")  # times of events, not events


def questions(source: Path, seed: int) -> Iterator[Question]:
    for document in brat.documents(source):
        base = Question("", document.name, "", document.text, "", "", "case report", "MACCROBAT")
        if asked := annotated_spans.entity_question(base, document.entities, TYPES):
            yield asked
        yield from annotated_spans.link_questions(base, document.relations, LINKS)
        ordered = [
            (
                annotated_spans.one_line(relation.first.text),
                ORDERS[relation.type],
                annotated_spans.one_line(relation.second.text),
            )
            for relation in document.relations
            if relation.type in ORDERS and not {relation.first.type, relation.second.type} & set(TIMES)
        ]
        if asked := annotated_spans.order_question(base, ordered, seed):
            yield asked
        same = [(relation.first, relation.second) for relation in document.relations if relation.type == "IDENTICAL"]
        yield from annotated_spans.coreference_questions(base, annotated_spans.chains(same), seed)
