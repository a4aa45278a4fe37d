"""A small run of the whole pipeline on this machine, from two dozen fictional case reports to a model's answers.

The offline teacher writes notes and instructions, and a tokenizer is trained on them. A small LLaMA is pretrained and
tuned on a mesh of virtual devices, exported, compared with transformers, and asked questions.
"""

import dataclasses
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from asclepius_jax.config import MeshConfig, TrainConfig, load_config
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.generate.batch import generate
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.generate.sampling import Sampling
from asclepius_jax.train.loop import train
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.folders.output_folders import (
    foreign_files,
    place_of,
    recording_files,
    refuse_to_replace,
    working_folder,
)
from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.records import Example, Note, read_parquet
from data_prep.contract.tokenizer import encode_prompt, train_sentencepiece
from data_prep.ingest.case_reports import DEMO_REPORTS
from data_prep.pack import run as pack
from data_prep.synthesize import instructions, notes

QUESTIONS = 16
PRETRAIN_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Run the whole pipeline on fictional case reports."""

    out: Path = Path("runs/demo")
    """Folder for all results; replaces an earlier demo in it."""
    config: str = "demo"
    """Config of the tuning run, by file or name; pretraining changes only its data and epochs."""


@dataclasses.dataclass
class Stages:
    """Inputs, outputs and duration of each stage, for the table at the end."""

    rows: list[tuple[str, str, str, str, float]] = dataclasses.field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[dict[str, Any]]:
        cells: dict[str, Any] = {"in": "", "out": "", "rejected": ""}
        started = time.monotonic()
        yield cells
        texts = str(cells["in"]), str(cells["out"]), str(cells["rejected"])
        self.rows.append((name, *texts, time.monotonic() - started))

    def table(self) -> Table:
        table = Table("stage", "in", "out", "rejected", "seconds", title="asclepius demo")
        for *texts, seconds in self.rows:
            table.add_row(*texts, f"{seconds:.1f}")
        table.add_section()
        table.add_row("total", "", "", "", f"{sum(row[-1] for row in self.rows):.1f}")
        return table


def run(config: DemoConfig) -> None:
    out, tuning = config.out, load_config(config.config)
    with working_folder(place_of(out)):
        clear(out)
        with recording_files(out):
            run_stages(out, tuning)


def run_stages(out: Path, tuning: TrainConfig) -> None:
    console, stages = Console(width=118), Stages()
    make_text(out, stages)
    make_rows(out, stages, tuning)
    losses = make_model(out, stages, tuning)
    with stages("export") as cells:
        run_export(ExportConfig(out / "instruct", out / "hf", dtype="float32"))
        cells["in"], cells["out"] = "checkpoint", f"{read_manifest(out / 'hf', 'export')['out']} tensors"
    examples = read_examples(out)
    with stages("compare") as cells:
        compared = compare(out, tuning.mesh, [example.note for example in examples[:3]])
        cells["in"], cells["out"] = "3 notes", compared
    with stages("answer") as cells:
        scores = answer(out, tuning.mesh, examples, console)
        cells["in"], cells["out"] = f"{len(scores)} questions", f"mean token F1 {np.mean(scores):.2f}"
    console.print(stages.table())
    first, last = losses
    console.print(f"Tuning loss {first:.3f} -> {last:.3f}: {1 - last / first:.1%} of the initial loss is gone.")
    console.print(f"Logits against transformers: {compared}")
    console.print(f"Mean token F1 of {len(scores)} greedy answers: {np.mean(scores):.3f}")
    results = {
        "notes": "notes", "instructions": "instructions", "packed rows": "packed_instructions", "run": "instruct",
        "report": "instruct/report.html", "Hugging Face folder": "hf",
    }  # fmt: skip
    for name, path in results.items():
        console.print(f"  {name:<20} {out / path}")
    console.print("To evaluate quality and faithfulness of the answers: asclepius evaluate demo")


def clear(out: Path) -> None:
    """Remove an earlier demo. Raises UserError if the folder contains anything else."""
    if out.exists() and any(out.iterdir()):
        refuse_to_replace(out, foreign_files(out))
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def make_text(out: Path, stages: Stages) -> None:
    with stages("notes") as cells:
        notes.run(notes.NotesConfig(str(DEMO_REPORTS), out / "notes"))
        fill_counts(cells, read_manifest(out / "notes", "notes"))
    with stages("instructions") as cells:
        instructions.run(instructions.InstructionsConfig(out / "notes", out / "instructions"))
        fill_counts(cells, read_manifest(out / "instructions", "instructions"))


def fill_counts(cells: dict[str, Any], manifest: dict[str, Any]) -> None:
    cells["in"], cells["out"], cells["rejected"] = manifest["in"], manifest["out"], sum(manifest["rejected"].values())


def make_rows(out: Path, stages: Stages, tuning: TrainConfig) -> None:
    tokenizer = out / "tokenizer.model"
    with stages("tokenizer") as cells:
        texts = [
            note.text for path in sorted((out / "notes").glob("notes-*.parquet")) for note in read_parquet(path, Note)
        ]
        train_sentencepiece([*texts, TRAINING_TEMPLATE], tokenizer, vocab_size=2048)
        cells["in"], cells["out"] = f"{len(texts)} notes", "2048 pieces"
    for name in ("notes", "instructions"):
        with stages(f"pack {name}") as cells:
            folder = out / f"packed_{name}"
            pack.run(pack.PackConfig(out / name, folder, tokenizer, tuning.data.row_length))
            manifest = read_manifest(folder, "packed")
            fill_counts(cells, manifest)
            cells["out"] = f"{manifest['rows']} rows, {manifest['packing_efficiency']:.0%} full"


def make_model(out: Path, stages: Stages, tuning: TrainConfig) -> tuple[float, float]:
    """Pretrain, then tune. Returns the first and last loss of tuning."""
    pretraining = dataclasses.replace(
        tuning,
        run_dir=str(out / "pretrain"),
        data=dataclasses.replace(tuning.data, path=(str(out / "packed_notes"),), epochs=PRETRAIN_EPOCHS),
    )
    tuning = dataclasses.replace(
        tuning,
        run_dir=str(out / "instruct"),
        init=dataclasses.replace(tuning.init, checkpoint=str(out / "pretrain")),
        data=dataclasses.replace(tuning.data, path=(str(out / "packed_instructions"),)),
    )
    for name, config in (("pretrain", pretraining), ("instruct", tuning)):
        with stages(name) as cells:
            train(config)
            rows = [row for row in read_metrics(Path(config.run_dir) / "metrics.jsonl") if "loss" in row]
            cells["in"] = f"{jax.device_count()} devices"
            cells["out"] = f"{len(rows)} steps, loss {rows[-1]['loss']:.3f}"
    return rows[0]["loss"], rows[-1]["loss"]


def read_examples(out: Path) -> list[Example]:
    paths = sorted((out / "instructions").glob("instructions-*.parquet"))
    return [example for path in paths for example in read_parquet(path, Example)]


def compare(out: Path, mesh: MeshConfig, texts: list[str]) -> str:
    """Compare the logits of the exported folder in transformers with those of our own model. Returns the result."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        return f"skipped, {error.name} is not installed (pip install torch transformers)"
    hf_model = AutoModelForCausalLM.from_pretrained(out / "hf", dtype=torch.float32).eval()
    hf_tokenizer = AutoTokenizer.from_pretrained(out / "hf")
    model, params, tokenizer = load_checkpoint(out / "instruct", mesh)
    largest = 0.0
    for text in texts:
        ids = np.array([encode_prompt(tokenizer, text)])
        assert hf_tokenizer(text)["input_ids"] == ids[0].tolist(), "transformers tokenizes the export differently"
        positions = np.arange(ids.shape[1])[None]
        logits = np.asarray(model.merge(params)(ids, positions, np.ones_like(ids), dtype="float32"))
        with torch.no_grad():
            hf_logits = hf_model(torch.tensor(ids)).logits.numpy()
        largest = max(largest, float(np.abs(logits - hf_logits).max()))
    return f"max |Δ| {largest:.1e}"


def answer(out: Path, mesh: MeshConfig, examples: list[Example], console: Console) -> list[float]:
    """Print greedy answers to questions of the training set next to the expected answers. Returns their token F1."""
    asked = examples[:: max(1, len(examples) // QUESTIONS)][:QUESTIONS]
    model, params, tokenizer = load_checkpoint(out / "instruct", mesh)
    prompts = [encode_prompt(tokenizer, render_prompt(TRAINING_TEMPLATE, e.note, e.question)) for e in asked]
    answers = generate(model, params, prompts, tokenizer.eos_id, Sampling(max_new_tokens=192), "float32")
    table = Table("question", "expected", "answer", "F1", title="Greedy answers", show_lines=True)
    scores = []
    for example, ids in zip(asked, answers, strict=True):
        text = tokenizer.decode(ids).strip()
        scores.append(token_f1(text, example.answer))
        table.add_row(example.question, example.answer, text, f"{scores[-1]:.2f}")
    console.print(table)
    return scores


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words, as in SQuAD (arXiv 1606.05250)."""
    answer_words, expected_words = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, expected))
    common = (answer_words & expected_words).total()
    return 2 * common / max(answer_words.total() + expected_words.total(), 1)
