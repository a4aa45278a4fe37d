"""Stage 2: case report → note. One discharge summary for each report, with where it comes from.

asclepius notes --source case_reports.jsonl --out notes --teacher offline
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from data_prep.case_reports import ReportsConfig, open_reports
from data_prep.filters import Duplicates, reason_to_reject
from data_prep.prompts import NOTE_PROMPT, note_messages
from data_prep.records import CaseReport, Generation, Note, Record, Reject
from data_prep.shards import ShardsConfig, Stage, check_shards, run_stage
from data_prep.teacher import Request, Teacher, TeacherConfig, check_teacher, request_seed, sampling

NOTE_TYPE = "discharge summary"


@dataclass(frozen=True)
class NotesConfig:
    source: str
    """Case reports: a .csv, .json, .jsonl, .parquet or .txt file, a folder of one kind of these, or the id of a data
    set on the Hugging Face hub."""

    out: Path
    """The folder to write; a finished one of the same kind is replaced."""

    reports: tyro.conf.OmitArgPrefixes[ReportsConfig] = field(default_factory=ReportsConfig)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)

    seed: int = 0
    """Every request's sampling seed is derived from it and from the record's id."""


@dataclass(frozen=True)
class WriteNote:
    """The work on one report."""

    seed: int

    async def __call__(self, report: CaseReport, teacher: Teacher) -> list[Record]:
        seed = request_seed(self.seed, "note", report.id)
        request = Request("note", report.id, note_messages(report.text), {"report": report.text}, seed)
        reply = await teacher.ask(request)
        note = Note(
            id=f"{report.id}-ds",
            report_id=report.id,
            note_type=NOTE_TYPE,
            text=reply.text.strip(),
            source=report.source,
            licence=report.licence,
            article=report.article,
            generation=Generation(teacher.name, reply.model, NOTE_PROMPT.hash, seed, reply.finish_reason),
        )
        broken = reason_to_reject("note", reply)
        return [Reject.of(note, *broken) if broken else note]


def run(config: NotesConfig) -> dict[str, Any]:
    """Write the notes folder; its manifest. UserError for what the caller can mend."""
    check_teacher(config.teacher)
    check_shards(config.shards)
    source = open_reports(config.source, config.reports)
    seen = Duplicates()

    def judge(note: Note) -> Reject | None:
        return (
            Reject.of(note, "duplicate", "the same text as an earlier note") if seen.is_duplicate(note.text) else None
        )

    facts = {"teacher": sampling(config.teacher), "seed": config.seed}
    # Only an endpoint takes so long that it is worth knowing how much is left.
    api = config.teacher.teacher != "offline" and not config.teacher.estimate
    total = sum(1 for _ in open_reports(config.source, config.reports).records()) if api else 0
    stage = Stage("notes", Note, config.out, config.teacher, config.shards, source.inputs, facts, total)
    return run_stage(stage, WriteNote(config.seed), source.records(), judge)
