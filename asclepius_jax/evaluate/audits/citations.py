"""Check the citations in answers against the sentences of the note that they name, by rule.

    asclepius evaluate citations --questions evaluation/questions --answers evaluation/answers --out citations.json

Recall and precision are those of ALCE (arXiv 2305.14627), with the rules of `faithfulness` in place of a model. Where
people labelled the sentences of a note, as in ArchEHR-QA, the cited sentences are compared with theirs as well.
`asclepius evaluate report --measured citations.json` shows the table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.answers.answers import read_answers
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records, unit_of
from asclepius_jax.evaluate.report.tables import keep, share
from asclepius_jax.evaluate.statistics.estimates import SHARE, ratio_of_sums
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.cited_sentences import cited, without_citations
from data_prep.faithfulness.citations import CitationCheck, NoteSentences, check_citations


@dataclass(frozen=True)
class CitationsConfig:
    questions: Path
    """Finished folder of questions."""

    answers: tuple[Path, ...]
    """Folders of answers to these questions, or folders that contain such folders."""

    out: Path | None = None
    """JSON file to write the table to. Without it, the table is only printed."""


@dataclass(frozen=True)
class Counts:
    """Sentences and citations of one answer. A sentence counts if it states something about the patient."""

    sentences: int = 0
    supported: int = 0  # by the sentences that they cite, alone
    uncited: int = 0
    unsupported: int = 0  # by the whole note
    citations: int = 0
    needed: int = 0  # citations without which their supported sentence is not supported
    unique: int = 0  # supported sentences that the rest of the note does not support
    labelled: int = 0  # cited sentences that people labelled
    relevant: int = 0  # of these, essential or supplementary
    essential: int = 0  # sentences that people labelled as essential
    found: int = 0  # of these, cited


# Figure, numerator and denominator, as fields of Counts, and its meaning.
FIGURES = (
    ("recall", "supported", "sentences", "sentences that the sentences they cite support alone"),
    ("precision", "needed", "citations", "citations that their sentence needs, in sentences that are supported"),
    ("uncited", "uncited", "sentences", "sentences that cite nothing"),
    ("unsupported", "unsupported", "sentences", "sentences that the whole note does not support"),
    ("unique evidence", "unique", "supported", "supported sentences that the note without the cited ones does not"),
)
EVIDENCE_FIGURES = (
    (
        "evidence precision",
        "relevant",
        "labelled",
        "cited sentences that people labelled as essential or supplementary",
    ),
    ("evidence recall", "found", "essential", "sentences labelled as essential that the answer cites"),
)


def run(config: CitationsConfig) -> dict[str, Any]:
    """Print, save and return the table. Raises UserError for invalid input, or if no answer cites anything."""
    questions = {question.id: question for question in read_records(config.questions, "questions", Question)}
    answers = read_answers(config.answers, config.questions)
    table = as_table(questions, answers)
    if not any(figures["citations"] for figures in table["figures"].values()):
        raise UserError(
            f"no answer in {', '.join(map(str, config.answers))} cites a sentence, as in “... was stopped [4, 7].”: "
            "answers cite if the model was tuned on `asclepius instructions --cite`"
        )
    keep(table, config.out)
    return table


def as_table(questions: Mapping[str, Question], answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, Any]:
    shown = FIGURES + (EVIDENCE_FIGURES if any(question.evidence for question in questions.values()) else ())
    figures = {model: figures_of(questions, list(by_question.values())) for model, by_question in answers.items()}
    meanings = "; ".join(f"{name}: {meaning}" for name, _, _, meaning in shown)
    return {
        "title": "Citations",
        "about": f"Shares with 95 % intervals clustered by {unit_of(questions.values())}, by the rules of the gate. "
        f"Sentences that state nothing about the patient are left out. {meanings[0].upper()}{meanings[1:]}.",
        "columns": ["model", "answers", "sentences", "citations", *(name for name, *_ in shown)],
        "table": [
            [model, *(f"{each[name]:,}" for name in ("answers", "sentences", "citations")),
             *(share(each[name]) for name, *_ in shown)]
            for model, each in figures.items()
        ],
        "figures": figures,
    }  # fmt: skip


def figures_of(questions: Mapping[str, Question], answers: Sequence[Answer]) -> dict[str, Any]:
    usable = [answer for answer in answers if answer.finish_reason not in NO_ANSWER]
    counted = [counts_of(questions[answer.question_id], answer.text) for answer in usable]
    clusters = [questions[answer.question_id].cluster for answer in usable]
    found: dict[str, Any] = {
        "answers": len(usable),
        "sentences": sum(each.sentences for each in counted),
        "citations": sum(each.citations for each in counted),
    }
    for name, part, whole, _ in FIGURES + EVIDENCE_FIGURES:
        parts, wholes = ([getattr(each, field) for each in counted] for field in (part, whole))
        found[name] = asdict(ratio_of_sums(parts, wholes, clusters, SHARE))
    return found


def counts_of(question: Question, answer: str) -> Counts:
    counts = count(question.note, answer)
    return added(counts, evidence_counts(question, answer)) if question.evidence else counts


def evidence_counts(question: Question, answer: str) -> Counts:
    """The sentences that an answer cites against those that people labelled.

    A cited sentence and a labelled one are the same if they share a character: others may divide the note differently.
    """
    sentences = NoteSentences.of(question.note).sentences
    numbers = {number for check in check_citations(question.note, answer) for number in check.cited}
    cited_places = [(s.start, s.end) for s in sentences if s.number in numbers]
    labels = json.loads(question.evidence)
    hit = [label for start, end, label in labels if any(a < end and start < b for a, b in cited_places)]
    return Counts(
        labelled=len(hit),
        relevant=len(hit) - hit.count("not-relevant"),
        essential=sum(label == "essential" for *_, label in labels),
        found=hit.count("essential"),
    )


def count(note: str, answer: str) -> Counts:
    source = NoteSentences.of(note)
    counts = Counts()
    for check in check_citations(note, answer):
        if check.cited or check.problem:
            counts = added(counts, sentence_counts(source, check))
    return counts


def sentence_counts(note: NoteSentences, check: CitationCheck) -> Counts:
    plain, numbers = without_citations(check.sentence), cited(check.sentence)
    supported = bool(numbers) and check.supported and check.problem in ("", "citation_idle")
    return Counts(
        sentences=1,
        supported=supported,
        uncited=not numbers,
        unsupported=bool(note.lacking(plain, note.text)),
        citations=len(numbers),
        needed=len(numbers) - len(check.idle) if supported else 0,
        unique=supported and not note.is_stated_elsewhere(plain, numbers),
    )


def added(one: Counts, other: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(asdict(one).values(), asdict(other).values(), strict=True)))
