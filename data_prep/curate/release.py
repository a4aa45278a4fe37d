"""Release of a folder of instructions as a data set, in the published columns, with a card that documents its origin.

    asclepius release --source data/split/train --held-out data/split/held_out --out dataset --push NAME/REPO

    dataset/
      train-00000-of-00001.parquet   test-00000-of-00001.parquet
      README.md                      the card: sources, licences, teacher, prompts, rejected records, faithfulness
      manifest.json

The columns are those of the published corpus, `patient_id, note, question, answer, task`, with `follow_ups` if the
data contains conversations, and `cites` if answers cite the sentences of their notes. `asclepius adopt` reads such
files back.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.clinical_text.identifiers import NEVER_PUBLISHED, find_identifiers
from data_prep.contract.errors import UserError
from data_prep.contract.hub import OTHER, Target, hub_name, push
from data_prep.contract.manifests import (
    MANIFEST,
    FolderWriter,
    is_restricted,
    read_manifest,
    verified_files,
    writing_folder,
)
from data_prep.contract.records import Example, read_parquet, text_hash
from data_prep.curate.split import patient_of, texts_of
from data_prep.ingest.article_ids import article_id

SHARD_RECORDS = 50_000
# If one source has such a licence, the whole data set has it; stricter licences first.
SHARE_ALIKE = ("cc-by-nc-sa-4.0", "cc-by-sa-4.0")
EXAMPLES_SHOWN = 2


@dataclass(frozen=True)
class ReleaseConfig:
    source: Path
    """Finished folder of instructions, such as `train` of a split."""

    out: Path
    """Output folder; a finished folder of the same kind is replaced, unless it contains files of yours."""

    held_out: Path | None = None
    """Folder of instructions that becomes the split `test`."""

    push: str = ""
    """Data set on the Hugging Face hub to push to, as NAME/REPO; created as private. Empty to push nothing."""

    public: bool = False
    """With --push: make the repository public, also if it exists and is private."""


@dataclass
class Tally:
    """Counts and examples of the records, for the card."""

    sources: Counter[str]
    licences: Counter[str]
    tasks: Counter[str]
    teachers: Counter[str]
    prompts: Counter[str]
    atoms: Counter[str]
    read: Counter[str]  # sentences by what the second reader says of them
    shown: list[Example]
    turns: int = 0
    citing: int = 0  # records whose answers cite

    @classmethod
    def empty(cls) -> "Tally":
        return cls(Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), [])

    def add(self, example: Example) -> None:
        self.sources[example.source] += 1
        self.licences[example.licence] += 1
        self.tasks[example.task] += 1
        self.turns += len(example.follow_ups)
        self.citing += example.cites
        for role, made in (("question", example.question_generation), ("answer", example.answer_generation)):
            self.teachers[f"{made.teacher}, {made.model}"] += 1
            self.prompts[f"{role} {made.prompt_hash}"] += 1
        for certificate in (example.certificate, *(turn.certificate for turn in example.follow_ups)):
            if certificate.reader.model:
                self.read.update({f"by {certificate.reader.model}": 1})
                self.read.update({name: getattr(certificate.reader, name) for name in READ})
            if certificate.rules:
                self.atoms.update(
                    {
                        "stated": certificate.stated,
                        "derived": certificate.derived,
                        "unsupported": certificate.unsupported,
                        f"rules {certificate.rules}": 1,
                    }
                )
        if len(self.shown) < EXAMPLES_SHOWN:
            self.shown.append(example)


COLUMNS = ("patient_id", "note", "question", "answer", "task", "note_type", "article")


def as_row(example: Example, conversations: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "patient_id": example.report_id,
        "note": example.note,
        "question": example.question,
        "answer": example.answer,
        "task": example.task,
        "note_type": example.note_type,
        "article": example.article,
    }
    if example.cites:
        row["cites"] = True
    if conversations:
        row["follow_ups"] = [
            {"task": turn.task, "question": turn.question, "answer": turn.answer} for turn in example.follow_ups
        ]
    return row


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    fields = [(name, text) for name in COLUMNS]
    if any("cites" in row for row in rows):
        fields.append(("cites", pa.bool_()))
    if rows and "follow_ups" in rows[0]:
        turn = pa.struct([("task", text), ("question", text), ("answer", text)])
        fields.append(("follow_ups", pa.list_(turn)))
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path, compression="zstd")


def examples_of(folder: Path) -> Iterator[Example]:
    manifest = read_manifest(folder, "instructions")
    for path in verified_files(folder, manifest):
        yield from read_parquet(path, Example)


def check(folder: Path) -> bool:
    """Return True if the folder contains conversations. Raises UserError if a record must not be published."""
    conversations = False
    for example in examples_of(folder):
        if example.restricted:
            raise UserError(f"{folder}: {example.id} uses a real note and must not leave the institution: remove it")
        if found := next(
            (item for text in texts_of(example) for item in find_identifiers(text, NEVER_PUBLISHED)), None
        ):
            raise UserError(
                f"{folder}: {example.id} contains an identifier ({found.kind}: {found.text!r}): remove such records "
                "with asclepius split, and release its train folder"
            )
        conversations = conversations or bool(example.follow_ups)
    if is_restricted(folder):
        raise UserError(
            f"{folder} is restricted: it has real notes or text made from them, which must not be published"
        )
    return conversations


def check_apart(train: Path, held_out: Path) -> None:
    """Raise UserError if two folders are of different splits, or if a note, patient or article is in both."""
    facts = []
    for folder in (train, held_out):
        manifest = read_manifest(folder, "instructions")
        split = manifest.get("split")
        facts.append({**split, "side": "", "inputs": sorted(manifest["inputs"].values())} if split else None)
    if all(facts) and facts[0] != facts[1]:
        raise UserError(f"{train} and {held_out} are not of one split: run asclepius split again, and pass both sides")
    outside = set().union(*map(origins, examples_of(held_out)))
    shared = {origin for example in examples_of(train) for origin in origins(example) if origin in outside}
    if shared:
        raise UserError(
            f"{len(shared)} notes, patients or articles of {held_out} are in {train} too, such as {min(shared)}: pass "
            "both sides of one asclepius split"
        )


def origins(example: Example) -> set[str]:
    """Names of the note's text, its patient and its article, none of which may be on both sides of a split."""
    article = article_id(example.article)
    return {f"note {text_hash(example.note)}", patient_of(example), *([f"article {article}"] if article else [])}


