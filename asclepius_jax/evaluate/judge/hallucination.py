"""What answers say that their notes do not, by class of fact and severity, and what they leave out.

Two readings: strict, in which whatever the note does not state counts; and inference-aware, in which what follows from
the note by a named rule (a unit converted, dates subtracted, an abbreviation) is supported. Both see what the rules of
`faithfulness` see, and nothing else.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from asclepius_jax.evaluate.judge.by_rule import SAYS_ABSENT
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question
from asclepius_jax.evaluate.statistics.estimates import mean, rate
from data_prep.execution.processes import process_pool
from data_prep.faithfulness.atoms.kinds import KINDS
from data_prep.faithfulness.certificate import check, source_of
from data_prep.synthesize.stage import available_cores

# What could harm if it were believed; the others are "minor".
MAJOR = ("dose", "frequency", "side", "finding", "negated finding", "drug", "procedure")
EXAMPLES = 3
CHUNK = 64


@dataclass
class Found:
    """Of one answer."""

    question_id: str
    words: int
    atoms: Counter[str]  # by kind
    not_stated: Counter[str]
    unsupported: Counter[str]
    omitted: int  # atoms of the known answer that it lacks
    wanted: int  # atoms of the known answer
    examples: list[dict[str, str]] = field(default_factory=list)


def look(question: Question, answer: Answer) -> Found:
    found = check(answer.text, question.note)
    wrong = [f for f in found if not f.supported]
    said = {(f.atom.kind, f.atom.value[:2]) for f in found}
    known = "" if SAYS_ABSENT.search(question.reference) else question.reference
    wanted = {(a.kind, a.value[:2]) for reading in source_of(known).readings for a in reading.atoms} if known else set()
    return Found(
        question.id,
        len(answer.text.split()),
        Counter(f.atom.kind for f in found),
        Counter(f.atom.kind for f in found if f.verdict.status != "stated"),
        Counter(f.atom.kind for f in wrong),
        len(wanted - said),
        len(wanted),
        [{"kind": f.atom.kind, "text": f.atom.text, "why": f.verdict.rule, "sentence": f.sentence} for f in wrong],
    )


def look_at_chunk(chunk: list[tuple[Question, Answer]]) -> list[Found]:
    return [look(question, answer) for question, answer in chunk]


def look_at_all(pairs: Sequence[tuple[Question, Answer]]) -> Iterator[Found]:
    """In order; in processes where there is enough to do."""
    chunks = [list(pairs[start : start + CHUNK]) for start in range(0, len(pairs), CHUNK)]
    if len(chunks) < 4 or available_cores() == 1:
        for chunk in chunks:
            yield from look_at_chunk(chunk)
        return
    with process_pool(available_cores()) as pool:
        for found in pool.map(look_at_chunk, chunks):
            yield from found


def analyse(questions: Mapping[str, Question], answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, Any]:
    """For each model: rates with intervals, counts by kind, and examples."""
    usable = {
        model: [(questions[id], mine[id]) for id in questions if mine[id].finish_reason not in NO_ANSWER]
        for model, mine in answers.items()
    }
    found = look_at_all([pair for pairs in usable.values() for pair in pairs])
    return {
        model: of_model([(question, next(found)) for question, _ in pairs], len(questions) - len(pairs))
        for model, pairs in usable.items()
    }


def of_model(looked: list[tuple[Question, Found]], missing: int) -> dict[str, Any]:
    notes = [question.note_id for question, _ in looked]
    found = [each for _, each in looked]

    def share_of_atoms(name: str) -> dict[str, Any]:
        """Of each answer's atoms; answers without an atom say nothing."""
        shares = [sum(getattr(f, name).values()) / f.atoms.total() if f.atoms else None for f in found]
        return asdict(mean(shares, notes))

    unsupported = sum((f.unsupported for f in found), Counter[str]())
    atoms = sum((f.atoms for f in found), Counter[str]())
    not_stated = sum((f.not_stated for f in found), Counter[str]())
    examples = [{"question_id": f.question_id, **example} for f in found for example in f.examples]
    return {
        "answers": len(found),
        "missing": missing,
        "answers_with_unsupported": asdict(rate([bool(f.unsupported) for f in found])),
        "answers_with_major": asdict(rate([any(f.unsupported[kind] for kind in MAJOR) for f in found])),
        "strict": share_of_atoms("not_stated"),
        "inference_aware": share_of_atoms("unsupported"),
        "omitted": asdict(mean([f.omitted / f.wanted if f.wanted else None for f in found], notes)),
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
