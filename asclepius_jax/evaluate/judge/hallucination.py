"""Count unsupported and omitted facts in answers, by class of fact and severity.

There are two readings. Strict: every fact that the note does not state is unsupported. Inference-aware: facts that
follow from the note by a named rule (converting a unit, subtracting dates, expanding an abbreviation) are supported.
Both see only the facts that the rules of `faithfulness` recognise.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question
from asclepius_jax.evaluate.statistics.estimates import SHARE, mean, rate
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.execution.processes import process_pool
from data_prep.execution.shards import available_cores
from data_prep.faithfulness.atoms.kinds import KINDS
from data_prep.faithfulness.certificate import check, source_of
from data_prep.synthesize.second_reader.verdicts import SAYS_ABSENT

# Kinds of facts that could cause harm if believed; the others are "minor".
MAJOR = ("dose", "frequency", "side", "finding", "negated finding", "drug", "procedure")
EXAMPLES = 3
CHUNK = 64


@dataclass
class Found:
    """Facts found in one answer."""

    question_id: str
    words: int
    atoms: Counter[str]  # by kind
    not_stated: Counter[str]
    unsupported: Counter[str]
    omitted: int  # atoms of the reference answer that are missing from the answer
    wanted: int  # atoms of the reference answer
    examples: list[dict[str, str]] = field(default_factory=list)


def look(question: Question, answer: Answer) -> Found:
    found = check(answer.text, question.note)
    wrong = [f for f in found if not f.supported]
    stated = {(f.atom.kind, f.atom.value[:2]) for f in found}
    known = "" if SAYS_ABSENT.search(question.reference) else question.reference
    wanted = {(a.kind, a.value[:2]) for reading in source_of(known).readings for a in reading.atoms} if known else set()
    return Found(
        question.id,
        len(without_citations(answer.text).split()),
        Counter(f.atom.kind for f in found),
        Counter(f.atom.kind for f in found if f.verdict.status != "stated"),
        Counter(f.atom.kind for f in wrong),
        len(wanted - stated),
        len(wanted),
        [
            {
                "kind": f.atom.kind,
                "text": f.atom.text,
                "why": f.verdict.rule,
                "sentence": answer.text[slice(*f.within)].strip(),  # with its citations
            }
            for f in wrong
        ],
    )


def look_at_chunk(chunk: list[tuple[Question, Answer]]) -> list[Found]:
    return [look(question, answer) for question, answer in chunk]


def look_at_all(pairs: Sequence[tuple[Question, Answer]]) -> Iterator[Found]:
    """Check all answers, in order, in parallel processes if there are enough."""
    chunks = [list(pairs[start : start + CHUNK]) for start in range(0, len(pairs), CHUNK)]
    if len(chunks) < 4 or available_cores() == 1:
        for chunk in chunks:
            yield from look_at_chunk(chunk)
        return
    with process_pool(available_cores()) as pool:
        for found in pool.map(look_at_chunk, chunks):
            yield from found


def analyse(questions: Mapping[str, Question], answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, Any]:
    """Rates with intervals, counts by kind and examples, for each model."""
    usable = {
        model: [(questions[id], by_question[id]) for id in questions if by_question[id].finish_reason not in NO_ANSWER]
        for model, by_question in answers.items()
    }
    found = look_at_all([pair for pairs in usable.values() for pair in pairs])
    return {
        model: model_figures([(question, next(found)) for question, _ in pairs], len(questions) - len(pairs))
        for model, pairs in usable.items()
    }


def model_figures(checked: list[tuple[Question, Found]], missing: int) -> dict[str, Any]:
    units = [question.cluster for question, _ in checked]
    found = [each for _, each in checked]

    def share_of_atoms(name: str) -> dict[str, Any]:
        """Mean share of an answer's atoms; answers without atoms are left out."""
        shares = [sum(getattr(f, name).values()) / f.atoms.total() if f.atoms else None for f in found]
        return asdict(mean(shares, units, SHARE))

    unsupported = sum((f.unsupported for f in found), Counter[str]())
    atoms = sum((f.atoms for f in found), Counter[str]())
    not_stated = sum((f.not_stated for f in found), Counter[str]())
    # A report is passed on, so that it quotes nothing about real patients.
    quotable = [f for question, f in checked if not question.restricted]
    examples = [{"question_id": f.question_id, **example} for f in quotable for example in f.examples]
    return {
        "answers": len(found),
        "missing": missing,
        "answers_with_unsupported": asdict(rate([bool(f.unsupported) for f in found], units)),
        "answers_with_major": asdict(rate([any(f.unsupported[kind] for kind in MAJOR) for f in found], units)),
        "strict": share_of_atoms("not_stated"),
        "inference_aware": share_of_atoms("unsupported"),
        "omitted": asdict(mean([f.omitted / f.wanted if f.wanted else None for f in found], units, SHARE)),
        "words": sum(f.words for f in found) / max(1, len(found)),
        "kinds": {
            kind: {
                "atoms": atoms[kind],
                "not_stated": not_stated[kind],
                "unsupported": unsupported[kind],
                "severity": "major" if kind in MAJOR else "minor",
            }
            for kind in KINDS
            if atoms[kind]
        },
        "examples": examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES],
    }