def run(config: ReleaseConfig) -> None:
    """Write the data set and, with `push`, upload it. Raises UserError for errors that the user can fix."""
    splits = {"train": config.source, **({"test": config.held_out} if config.held_out else {})}
    manifests = {name: read_manifest(folder, "instructions") for name, folder in splits.items()}
    checked = {name: check(folder) for name, folder in splits.items()}
    if config.held_out:
        check_apart(config.source, config.held_out)
    conversations = any(checked.values())
    inputs = {name: text_hash(*(file["sha256"] for file in manifests[name]["files"])) for name in splits}
    tally = Tally.empty()
    counts: dict[str, int] = {}
    with writing_folder(config.out, "dataset", inputs, of_records=False) as writer:
        for name, folder in splits.items():
            counts[name] = write_split(writer, name, folder, conversations, tally)
        writer.counts["in"] = writer.counts["out"]
        writer.facts = {"columns": list(COLUMNS), "splits": counts}
        card = dataset_card(tally, counts, funnel(splits["train"], manifests["train"]))
        (writer.path / "README.md").write_text(card, encoding="utf-8")
    print(f"release: {', '.join(f'{count} {name}' for name, count in counts.items())} -> {config.out}", flush=True)
    if config.push:
        names = [file["name"] for file in read_manifest(config.out, "dataset")["files"]]
        message = f"{sum(counts.values())} records, by asclepius-jax"
        push(config.out, Target(config.push, "dataset", config.public), [*names, "README.md", MANIFEST], message)


