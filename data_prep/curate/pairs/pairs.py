"""Write pairs of a better and a worse answer to one question, without a model that judges.

    asclepius pairs --source data/split/train --out data/pairs
    asclepius pairs --from evaluation/answers --out data/pairs

    pairs/
      pairs-00000-of-00002.parquet   ...   rejected.parquet   manifest.json

With `--source`, the better answer is that of an example, and the worse one is the same with a planted error. With
`--from`, both are answers of models, and their certificates and citations say which is better.
"""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_prep.contract.errors import UserError
from data_prep.contract.manifests import FolderWriter, read_manifest, verified_files, writing_folder
from data_prep.contract.records import Example, Pair, Reject, read_parquet
from data_prep.curate.pairs.answer_pairs import (
    RankAnswers,
    asked_in,
    cites,
    content_of,
    folders_of_answers,
    questions_of,
)
from data_prep.curate.pairs.planted_pairs import (
    FindPlaces,
    Offer,
    Planned,
    PlantErrors,
    balanced,
    classes_without,
)
from data_prep.execution.progress import say
from data_prep.execution.shards import Work, available_cores, first, in_shards, map_in_processes
from data_prep.faithfulness.certificate import rules_version


@dataclass(frozen=True)
class PairsConfig:
    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""

    source: Path | None = None
    """Finished folder of instructions, such as one side of `asclepius split`. Errors are planted in its answers; an
    answer that is not faithful to its note is rejected. Follow-up turns are not used."""

    answers: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Folders of answers of models, or folders with such folders, in place of --source. The answers to a question are
    compared by their unsupported statements and, where reference answers cite, by their citations. The better one
    must not state less of the note."""

    questions: Path | None = None
    """Folder of the questions of --from, if it is no longer where the answers' manifests say."""

    without: tuple[str, ...] = ()
    """Classes of errors to leave out, such as trend, or dose for all that begin so. Quote names of several words."""

    per_example: int = 1
    """Largest number of pairs per instruction, of different classes of errors or of different answers."""

    per_class: int = 0
    """Largest number of pairs per class of errors; 0 for no limit."""

    seed: int = 0
    """Random seed for the choice of classes, places and new words."""

    shard_records: int = 1000
    """Input records per shard; the results of a shard are one output file."""

    workers: int = 0
    """Number of worker processes; 0 for one per core. The output does not depend on it."""

    limit: int = 0
    """Number of input records after which to stop; 0 reads all."""


@dataclass
class Tally:
    """Counts of the pairs that were written, for the manifest."""

    errors: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    blind_spots: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(self, pair: Pair) -> None:
        self.errors[pair.error].append(len(pair.rejected) - len(pair.chosen))
        self.blind_spots[pair.error] += not pair.flagged

    def facts(self) -> dict[str, Any]:
        """Entries of the manifest. Lengths are in characters; the mean difference is of rejected minus chosen."""
        differences = [difference for each in self.errors.values() for difference in each]
        by_class = {error: median_size(each) for error, each in sorted(self.errors.items()) if error}
        return {
            "errors": {error: len(each) for error, each in sorted(self.errors.items()) if error},
            "flagged": len(differences) - sum(self.blind_spots.values()),
            "blind_spots": {error: count for error, count in sorted(self.blind_spots.items()) if error and count},
            "median_length_difference": median_size(differences),
            "mean_length_difference": round(statistics.fmean(differences), 2) if differences else 0.0,
            "median_length_difference_by_class": by_class,
        }


def median_size(differences: list[int]) -> float:
    return float(statistics.median(map(abs, differences))) if differences else 0.0


def nothing() -> None:
    """The resource of the workers, who need none."""


def mapped(config: PairsConfig, work: Work[Any, Any], records: Iterator[Any]) -> Generator[list[Any]]:
    shards = in_shards(first(records, config.limit), config.shard_records)
    return map_in_processes(work, nothing, shards, config.workers or available_cores())


