"""A whole text stage: its settings, its run, a part of it, and the folder that it writes."""

import contextlib
import functools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import FolderWriter, read_manifest, writing_folder
from data_prep.contract.records import Reject
from data_prep.execution.cost_shares import settle_share, take_share
from data_prep.execution.parts import (
    KIND,
    Part,
    Parts,
    add_results,
    read_part,
    read_parts,
    writing_part,
)
from data_prep.execution.progress import say, shown
from data_prep.execution.shards import (
    SHARDS_AHEAD,
    In,
    Out,
    ShardsConfig,
    Work,
    available_cores,
    first,
    in_shards,
    map_in_processes,
    map_on_one_loop,
)
from data_prep.teachers.base import TeacherConfig, ledger_path
from data_prep.teachers.endpoint.dry_run import Counting
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.factory import make_teacher


class Calibration(Protocol):
    """Requests to the second reader that measure it, and what becomes of their results."""

    facts: dict[str, Any]

    @property
    def work(self) -> Work[Any, Any]: ...

    @property
    def cases(self) -> list[Any]: ...

    def conclude(self, shards: Iterable[list[Any]]) -> None: ...


@dataclass(frozen=True)
class Stage(Generic[Out]):
    """The settings of one run of a stage: its output and its teacher."""

    kind: str  # "notes" or "instructions": the output's kind and its files' prefix
    record_type: type[Out]
    out: Path
    teacher: TeacherConfig
    shards: ShardsConfig
    inputs: dict[str, str]  # names of the inputs -> hashes
    facts: dict[str, Any]  # further entries of the manifest
    total: int = 0  # number of input records; 0 if unknown
    reader: TeacherConfig | None = None  # the second reader, if there is one
    calibration: Calibration | None = None  # of the second reader, before the first record
    settings: tuple[str, Any] = ("", None)  # the command and the dataclass of its settings, for parts
    shared: dict[str, Any] = field(default_factory=dict)  # of part 0, for the others

    def map(
        self, work: Work[In, Out], records: Iterable[In | Reject], meter: Meter | None = None
    ) -> Generator[list[Out | Reject]]:
        return self.map_shards(work, in_shards(first(records, self.shards.limit), self.shards.shard_records), meter)

    def map_shards(
        self, work: Work[In, Out], shards: Iterable[list[In | Reject]], meter: Meter | None = None
    ) -> Generator[list[Out | Reject]]:
        ledger = ledger_path(self.teacher, self.out)
        make = functools.partial(make_teacher, self.teacher, ledger, meter or Meter(), self.reader)
        if self.teacher.teacher == "offline" and self.reader is None:
            return map_in_processes(work, make, shards, self.shards.workers or available_cores())
        return map_on_one_loop(work, make, shards, self.shards_ahead())

    def shards_ahead(self) -> int:
        """Number of shards to work on at once; of small shards, enough to keep the endpoint busy."""
        batches = self.teacher.batches
        if batches.batch:
            return math.ceil(batches.batch_window / self.shards.shard_records)
        return SHARDS_AHEAD + self.teacher.concurrency // self.shards.shard_records