def write_split(writer: FolderWriter, name: str, folder: Path, conversations: bool, tally: Tally) -> int:
    total = read_manifest(folder, "instructions")["out"]
    shards = max(1, -(-total // SHARD_RECORDS))
    rows: list[dict[str, Any]] = []
    index = written = 0
    for example in examples_of(folder):
        tally.add(example)
        rows.append(as_row(example, conversations))
        written += 1
        if len(rows) == SHARD_RECORDS or written == total:
            file = f"{name}-{index:05d}-of-{shards:05d}.parquet"
            write_rows(writer.path / file, rows)
            writer.add_file(file, len(rows))
            rows, index = [], index + 1
    return written


# ---------------------------------------------------------------- the card


def funnel(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, int, int, dict[str, int]]]:
    """(stage, in, out, rejected by reason) of every stage whose folder still exists where the next stage read it."""
    stages = [(folder.name, manifest)]
    while True:
        above = [Path(name) for name in stages[-1][1]["inputs"] if (Path(name) / MANIFEST).is_file()]
        if not above:
            break
        stages.append((above[0].name, read_manifest(above[0], "notes", "instructions")))
    return [(f"{name} ({m['kind']})", m["in"], m["out"], m["rejected"]) for name, m in reversed(stages)]


def licence_of(licences: Counter[str]) -> str:
    names = {hub_name(licence) for licence in licences}
    inherited = next((name for name in SHARE_ALIKE if name in names), OTHER)
    return names.pop() if len(names) == 1 else inherited


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


def dataset_card(tally: Tally, counts: dict[str, int], stages: list[tuple[str, int, int, dict[str, int]]]) -> str:
    licence = licence_of(tally.licences)
    files = "\n".join(f"  - split: {name}\n    path: {name}-*.parquet" for name in counts)
    rows = "\n".join(
        f"| {name} | {came:,} | {left:,} | {', '.join(f'{n:,} {why}' for why, n in rejected.items()) or 'none'} |"
        for name, came, left, rejected in stages
    )
    other = "license_name: that-of-the-sources\nlicense_link: README.md\n" if licence == "other" else ""
    shown = "\n".join(
        f"**{example.task}.** {example.question}\n\n> " + example.answer.replace("\n", "\n> ") + "\n"
        for example in tally.shown
    )
    return f"""\
---
language: en
license: {licence}
{other}task_categories: [question-answering, summarization, text-generation]
tags: [medical, clinical, synthetic, asclepius-jax]
configs:
- config_name: default
  data_files:
{files}
---
# Instructions on synthetic clinical notes

{" and ".join(f"{count:,} in {name}" for name, count in counts.items())}, with {tally.turns:,} follow-up turns. Columns:
`patient_id, note, question, answer, task`. Every note is synthetic, made from a published case report; no record is
based on a real patient's chart. **Not for clinical use.**

| | |
|---|---|
| Sources (records) | {counted(tally.sources)} |
| Licences (records) | {counted(tally.licences)} |
| Tasks | {counted(tally.tasks)} |
| Teachers (texts) | {counted(tally.teachers)} |
| Prompt hashes | {counted(tally.prompts)} |

Records inherit the licence of their source; share-alike sources make the whole data set share-alike.

## Rejected records

| Stage | in | out | rejected |
|---|---|---|---|
{rows}

## Faithfulness

{faithfulness(tally.atoms)}{second_reading(tally.read)}{citations(tally.citing)}

## Examples

{shown}
"""


def faithfulness(atoms: Counter[str]) -> str:
    rules = [name.removeprefix("rules ") for name in atoms if name.startswith("rules ")]
    if not rules:
        return "No answer was checked against its note."
    total = atoms["stated"] + atoms["derived"] + atoms["unsupported"]
    share = atoms["unsupported"] / max(total, 1)
    return (
        f"Of {total:,} facts in the answers that rules can check (numbers, doses, dates, durations, ages, sides, "
        f"negations, drugs), {atoms['stated']:,} are stated in the note, {atoms['derived']:,} follow from it by a "
        f"named rule, and {atoms['unsupported']:,} ({share:.2%}) are unsupported (rules {', '.join(sorted(rules))}). "
        "Facts that rules cannot check are not counted."
    )


def citations(records: int) -> str:
    if not records:
        return ""
    return f"""

## Citations

The answers of {records:,} records cite the note: "Metformin was stopped for renal failure [4, 7]." rests on its fourth
and seventh sentences. Each line begins a sentence, unless it goes on from the line above with a small letter. Headings
alone on their lines and empty lines are not counted. Within a line, a sentence ends at . ? or ! before a capital or a
digit, but not after abbreviations, initials and list numbers. `number_note` of the package asclepius-jax, in
`data_prep/contract/prompt/cited_sentences.py`, puts these numbers into a note. Every cited sentence is needed: with it,
the rules above support the answer's sentence, and without it they do not. A sentence that says that
the note is silent cites nothing."""


# Counts of `SecondReading`, for sentences that were asked about.
READ = ("supported", "contradicted", "not_stated", "unread")


def second_reading(read: Counter[str]) -> str:
    readers = sorted(name.removeprefix("by ") for name in read if name.startswith("by "))
    if not readers:
        return ""
    asked = sum(read[name] for name in READ)
    return (
        f"\n\nA second reader ({', '.join(readers)}) compared the {asked:,} sentences that the rules left open with "
        f"the note: {read['supported']:,} are supported, {read['contradicted']:,} contradicted and "
        f"{read['not_stated']:,} not stated; for {read['unread']:,} there is no verdict."
    )
