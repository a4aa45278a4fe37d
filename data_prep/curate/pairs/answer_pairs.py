"""Pairs of two answers that models gave to one question, of which the certificate shows one to be less faithful.

The answers are those of `asclepius evaluate answers`, of several models or several samples of one. Their files are read
by the names of their columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, Manifest, read_manifest, verified_files
from data_prep.contract.prompt.cited_sentences import has_citation
from data_prep.contract.records import Certificate, Generation, Pair, Reject, read_parquet, text_hash
from data_prep.execution.parts import is_part
from data_prep.faithfulness.certificate import certify

FINISHED = "stop"  # with any other finish reason the text is cut off, or is no answer


@dataclass(frozen=True)
class GivenAnswer:
    """The columns of a folder of answers that pairs need."""

    question_id: str
    model: str
    text: str
    finish_reason: str
    seed: int


@dataclass(frozen=True)
class GivenQuestion:
    """The columns of a folder of questions that pairs need."""

    id: str
    note_id: str
    task: str
    note: str
    instruction: str
    note_type: str
    source: str
    restricted: bool
    report_id: str
    article: str


@dataclass(frozen=True)
class Asked:
    """A question with its finished answers, which differ from each other."""

    id: str
    question: GivenQuestion
    answers: tuple[GivenAnswer, ...]


def records_of(folder: Path, kind: str, record_type: type) -> Iterator[Any]:
    columns = [field.name for field in fields(record_type)]
    for path in verified_files(folder, read_manifest(folder, kind)):
        yield from read_parquet(path, record_type, columns)


def folders_of_answers(folders: Sequence[Path]) -> list[Path]:
    """The finished folders of answers among these and directly inside them. Raises UserError if there are none."""
    found = []
    for folder in folders:
        if (folder / MANIFEST).is_file() or not folder.is_dir():
            found.append(folder)
        else:
            inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            found += [path for path in inside if not path.name.startswith(".") and not is_part(path)]
    if not found:
        raise UserError(f"--from {' '.join(map(str, folders))}: no finished folder of answers in it")
    return found


def content_of(manifest: Manifest) -> str:
    return text_hash(*(file["sha256"] for file in manifest["files"]))


def questions_of(folders: Sequence[Path], given: Path | None) -> Path:
    """The folder of questions: the given one, or the one that the answers' manifests name.

    Raises UserError if there is none, or if a folder answers other questions.
    """
    manifests = {folder: read_manifest(folder, "answers") for folder in folders}
    named = [Path(name) for manifest in manifests.values() for name in manifest["inputs"]]
    folder = given or next((path for path in named if (path / MANIFEST).is_file()), None)
    if folder is None:
        raise UserError(f"{folders[0]}: its questions are no longer where they were: name them with --questions")
    content = content_of(read_manifest(folder, "questions"))
    for answers, manifest in manifests.items():
        if content not in manifest["inputs"].values():
            raise UserError(f"{answers} does not answer the questions of {folder}: name its own with --questions")
    return folder


def asked_in(folders: Sequence[Path], questions: Path) -> Iterator[Asked]:
    """Each question with its answers. Raises UserError for an answer to an unknown question."""
    by_question: dict[str, dict[str, GivenAnswer]] = {}
    for folder in folders:
        for answer in records_of(folder, "answers", GivenAnswer):
            texts = by_question.setdefault(answer.question_id, {})
            if answer.finish_reason == FINISHED and answer.text.strip():
                texts.setdefault(answer.text.strip(), answer)
    for question in records_of(questions, "questions", GivenQuestion):
        yield Asked(question.id, question, tuple(by_question.pop(question.id, {}).values()))
    if by_question:
        raise UserError(f"{folders[0]} answers {min(by_question)}, which is not in {questions}: run answers again")


@dataclass(frozen=True)
class RankAnswers:
    """The pairs of one question, nearest in length first; each answer is in one of them at most."""

    per_example: int

    async def __call__(self, asked: Asked, _: Any) -> list[Pair | Reject]:
        if len(asked.answers) < 2:
            return [Reject.of(asked, "too_few_answers", f"{len(asked.answers)} finished and different")]
        checked = [(answer, certify(answer.text.strip(), asked.question.note)) for answer in asked.answers]
        apart = [sorted(two, key=unsupported_in) for two in combinations(checked, 2)]
        apart = [two for two in apart if unsupported_in(two[0]) < unsupported_in(two[1])]
        if not apart:
            detail = f"{unsupported_in(checked[0])} unsupported in each of {len(checked)} answers"
            return [Reject.of(asked, "equal", detail)]
        taken: set[str] = set()
        pairs: list[Pair | Reject] = []
        for (better, right), (worse, wrong) in sorted(apart, key=distance):
            if len(pairs) < self.per_example and not taken & {better.text, worse.text}:
                taken |= {better.text, worse.text}
                name = f"{asked.id} {len(pairs)}"
                pairs.append(pair_of_answers(name, asked.question, (better, right), (worse, wrong)))
        return pairs


Checked = tuple[GivenAnswer, Certificate]


def unsupported_in(checked: Checked) -> int:
    return checked[1].unsupported


def distance(two: Sequence[Checked]) -> tuple[int, int]:
    """How far apart two answers are in length, then how near in their unsupported statements."""
    lengths = [len(answer.text.strip()) for answer, _ in two]
    return abs(lengths[0] - lengths[1]), unsupported_in(two[0]) - unsupported_in(two[1])


def pair_of_answers(name: str, question: GivenQuestion, better: Checked, worse: Checked) -> Pair:
    return Pair(
        id=name,
        note_id=question.note_id,
        report_id=question.report_id,
        task=question.task,
        note=question.note,
        question=question.instruction,
        chosen=better[0].text.strip(),
        rejected=worse[0].text.strip(),
        error="",
        change="",
        flagged=True,
        source=question.source,
        licence="unknown",
        article=question.article,
        chosen_generation=generation_of(better[0]),
        rejected_generation=generation_of(worse[0]),
        chosen_certificate=better[1],
        rejected_certificate=worse[1],
        restricted=question.restricted,
        note_type=question.note_type,
        cites=has_citation(better[0].text) or has_citation(worse[0].text),
    )


def generation_of(answer: GivenAnswer) -> Generation:
    return Generation("answers", answer.model, "", answer.seed, answer.finish_reason)
