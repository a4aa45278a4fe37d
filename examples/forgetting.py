"""Measure what training on clinical notes costs in general text, and what mixing, LoRA and merging save of it.

    python examples/forgetting.py --general books/ --notes case_reports.jsonl --out forgetting --minutes 25

A small LLaMA is pretrained on general text from random weights, or `--smollm2 FOLDER` names a pretrained model. From
these weights, every arm trains on notes for the same number of updates: on notes alone, with 10 % or 25 % of general
text mixed in, and with LoRA. The result of notes alone is also merged back with the start. The loss of every arm on
held-out notes and held-out general text is in OUT/table.md, OUT/table.json and OUT/plot.svg.
"""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
import tyro
from study_inputs import say, small_model, split_general, trained

import asclepius_jax as asc
from asclepius_jax.config import CheckpointConfig, ComputeConfig, EvalConfig, InitConfig, LogConfig
from asclepius_jax.config.sources import held_out_sources
from asclepius_jax.convert.merge.merging import MergeConfig, run_merge
from asclepius_jax.distributed.sharding import batch_sharding
from asclepius_jax.train.batches import eval_batches
from asclepius_jax.train.step import make_eval_step
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import MANIFEST, read_manifest
from data_prep.contract.records import Note, read_parquet
from data_prep.contract.tokenizer import train_sentencepiece
from data_prep.curate import split
from data_prep.ingest.case_reports import DEMO_REPORTS
from data_prep.pack import run as pack
from data_prep.synthesize import notes

ARMS = {"notes only": 0.0, "10 % general": 0.1, "25 % general": 0.25, "LoRA": 0.0}  # share of general text
MERGED = (0.25, 0.5, 0.75)  # weights of notes only; the start has the rest
HELD_OUT = 0.05  # fraction of the notes, and of the general documents
BATCH = 4  # rows per update
PRETRAINING = 6  # updates of pretraining for each update of an arm
TIMED_STEPS = 4
PART_OF_TIME = 0.85  # planned for training and evaluation; saving and merging take some of the rest
NEVER = 10**9


@dataclasses.dataclass(frozen=True)
class ForgettingConfig:
    general: Path
    """General text: a .txt, .jsonl, .json, .csv or .parquet file, or a folder of one of these kinds."""
    out: Path
    """Folder for the results; it must be empty or new."""
    minutes: float = 25.0
    """Time for everything, from which the number of updates follows."""
    updates: int = 0
    """Updates of every arm; 0 derives them from --minutes."""
    notes: Path = DEMO_REPORTS
    """Case reports, or a folder written by `asclepius notes`. The default has 24 fictional reports, which are enough
    to try the program and too few for its figures."""
    smollm2: str = ""
    """Hugging Face folder or hub id of a pretrained model; empty pretrains a small one."""
    row_length: int = 256
    """Tokens per row."""
    eval_rows: int = 64
    """Largest number of held-out rows, of notes and of general text each."""
    pieces: int = 4096
    """Vocabulary size of the small model."""
    width: int = 320
    """Hidden size of the small model, a multiple of 64."""
    layers: int = 8
    """Layers of the small model."""
    seed: int = 0
    """Random seed for held-out texts, initial weights and the order of rows."""


def run(config: ForgettingConfig) -> list[dict[str, Any]]:
    """Run every arm and write the table and the plot. Returns the rows of the table."""
    started = time.monotonic()
    if config.out.exists() and any(config.out.iterdir()):
        raise UserError(f"--out {config.out} is not empty: remove it, or name another folder")
    if config.notes == DEMO_REPORTS:
        say("no --notes given: the 24 fictional reports of the demo are too few for figures that mean anything")
    prepare(config)
    base = settings(config)
    evaluating = time.monotonic()
    before = held_out_losses(base)
    now = time.monotonic()
    updates = config.updates or affordable(config, base, now - evaluating, config.minutes * 60 - (now - started))
    start = dataclasses.replace(base, init=InitConfig(hf=config.smollm2))
    general = Path(config.smollm2)
    if not config.smollm2:
        say(f"pretraining: {PRETRAINING * updates} updates on general text")
        general = trained(base, PRETRAINING * updates)
        start = dataclasses.replace(base, init=InitConfig(checkpoint=str(general)))
        before = results(general)[0]
    table = [row("start", 0, 0, before, before)]
    for name, share in ARMS.items():
        say(f"{name}: {updates} updates")
        run_dir = trained(arm(config, start, name, share), updates)
        losses, tokens = results(run_dir)
        table.append(row(name, updates, tokens, losses, before))
    for weight in MERGED:
        say(f"merging {weight:g} of notes only with {1 - weight:g} of the start")
        folder = merge(config, general, weight)
        losses = held_out_losses(dataclasses.replace(base, init=InitConfig(hf=str(folder))))
        table.append(row(f"merged {weight:g}", updates, table[1]["tokens"], losses, before))
    write(config, table, facts(config, base, updates, time.monotonic() - started))
    return table