def run_stage(
    stage: Stage[Out],
    work: Work[In, Out],
    records: Iterable[In | Reject],
    judge: Callable[[Out], Reject | None],
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Process all records, write the output folder and return its manifest.

    `judge` sees every result in input order, in this process, and may still reject it, for instance as a duplicate.
    `meter` has the requests that were made before. Raises UserError if there are no records, or if every request
    failed.
    """
    part = read_part(stage.shards.part)
    if stage.teacher.estimate:
        if part:
            raise UserError("--estimate counts the whole run: leave --part out")
        return estimate(stage, work, records)
    meter = meter or Meter()
    if part:
        return run_part(stage, part, work, records, meter)
    parts = read_parts(stage.shards.joined) if stage.shards.joined else None
    meter.total = min(stage.total or stage.shards.limit, stage.shards.limit or stage.total)
    with writing_folder(stage.out, stage.kind, stage.inputs) as writer, shown(stage.kind, meter.line):
        writer.facts.update(stage.facts)
        if parts:
            shards = parts.results(stage.record_type)
            writer.counts["in"] = parts.total("in")
            if stage.calibration:
                stage.calibration.facts.update(shared_by(parts, "calibration"))
        else:
            if stage.calibration:
                everything = replace(stage, shards=replace(stage.shards, limit=0))
                stage.calibration.conclude(everything.map(stage.calibration.work, stage.calibration.cases, meter))
            shards = stage.map(work, counted(records, writer), meter)
        # Closed at an interrupt too, with its processes and its ledger, whoever still holds the traceback.
        with contextlib.closing(shards):
            for results in shards:
                write_shard(writer, results, stage.record_type, judge)
                # writer.counts["in"] is larger, because later shards have been read already.
                meter.records = min(meter.records + stage.shards.shard_records, writer.counts["in"])
                meter.rejected = writer.reasons.total()
        writer.facts |= facts_of(meter, parts)
        if not writer.counts["in"]:
            raise UserError(f"{', '.join(stage.inputs)} contains no records: check --source")
        if not writer.shards and set(writer.reasons) == {"error"} and writer.last_reject:
            raise UserError(f"every request failed, the last with: {writer.last_reject.detail}")
        if not writer.shards:
            writer.add_shard([], stage.record_type)
    requests = f"; {meter.closing()}" if meter.closing() else ""
    say(f"{stage.kind}: {summary(writer)}, {time.monotonic() - meter.started:.1f} s -> {stage.out}{requests}")
    return read_manifest(stage.out, stage.kind)


def counted(records: Iterable[In | Reject], writer: FolderWriter) -> Iterator[In | Reject]:
    for record in records:
        writer.counts["in"] += 1
        yield record


def facts_of(meter: Meter, parts: Parts | None) -> dict[str, Any]:
    """Entries of the manifest about the replies to the requests of a run, or of its parts."""
    wrappings, omitted = Counter(meter.wrappings), set(meter.omitted)
    for manifest in parts.manifests if parts else ():
        wrappings.update(manifest.get("wrappings_removed", {}))
        omitted.update(manifest.get("parameters_omitted", ()))
    found: dict[str, Any] = {}
    if removed := {kind: count for kind, count in sorted(wrappings.items()) if count}:
        found["wrappings_removed"] = removed
    if omitted:
        found["parameters_omitted"] = sorted(omitted)
    return found


# ---------------------------------------------------------------- parts


def shared_by(parts: Parts, name: str) -> Any:
    if parts.shared is None or name not in parts.shared:
        raise UserError("part 0, which has what all parts share, is missing: name its folder too")
    return parts.shared[name]


def run_part(
    stage: Stage[Out], part: Part, work: Work[In, Out], records: Iterable[In | Reject], meter: Meter
) -> dict[str, Any]:
    """Work on the shards of one part and write its folder; of part 0, on what all parts share."""
    most = stage.teacher.budget.max_cost
    # Part 0 may have nothing to ask; what it has asked already is in `shared`.
    may_ask = part.number or stage.calibration or stage.shared
    limit = take_share(most, part, stage.out) if most and may_ask else 0.0

    def refuse_without_share() -> None:
        if most and not limit:
            raise UserError(
                f"--max-cost {most:g}: other parts have spent it, or may; wait for them, or raise the limit"
            )

    here = replace(stage, out=part.folder(stage.out), teacher=with_limit(stage.teacher, limit))
    if here.reader:
        here = replace(here, reader=with_limit(here.reader, limit))
    command, settings = stage.settings
    with (
        writing_part(part, stage.out, command, settings, stage.inputs) as writer,
        shown(f"{stage.kind}, part {part.number} of {part.count}", meter.line),
    ):
        if part.number == 0:
            writer.facts |= stage.shared
            if here.calibration:
                refuse_without_share()
                here.calibration.conclude(here.map(here.calibration.work, here.calibration.cases, meter))
                writer.facts["calibration"] = here.calibration.facts
        else:
            numbers: deque[int] = deque()
            shards = own_shards(here, part, records, writer, numbers, refuse_without_share)
            with contextlib.closing(here.map_shards(work, shards, meter)) as worked:
                for results in worked:
                    add_results(writer, numbers.popleft(), results, stage.record_type)
                    meter.records = min(meter.records + stage.shards.shard_records, writer.counts["in"])
        writer.facts |= facts_of(meter, None)
    if most and may_ask:
        settle_share(spent_by(here), part, stage.out)
    if part.number and not writer.facts["shards"]:
        say(f"{stage.kind}: no shard for part {part.number}: with fewer --shard-records, in all parts, there are more")
    say(f"{stage.kind}: part {part.number} of {part.count}, {writer.counts['in']} records -> {here.out}")
    return read_manifest(here.out, KIND)


def with_limit(teacher: TeacherConfig, limit: float) -> TeacherConfig:
    return replace(teacher, budget=replace(teacher.budget, max_cost=limit)) if limit else teacher


def spent_by(stage: Stage[Out]) -> float:
    """The cost in USD of all runs of a part: also of requests that a killed run made, and this one did not repeat."""
    path = ledger_path(stage.teacher, stage.out)
    if not path.exists():
        return 0.0
    with contextlib.closing(Ledger(path)) as ledger:
        return ledger.spent()


def own_shards(
    stage: Stage[Out],
    part: Part,
    records: Iterable[In | Reject],
    writer: FolderWriter,
    numbers: deque[int],
    check: Callable[[], None],
) -> Iterator[list[In | Reject]]:
    """The shards of a part, whose numbers are put into `numbers` as they are read; `check` may refuse."""
    every = in_shards(first(records, stage.shards.limit), stage.shards.shard_records)
    for number, shard in enumerate(every):
        if part.has(number):
            check()
            writer.counts["in"] += len(shard)
            numbers.append(number)
            yield shard


def estimate(stage: Stage[Out], work: Work[In, Out], records: Iterable[In | Reject]) -> dict[str, Any]:
    """Run the stage with a teacher and a reader that only count requests; print and return the counts."""
    counting = Counting(stage.teacher, ledger_path(stage.teacher, stage.out))
    if stage.reader:
        counting.reader = Counting(stage.reader, ledger_path(stage.teacher, stage.out))
    shards = in_shards(first(records, stage.shards.limit), stage.shards.shard_records)
    if stage.calibration:
        for _ in map_on_one_loop(stage.calibration.work, lambda: counting, [stage.calibration.cases]):
            pass
    for _ in map_on_one_loop(work, lambda: counting, shards):
        pass
    for line in counting.lines():
        print(f"{stage.kind}: {line}")
    return counting.figures()


def write_shard(
    writer: FolderWriter, results: list[Out | Reject], record_type: type[Out], judge: Callable[[Out], Reject | None]
) -> None:
    kept: list[Out] = []
    for result in results:
        if isinstance(result, Reject):
            writer.reject([result])
        elif reject := judge(result):
            writer.reject([reject])
        else:
            kept.append(result)
    if kept:
        writer.add_shard(kept, record_type)


def summary(writer: FolderWriter) -> str:
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.reasons.items())) or "none"
    return f"{writer.counts['in']} in, {writer.counts['out']} out, rejected: {rejected}"
