"""Record types that an evaluation stores on disk.

    evaluation/questions/   questions-00000-of-00001.parquet   manifest.json      kind "questions"
    evaluation/answers/     answers-...parquet: one or several models             kind "answers"
    evaluation/judged/      judgements-...parquet: one row per vote of the judge  kind "judgements"
    evaluation/ratings/     ratings-...parquet: one row per rater and answer      kind "ratings"
    calibration/labels/     labels-...parquet: the known error of an answer       kind "labels"

Folders are written by `data_prep.contract.manifests.writing_folder`, like those of the text side. A question is
identified by its id, an answer by its question's id and the name of its model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import read_parquet

# With these finish reasons the text gives the reason why there is no answer. Every measure counts it as missing.
NO_ANSWER = ("error", "too_long")
# With these, the model gave no whole answer. The second reading of scores counts them as unacceptable.
FAILED = (*NO_ANSWER, "length", "unfinished", "content_filter", "refusal", "invalid", "declined")
# How a sentence of a note bears on a question, in the judgement of people.
EVIDENCE = ("essential", "supplementary", "not-relevant")


@dataclass(frozen=True)
class Question:
    id: str
    note_id: str
    task: str
    note: str
    instruction: str
    reference: str = ""  # an answer known to be right; empty if there is none
    note_type: str = ""
    source: str = ""  # the corpus that the note comes from
    year: str = ""  # year of publication; empty if unknown
    restricted: bool = False  # a real note, which may only be sent to an endpoint of one's own institution
    report_id: str = ""  # the patient: the case report that the note was made from, or the person of a real note
    article: str = ""  # the publication that the case report comes from
    teacher: str = ""  # the model that wrote the reference; empty if unknown
    evidence: str = (
        ""  # JSON: [start, end, one of EVIDENCE] of the note's sentences that people labelled; empty if none
    )

    @property
    def cluster(self) -> tuple[str, str]:
        """The coarsest known unit that this question shares with others: its article, patient or note.

        Questions of one unit are not independent, so statistics resample units.
        """
        if self.article:
            return "article", self.article
        if self.report_id:
            return "patient", f"{self.source} {self.report_id}"
        return "note", self.note_id


def unit_of(questions: Iterable[Question]) -> str:
    """The unit that statistics on these questions resample, in plural: "articles", "patients", "notes" or several."""
    found = {question.cluster[0] for question in questions}
    return " and ".join(f"{unit}s" for unit in ("article", "patient", "note") if unit in found) or "notes"


@dataclass(frozen=True)
class Answer:
    question_id: str
    model: str  # the model's name in this evaluation
    text: str
    finish_reason: str  # "stop", "length" or that of a teacher's Reply; for "error", `text` is the error message
    prompt_format: str = ""  # one of prompt_formats.FORMATS
    seed: int = 0  # of the sampling
    variant_of: str = ""  # the model of which this is a further sample, with another seed; empty for its first sample


@dataclass(frozen=True)
class Judgement:
    """One vote of one judge on one answer."""

    question_id: str
    model: str
    judge: str
    vote: int  # 0, 1, ...; the prompt lists its options in a different order for each vote
    score: int  # 1 to 4 by `rubric.score`; 0 means missing: the judge's reply could not be read
    incorrect: bool = False
    omitted: str = ""  # one of rubric.OMISSIONS
    answerable: bool = True
    recognised: bool = True
    evidence: str = ""  # JSON list of quotations, or of a judge by rule its reasons
    problem: str = ""  # why the reply could not be read; empty if it was read
    harm: str = ""  # one of rubric.HARMS; empty if the judge does not grade harm
    # JSON of the order in which the judge saw the options of each question, or the models of a list; empty if unknown
    order: str = ""
    seed: int = 0  # of the answer, as is variant_of
    variant_of: str = ""


@dataclass(frozen=True)
class Rating:
    """One rater's verdict on one answer."""

    rater: str
    question_id: str
    model: str
    score: int  # 1 to 4 by `rubric.score`; 0 for "cannot judge"
    repeat: int = 0  # 1 if the rater sees the answer for the second time
    incorrect: bool = False
    omitted: str = ""
    answerable: bool = True
    recognised: bool = True
    seconds: float = 0.0  # time for which the item was visible
    spans: str = ""  # JSON list of spans marked as hallucinated: [{"start", "end", "type", "severity"}]
    comment: str = ""
    answer_seconds: float = 0.0  # of `seconds`, those with this answer as the current one; 0 if not known
    cites: bool = False  # the answer cites sentences of the note


@dataclass(frozen=True)
class Label:
    """Error that was planted in an answer, with which judges are calibrated."""

    question_id: str
    error: str  # class of the error; empty if the answer is right
    shows: str  # how it shows in a verdict: "incorrect", "omitted" or "unanswerable"; empty if the answer is right
    model: str = "planted"  # model name of the answer: lists of answers to judge together have several


def read_records(folder: Path, kind: str, record_type: type) -> Iterator[Any]:
    """Records of a finished folder. Raises UserError if the folder is not finished or is of another kind."""
    for path in verified_files(folder, read_manifest(folder, kind)):
        yield from read_parquet(path, record_type)