# ---------------------------------------------------------------- texts and rows


def prepare(config: ForgettingConfig) -> None:
    """Write packed rows of notes and of general text, and their held-out parts, with one tokenizer."""
    out, source = config.out, config.notes
    if not (source / MANIFEST).exists():
        say(f"notes of the offline teacher from {source}")
        notes.run(notes.NotesConfig(str(source), out / "notes"))
        source = out / "notes"
    say("holding out texts and packing rows")
    split.run(split.SplitConfig(source, out / "split", HELD_OUT, seed=config.seed))
    texts = split_general(config.general, out / "general", HELD_OUT, config.seed)
    if not config.smollm2:
        paths = sorted((out / "split/train").glob("notes-*.parquet"))
        texts += [note.text for path in paths for note in read_parquet(path, Note)]
        train_sentencepiece(texts, out / "tokenizer.model", config.pieces)
    tokenizer = Path(config.smollm2) if config.smollm2 else out / "tokenizer.model"
    for name, folder in {
        "notes": out / "split/train",
        "notes_held_out": out / "split/held_out",
        "general": out / "general/train.jsonl",
        "general_held_out": out / "general/held_out.jsonl",
    }.items():
        pack.run(pack.PackConfig(folder, out / "packed" / name, tokenizer, config.row_length))


# ---------------------------------------------------------------- runs


def settings(config: ForgettingConfig) -> asc.TrainConfig:
    """Settings that all runs share, which are those of pretraining, or of a step of the pretrained model."""
    packed, sizes = config.out / "packed", (config.pieces, config.width, config.layers, config.row_length)
    return asc.TrainConfig(
        run_dir=str(config.out / "runs/general"),
        model=config.smollm2 or str(small_model(config.out / "model", *sizes)),
        init=InitConfig(hf=config.smollm2, seed=config.seed),
        data=asc.DataConfig(
            path=(str(packed / "general"),),
            eval_path=(f"notes={packed}/notes_held_out", f"general={packed}/general_held_out"),
            row_length=config.row_length,
            seed=config.seed,
        ),
        batch=asc.BatchConfig(BATCH),
        compute=ComputeConfig(dtype="float32"),
        optimizer=asc.OptimizerConfig(learning_rate=1e-3),
        checkpoint=CheckpointConfig(every_steps=NEVER, keep=1),
        evaluation=EvalConfig(every_steps=NEVER, max_rows=config.eval_rows),
        log=LogConfig(every_steps=20, tensorboard=False, progress=False),
        few_steps=True,
    )


def arm(config: ForgettingConfig, start: asc.TrainConfig, name: str, share: float) -> asc.TrainConfig:
    """The run of one arm: `start` on notes, with a share of rows of general text, or with adapters."""
    packed, rate = config.out / "packed", 2e-4 if config.smollm2 else 5e-4
    mixed = (f"notes={packed}/notes:{1 - share:g}", f"general={packed}/general:{share:g}")
    data = dataclasses.replace(start.data, path=mixed if share else (str(packed / "notes"),))
    lora = asc.LoraConfig(rank=16, base_dtype="float32") if name == "LoRA" else asc.LoraConfig()
    return dataclasses.replace(
        start,
        run_dir=str(config.out / "runs" / name.replace(" ", "_").replace("%", "percent")),
        data=data,
        optimizer=asc.OptimizerConfig(learning_rate=5 * rate if lora.rank else rate),  # adapters need more
        lora=lora,
    )


def affordable(config: ForgettingConfig, base: asc.TrainConfig, evaluation: float, left: float) -> int:
    """Updates per arm that fit into the seconds that are left, by the time of some steps and of one evaluation."""
    step = asc.make_step(base)
    state, ends = step.init(), [time.monotonic()]
    for number in range(1 + TIMED_STEPS):
        state, metrics = step(state, step.batch(number))
        jax.block_until_ready(metrics)
        ends.append(time.monotonic())
    each, first = (ends[-1] - ends[1]) / TIMED_STEPS, ends[1] - ends[0]
    runs, units = (len(ARMS), len(ARMS)) if config.smollm2 else (len(ARMS) + 1, len(ARMS) + PRETRAINING)
    fixed = runs * first + (runs + len(MERGED)) * evaluation
    say(f"{each:.2f} s per update, {first:.0f} s to compile, {evaluation:.0f} s per evaluation, {left:.0f} s are left")
    updates = int((PART_OF_TIME * left - fixed) / (units * each))
    if updates < 1:
        least = config.minutes + (fixed + units * each - PART_OF_TIME * left) / PART_OF_TIME / 60
        raise UserError(f"--minutes {config.minutes:g} is too short for one update: use {math.ceil(least)} or more")
    return updates


