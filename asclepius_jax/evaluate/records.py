"""The types on disk of an evaluation.

    evaluation/questions/   questions-00000-of-00001.parquet   manifest.json      kind "questions"
    evaluation/answers/     answers-...parquet: of one or several models          kind "answers"
    evaluation/judged/      judgements-...parquet: a row for each judge's vote    kind "judgements"
    evaluation/ratings/     ratings-...parquet: a row for each rater's item       kind "ratings"
    calibration/labels/     labels-...parquet: what is wrong with an answer       kind "labels"

Folders are written by `data_prep.contract.manifests.writing_folder`, as those of the text side are. A question is
known by its id, an answer by its question's id and the name of its model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import read_parquet

# Finish reasons of an answer whose text is no answer but says why there is none: missing, whatever is measured.
NO_ANSWER = ("error", "too_long")


@dataclass(frozen=True)
class Question:
    id: str
    note_id: str  # questions on one note are not independent: statistics cluster by it
    task: str
    note: str
    instruction: str
    reference: str = ""  # an answer that is known to be right, where there is one
    note_type: str = ""
    source: str = ""  # the corpus that the note comes from
    year: str = ""  # of the publication, where it is known
    restricted: bool = False  # a real note: it goes to no endpoint but one of the house's own


@dataclass(frozen=True)
class Answer:
    question_id: str
    model: str  # the name that it goes by in this evaluation
    text: str
    finish_reason: str  # "stop", "length", or what a teacher's Reply says; an "error" has its message as text
    prompt_format: str = ""  # a row of formats.FORMATS


@dataclass(frozen=True)
class Judgement:
    """One vote of one judge on one answer."""

    question_id: str
    model: str
    judge: str
    vote: int  # 0, 1, ...: the order of the options differs
    score: int  # 1 to 4 by `rubric.score`; 0 where the judge's reply could not be read: missing, never a score
    incorrect: bool = False
    omitted: str = ""  # a name of rubric.OMISSIONS
    answerable: bool = True
    recognised: bool = True
    evidence: str = ""  # quoted from the note or the answer
    problem: str = ""  # why it could not be read


@dataclass(frozen=True)
class Rating:
    """One rater's verdict on one answer."""

    rater: str
    question_id: str
    model: str
    score: int  # 1 to 4 by `rubric.score`; 0 for "cannot judge"
    repeat: int = 0  # 1 where the rater sees it for the second time
    incorrect: bool = False
    omitted: str = ""
    answerable: bool = True
    recognised: bool = True
    seconds: float = 0.0  # that the item was in sight
    spans: str = ""  # JSON: [{"start", "end", "type", "severity"}] of the answer that were marked as hallucinated
    comment: str = ""


@dataclass(frozen=True)
class Label:
    """What is known to be wrong with an answer, since it was put there: what judges are judged by."""

    question_id: str
    error: str  # its class; empty where the answer is right
    shows: str  # how a judge sees it: "incorrect", "omitted" or "unanswerable"; empty where the answer is right


def read_records(folder: Path, kind: str, record_type: type) -> Iterator[Any]:
    """The records of a finished folder of one kind; UserError where it is not one."""
    for path in verified_files(folder, read_manifest(folder, kind)):
        yield from read_parquet(path, record_type)