def run(config: PairsConfig) -> dict[str, Any]:
    """Write the folder of pairs and return its manifest. Raises UserError for errors that the user can fix."""
    check(config)
    classes = classes_without(config.without)
    if config.source:
        inputs = {str(config.source): content_of(read_manifest(config.source, "instructions"))}
    else:
        folders = folders_of_answers(config.answers)
        questions = questions_of(folders, config.questions)
        inputs = {str(folder): content_of(read_manifest(folder, "answers")) for folder in folders}
        inputs[str(questions)] = content_of(read_manifest(questions, "questions"))
    with writing_folder(config.out, "pairs", inputs) as writer:
        if config.source:
            writer.facts = {"classes": classes, "per_class": config.per_class, "seed": config.seed}
            shards = planted_shards(config, classes, writer)
        else:
            asked = counted(asked_in(folders, questions), writer)
            shards = mapped(config, RankAnswers(config.per_example, cites(questions)), asked)
        tally = Tally()
        with contextlib.closing(shards):
            for results in shards:
                write_shard(writer, results, tally)
        if not writer.counts["in"]:
            raise UserError(f"{', '.join(inputs)} contains no records: see rejected.parquet there")
        if not writer.shards:
            writer.add_shard([], Pair)
        writer.facts |= {"per_example": config.per_example, "rules": rules_version(), **tally.facts()}
    manifest = read_manifest(config.out, "pairs")
    rejected = ", ".join(f"{count} {reason}" for reason, count in manifest["rejected"].items()) or "none"
    say(
        f"pairs: {manifest['in']} in, {manifest['out']} out ({manifest['flagged']} flagged by the gate), "
        f"rejected: {rejected} -> {config.out}"
    )
    return manifest


def check(config: PairsConfig) -> None:
    if bool(config.source) == bool(config.answers):
        raise UserError("name either --source, a folder of instructions, or --from, folders of answers")
    if config.answers and (config.without or config.per_class):
        raise UserError("--without and --per-class are about planted errors, which --from has none of")
    if config.source and config.questions:
        raise UserError(f"--questions {config.questions} is for --from: instructions have their questions")
    for name in ("per_class", "workers", "limit"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be 0 or above")
    for name in ("per_example", "shard_records"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")


def counted(records: Iterator[Any], writer: FolderWriter) -> Iterator[Any]:
    for record in records:
        writer.counts["in"] += 1
        yield record


def planted_shards(config: PairsConfig, classes: tuple[str, ...], writer: FolderWriter) -> Generator[list[Any]]:
    """The pairs with planted errors, shard by shard.

    Two passes: all answers say first which classes they have places for, so that the classes can be balanced.
    """
    assert config.source
    paths = verified_files(config.source, read_manifest(config.source, "instructions"))

    def examples() -> Iterator[Example]:
        for path in paths:
            yield from read_parquet(path, Example)

    offers: dict[str, tuple[str, ...]] = {}
    with contextlib.closing(mapped(config, FindPlaces(classes, config.seed), counted(examples(), writer))) as found:
        for results in found:
            writer.reject(result for result in results if isinstance(result, Reject))
            offers |= {result.id: result.errors for result in results if isinstance(result, Offer)}
    chosen = balanced(offers, config.per_example, config.per_class, config.seed)

    def planned() -> Iterator[Planned | Reject]:
        for example in first(examples(), config.limit):
            assert isinstance(example, Example)
            if chosen.get(example.id):
                yield Planned(example.id, example, chosen[example.id])
            elif example.id in offers:
                yield Reject.of(example, "class_full", f"--per-class {config.per_class}: its classes have as many")

    yield from mapped(config, PlantErrors(config.seed), planned())


def write_shard(writer: FolderWriter, results: list[Any], tally: Tally) -> None:
    writer.reject(result for result in results if isinstance(result, Reject))
    pairs = [result for result in results if isinstance(result, Pair)]
    for pair in pairs:
        tally.count(pair)
    if pairs:
        writer.add_shard(pairs, Pair)