def held_out_losses(config: asc.TrainConfig) -> dict[str, float]:
    """Nats per token of each held-out set, for the weights that `config.init` names. Runs measure theirs likewise."""
    step = asc.make_step(config)
    state, rows = step.init(), {source.name: asc.load_rows(source.path) for source in held_out_sources(config.data)}
    eval_step = make_eval_step(step.config, step.model, step.shardings, step.mesh, step.kernel)
    losses = {}
    for name, part in rows.items():
        batches = eval_batches(part, config.batch.global_batch, config.evaluation.max_rows, batch_sharding(step.mesh))
        sums = [jax.device_get(eval_step(state, batch)) for batch in batches]
        losses[name] = math.fsum(float(s["loss"]) for s in sums) / math.fsum(float(s["weight"]) for s in sums)
    return losses


def results(run_dir: Path) -> tuple[dict[str, float], int]:
    """Losses on the held-out sets after a run, and the number of tokens that it was trained on."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    losses = {name: lines[-1][f"eval_loss/{name}"] for name in ("notes", "general")}
    return losses, round(sum(line.get("loss_tokens", 0) for line in lines))


def merge(config: ForgettingConfig, general: Path, weight: float) -> Path:
    """A Hugging Face folder of the weighted average of the start and of notes only."""
    folder, after = config.out / f"merged/{weight:g}", config.out / "runs/notes_only"
    run_merge(MergeConfig((f"{general}={1 - weight:g}", f"{after}={weight:g}"), folder, dtype="float32"))
    return folder


# ---------------------------------------------------------------- results


def row(arm: str, updates: int, tokens: int, losses: dict[str, float], before: dict[str, float]) -> dict[str, Any]:
    """A row of the table. Changes are relative to the start."""
    changes = {f"{name}_change": loss / before[name] - 1 for name, loss in losses.items()}
    return {"arm": arm, "updates": updates, "tokens": tokens, **losses, **changes}


def facts(config: ForgettingConfig, base: asc.TrainConfig, updates: int, seconds: float) -> str:
    """One paragraph about the model, the rows and the budget."""
    manifests = {path.name: read_manifest(path, "packed") for path in sorted((config.out / "packed").iterdir())}
    rows = ", ".join(f"{name} {m['rows']:,} rows, {m['tokens']:,} tokens" for name, m in manifests.items())
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(asc.build_model(base.model).shapes))
    before = "pretrained weights" if config.smollm2 else f"{PRETRAINING * updates} updates on general text"
    return (
        f"{size:,} parameters, {before}; {BATCH} rows of {config.row_length} tokens per update; packed: {rows}; "
        f"at most {config.eval_rows} held-out rows of each are scored; seed {config.seed}; {seconds / 60:.1f} minutes."
    )


def write(config: ForgettingConfig, table: list[dict[str, Any]], about: str) -> None:
    (config.out / "table.json").write_text(json.dumps({"about": about, "table": table}, indent=2) + "\n")
    lines = ["| arm | updates | tokens | loss on notes | change | loss on general text | change |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {r['arm']} | {r['updates']:,} | {r['tokens']:,} | {r['notes']:.3f} | {r['notes_change']:+.1%} | "
        f"{r['general']:.3f} | {r['general_change']:+.1%} |"
        for r in table
    ]
    text = "\n".join([*lines, "", about, ""])
    (config.out / "table.md").write_text(text, encoding="utf-8")
    plot(table, config.out / "plot.svg")
    print(text)


def plot(table: list[dict[str, Any]], path: Path) -> None:
    """One point per arm; the merged models lie on a line from the start to notes only."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    line = [table[0], *table[-len(MERGED) :], table[1]]
    axes.plot([r["notes"] for r in line], [r["general"] for r in line], color="0.7", zorder=0)
    axes.scatter([r["notes"] for r in table], [r["general"] for r in table])
    for r in table:
        axes.annotate(r["arm"], (r["notes"], r["general"]), textcoords="offset points", xytext=(5, 5))
    axes.margins(0.15)  # room for the names
    axes.set(xlabel="loss on held-out notes (nats per token)", ylabel="loss on held-out general text (nats per token)")
    figure.savefig(path)


if __name__ == "__main__":
    try:
        run(tyro.cli(ForgettingConfig, description=__doc__))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
