"""Stage 3: generate a question for a note and a task, then the answer in a separate request, then follow-up turns.

    asclepius instructions --source notes --out instructions --teacher offline --per-note 2 --follow-ups 1

Few-shot examples for the question come from the seed instructions and, with an API, from a pool of the run's own
questions. First the first `pool_notes` notes get questions from the seed instructions alone, and the questions that
pass the filters are stored in the ledger. Every later request shows some of each, drawn by a hash of its id. Requests
therefore depend neither on the order in which replies arrive nor on whether the run was interrupted.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import check_replaceable, read_manifest, verified_files
from data_prep.contract.records import (
    Example,
    Note,
    Reject,
    read_parquet,
    text_hash,
)
from data_prep.execution.parts import KIND, Part, read_part
from data_prep.execution.shards import ShardsConfig, check_shards
from data_prep.synthesize.filters import Duplicates
from data_prep.synthesize.gate import GateConfig, Tally, check_gate, reader_of
from data_prep.synthesize.prompts import (
    QUESTION_PROMPT,
)
from data_prep.synthesize.questions.seed_instructions import SEED_INSTRUCTIONS
from data_prep.synthesize.questions.task_weights import TaskWeights
from data_prep.synthesize.questions.write_examples import WriteExamples
from data_prep.synthesize.stage import Stage, run_stage
from data_prep.teachers.base import (
    TeacherConfig,
    check_teacher,
    ledger_path,
    sampling,
)
from data_prep.teachers.endpoint.allowed_hosts import why_not_send
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter


@dataclass(frozen=True)
class InstructionsConfig:
    """Generate instruction-answer pairs from notes. With --audit FOLDER, check a finished folder offline instead."""

    source: Path
    """Finished folder of notes."""

    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""

    per_note: int = 1
    """Number of instructions per note; their tasks differ as long as there are enough tasks."""

    follow_ups: int = 0
    """Number of follow-up turns after each instruction, in a conversation on the same note; every answer is trained
    on."""

    task_weights: TaskWeights = field(default_factory=TaskWeights)
    teacher: tyro.conf.OmitArgPrefixes[TeacherConfig] = field(default_factory=TeacherConfig)
    shards: tyro.conf.OmitArgPrefixes[ShardsConfig] = field(default_factory=ShardsConfig)
    gate: tyro.conf.OmitArgPrefixes[GateConfig] = field(default_factory=GateConfig)

    allow_remote: str = ""
    """Host name of an endpoint inside your institution to which real (restricted) notes may be sent; empty sends
    them nowhere."""

    cite: bool = False
    """End each sentence of an answer in the numbers of the note's sentences that support it, as in [4, 7]; answers
    whose citations fail the check are repaired once, then rejected."""

    pool_notes: int = 100
    """Number of notes whose questions become few-shot examples for the rest of an API run; 0 for seed instructions
    only."""

    seed: int = 0
    """Random seed for the choice of tasks and few-shot examples, and for sampling."""


def read_notes(paths: Sequence[Path]) -> Iterator[Note]:
    for path in paths:
        yield from read_parquet(path, Note)


def texts_to_read(config: InstructionsConfig, work: WriteExamples, paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The (id, text) of the run's notes. Raises UserError for a real note that must not be sent."""
    for note in itertools.islice(read_notes(paths), config.shards.limit or None):
        work.check_may_send(note)
        yield note.id, note.text


def frozen_pool(
    config: InstructionsConfig, name: str, work: WriteExamples, notes: list[Note], meter: Meter
) -> dict[str, list[str]]:
    """The questions of the first notes by task, made with seed instructions only and then stored in the ledger.

    Raises UserError if requests fail that may succeed later: every later request depends on the pool, so that a pool
    without their questions would make another data set.
    """

    part = read_part(config.shards.part)
    if config.shards.joined:
        return {}  # a join asks nothing
    if part and part.number:
        return pool_of_part_0(config.out, part, name)
    out = part.folder(config.out) if part else config.out
    stage = Stage("questions", Example, out, config.teacher, config.shards, {}, {})

    def make() -> dict[str, list[str]]:
        failed = math.inf
        while True:
            pool: dict[str, list[str]] = {}
            detail = ""
            asked = Meter()
            for results in stage.map(work, notes, asked):
                for result in results:
                    if isinstance(result, Reject):
                        detail = result.detail if result.reason == "error" else detail
                    elif result.question not in pool.setdefault(result.task, []):
                        pool[result.task].append(result.question)
            meter.add_earlier(asked)
            if not asked.passing:
                return pool
            if asked.passing >= failed:
                raise UserError(
                    f"{asked.passing} of the {len(notes) * config.per_note} questions that become examples for all "
                    f"others failed, the last with: {detail}; replies so far are saved: run this again, or choose "
                    "another --pool-notes if the same ones fail again"
                )
            failed = asked.passing

    ledger = Ledger(ledger_path(config.teacher, out))
    try:
        # An estimate sends nothing, so it makes no pool.
        return ledger.thawed(name) or {} if config.teacher.estimate else ledger.frozen(name, make)
    finally:
        ledger.close()


