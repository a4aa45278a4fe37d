"""Pairs of two answers that models gave to one question, of which one is more faithful to the note.

The answers are those of `asclepius evaluate answers`, of several models or several samples of one. Their files are read
by the names of their columns.

Certificate and citations say which answer is better: it has fewer unsupported statements or fewer sentences with wrong
citations, more of neither, and no fewer supported statements. Without the last condition, the shorter of two answers
would win, and tuning on such pairs teaches a model to say less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, Manifest, read_manifest, verified_files
from data_prep.contract.prompt.cited_sentences import has_citation
from data_prep.contract.records import Certificate, Generation, Pair, Reject, read_parquet, text_hash
from data_prep.execution.parts import is_part
from data_prep.faithfulness.certificate import certificate, check
from data_prep.faithfulness.citations import check_citations

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
    reference: str
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


def cites(questions: Path) -> bool:
    """Return True if the reference answers to these questions cite the sentences of their notes."""
    return any(has_citation(question.reference) for question in records_of(questions, "questions", GivenQuestion))


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
    cites: bool  # the answers are to cite the sentences of the note

    async def __call__(self, asked: Asked, _: Any) -> list[Pair | Reject]:
        if len(asked.answers) < 2:
            return [Reject.of(asked, "too_few_answers", f"{len(asked.answers)} finished and different")]
        checked = [checked_answer(answer, asked.question.note, self.cites) for answer in asked.answers]
        fewer = [two for two in permutations(checked, 2) if has_fewer_mistakes(*two)]
        apart = [two for two in fewer if two[0].supported >= two[1].supported]
        if not apart:
            if fewer:
                return [Reject.of(asked, "says_less", "the answers with fewer mistakes state less of the note")]
            counts = ", ".join(f"{each.unsupported} + {each.miscited}" for each in checked)
            return [Reject.of(asked, "equal", f"unsupported + wrongly cited in the answers: {counts}")]
        taken: set[str] = set()
        pairs: list[Pair | Reject] = []
        for better, worse in sorted(apart, key=distance):
            if len(pairs) < self.per_example and not taken & {better.text, worse.text}:
                taken |= {better.text, worse.text}
                name = f"{asked.id} {len(pairs)}"
                pairs.append(pair_of_answers(name, asked.question, better, worse, self.cites))
        return pairs


@dataclass(frozen=True)
class CheckedAnswer:
    answer: GivenAnswer
    text: str
    certificate: Certificate
    supported: int  # statements that the note supports; repeated ones count once
    miscited: int  # sentences whose citations are wrong or missing

    @property
    def unsupported(self) -> int:
        return self.certificate.unsupported


def checked_answer(answer: GivenAnswer, note: str, cites: bool) -> CheckedAnswer:
    text = answer.text.strip()
    found = check(text, note)
    supported = {(finding.atom.kind, finding.atom.text.lower()) for finding in found if finding.supported}
    miscited = sum(bool(sentence.problem) for sentence in check_citations(note, text)) if cites else 0
    return CheckedAnswer(answer, text, certificate(found, note), len(supported), miscited)


def has_fewer_mistakes(one: CheckedAnswer, other: CheckedAnswer) -> bool:
    """Return True if one answer has fewer mistakes of a kind than the other, and no more of the other kind."""
    mistakes, others = (one.unsupported, one.miscited), (other.unsupported, other.miscited)
    return mistakes != others and all(a <= b for a, b in zip(mistakes, others, strict=True))


def distance(two: Sequence[CheckedAnswer]) -> tuple[int, int]:
    """How far apart two answers are in length, then how near in their mistakes."""
    better, worse = two
    mistakes = better.unsupported + better.miscited - worse.unsupported - worse.miscited
    return abs(len(better.text) - len(worse.text)), mistakes


def pair_of_answers(
    name: str, question: GivenQuestion, better: CheckedAnswer, worse: CheckedAnswer, cites: bool
) -> Pair:
    return Pair(
        id=name,
        note_id=question.note_id,
        report_id=question.report_id,
        task=question.task,
        note=question.note,
        question=question.instruction,
        chosen=better.text,
        rejected=worse.text,
        error="",
        change="",
        flagged=worse.unsupported > 0,
        source=question.source,
        licence="unknown",
        article=question.article,
        chosen_generation=generation_of(better.answer),
        rejected_generation=generation_of(worse.answer),
        chosen_certificate=better.certificate,
        rejected_certificate=worse.certificate,
        restricted=question.restricted,
        note_type=question.note_type,
        cites=cites,
    )


def generation_of(answer: GivenAnswer) -> Generation:
    return Generation("answers", answer.model, "", answer.seed, answer.finish_reason)