def pool_of_part_0(out: Path, part: Part, name: str) -> dict[str, list[str]]:
    folder = Part(0, part.count).folder(out)
    try:
        shared = read_manifest(folder, KIND)
    except UserError as error:
        raise UserError(
            f"{error}. Run --part 0/{part.count} first: it asks the questions that all parts show as examples"
        ) from error
    if shared["pool_name"] != name:
        raise UserError(f"{folder} was made of other notes or settings: run --part 0/{part.count} again")
    pool: dict[str, list[str]] = shared["pool"]
    return pool


def work_of_run(config: InstructionsConfig, content: str, paths: Sequence[Path], meter: Meter) -> WriteExamples:
    """The work on each note, with the pool of questions if this run uses one, whose requests count in `meter`."""
    weights = config.task_weights.by_task()
    offline = config.teacher.teacher == "offline"
    reader = reader_of(config.gate, config.teacher)
    hosts = [*([] if offline else [config.teacher.base_url]), *([reader.base_url] if reader else [])]
    seeds_only = WriteExamples(
        config.per_note, config.follow_ups, weights, config.seed, {}, frozenset(), config.gate,
        why_not_send=next(filter(None, (why_not_send(host, config.allow_remote) for host in hosts)), ""),
        cites=config.cite,
    )  # fmt: skip
    # The offline teacher uses no few-shot examples.
    if offline or not config.pool_notes:
        return seeds_only
    count = min(config.pool_notes, config.shards.limit or config.pool_notes)
    notes = list(itertools.islice(read_notes(paths), count))
    # Everything that the pool's requests depend on: a change of any of these needs a new pool.
    name = text_hash(
        content, QUESTION_PROMPT.hash, repr(SEED_INSTRUCTIONS), repr(sampling(config.teacher)), repr(weights),
        f"{config.seed} {config.per_note} {count}",
    )  # fmt: skip
    pool = frozen_pool(config, f"questions {name}", replace(seeds_only, questions_only=True), notes, meter)
    return replace(
        seeds_only, pool=pool, pool_notes=frozenset(note.id for note in notes), pool_name=f"questions {name}"
    )


def run(config: InstructionsConfig) -> dict[str, Any]:
    """Write the folder of instructions and return its manifest. Raises UserError for errors that the user can fix."""
    check_teacher(config.teacher)
    check_shards(config.shards)
    check_gate(config.gate)
    reader = reader_of(config.gate, config.teacher)
    if config.per_note < 1:
        raise UserError(f"--per-note {config.per_note}: must be at least 1")
    for name in ("pool_notes", "follow_ups"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be 0 or above")
    part = read_part(config.shards.part)
    check_replaceable(part.folder(config.out), KIND) if part else check_replaceable(config.out, "instructions")
    manifest = read_manifest(config.source, "notes")
    paths = verified_files(config.source, manifest)
    # Hash of the data files only: the manifest also contains run times, and the pool must survive a rerun of `notes`.
    content = text_hash(*(file["sha256"] for file in manifest["files"]))
    meter = Meter()
    work = work_of_run(config, content, paths, meter)
    seen = Duplicates()
    tally = Tally(config.gate, reader)

    def judge(example: Example) -> Reject | None:
        if seen.is_duplicate(example.note, example.question):
            return Reject.of(example, "duplicate", "the same note and question as an earlier example")
        tally.count(example.certificate)
        return None

    facts = {
        "teacher": sampling(config.teacher),
        "seed": config.seed,
        "per_note": config.per_note,
        "follow_ups": config.follow_ups,
        "cites": config.cite,
        "task_weights": work.weights,
        "faithfulness": tally.facts,
    }
    inputs = {str(config.source): content}
    stage = Stage(
        "instructions", Example, config.out, config.teacher, config.shards, inputs, facts, manifest["out"], reader,
        settings=("instructions", config), shared={"pool": work.pool, "pool_name": work.pool_name},
    )  # fmt: skip
    if reader:
        stage = replace(stage, calibration=tally.calibration(texts_to_read(config, work, paths), config.seed))
    return run_stage(stage, work, read_notes(paths), judge, meter)
