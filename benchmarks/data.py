"""Loader, packer, and what packing saves on real instruction data."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
BUILT = ROOT / "build" / "bench"
ROW_LENGTH = 2048
TIMED_REPORTS = 250
PRODUCTS = """
import sys, time
sizes = [(2048, 512, 1408), (2048, 1408, 512), (1024, 512, 32000)]
if sys.argv[1] == "xla":
    import jax, jax.numpy as np
    multiply, ready = jax.jit(lambda a, b: a @ b), jax.block_until_ready
else:
    import torch as np
    multiply, ready = lambda a, b: a @ b, lambda x: x
rates = []
for m, k, n in sizes:
    a, b = np.ones((m, k)), np.ones((k, n))
    ready(multiply(a, b))
    started = time.monotonic()
    for _ in range(5): ready(multiply(a, b))
    rates.append(5 * 2 * m * k * n / (time.monotonic() - started) / 1e9)
print(sum(rates) / len(rates))
"""


def product_rates() -> str:
    """Rates of matrix products of the model's shapes, each library in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    rates = [
        float(subprocess.run([sys.executable, "-c", PRODUCTS, name], env=environment, capture_output=True).stdout)
        for name in ("xla", "torch")
    ]
    return f"{rates[0]:.0f} to {rates[1]:.0f} = {rates[0] / rates[1]:.2f}"


def measure() -> list[list[Any]]:
    reports, tokenizer = SHARED / "data/case_reports.jsonl", SHARED / "tokenizers/mistral-7b-v0.1.model"
    if not reports.is_file() or not tokenizer.is_file():
        return [["skipped", "no ../shared/data and ../shared/tokenizers beside the repository"]]
    packed = instructions(reports, tokenizer)
    from asclepius_jax.train.batches import PackedRows

    rows = PackedRows(packed, ROW_LENGTH)
    lengths = document_lengths(rows)
    full = rows.manifest["tokens"] / (len(rows) * ROW_LENGTH)
    return [
        ["loader, tokens/s", f"{loader_rate(rows):,.0f}"],
        ["packer, documents/s", f"{packer_rate(lengths):,.0f}"],
        ["useful tokens of a slot, packed rows", f"{full:.3f}"],
        [f"packed to padded to {ROW_LENGTH}", f"{full / padded(lengths, len(lengths), ROW_LENGTH):.2f}"],
        ["packed to padded to the longest of 8", f"{full / padded(lengths, 8, None):.2f}"],
        ["packed to padded to the longest of 16", f"{full / padded(lengths, 16, None):.2f}"],
        ["packed to padded to the longest of 32", f"{full / padded(lengths, 32, None):.2f}"],
        *([f"{name}, ms of one core", f"{each:.1f}"] for name, each in stage_times(reports, tokenizer)),
    ]


def instructions(reports: Path, tokenizer: Path) -> Path:
    """Packed instructions of the offline teacher on real case reports, one for each note as in the paper."""
    packed = BUILT / "packed"
    if not (packed / "manifest.json").is_file():
        from data_prep.pack import run as pack
        from data_prep.synthesize import instructions, notes

        BUILT.mkdir(parents=True, exist_ok=True)
        notes.run(notes.NotesConfig(str(reports), BUILT / "notes"))
        instructions.run(instructions.InstructionsConfig(BUILT / "notes", BUILT / "instructions"))
        pack.run(pack.PackConfig(BUILT / "instructions", packed, tokenizer, ROW_LENGTH))
    return packed


def stage_times(reports: Path, tokenizer: Path) -> Iterator[tuple[str, float]]:
    """Stages of the text side with the offline teacher, and milliseconds for each of their inputs."""
    from data_prep.curate import split
    from data_prep.execution.shards import ShardsConfig
    from data_prep.pack import run as pack
    from data_prep.synthesize import instructions, notes

    with tempfile.TemporaryDirectory() as made:
        folder, here = Path(made), ShardsConfig(workers=1)
        few = folder / "reports.jsonl"
        few.write_text("".join(reports.open().readlines()[:TIMED_REPORTS]))
        stages: dict[str, Callable[[], Any]] = {
            "a note and its check": lambda: notes.run(notes.NotesConfig(str(few), folder / "notes", shards=here)),
            "splitting a note": lambda: split.run(split.SplitConfig(folder / "notes", folder / "split")),
            "a note's instructions and their check": lambda: instructions.run(
                instructions.InstructionsConfig(folder / "notes", folder / "instructions", shards=here)
            ),
            "packing a note, with its start": lambda: pack.run(
                pack.PackConfig(folder / "notes", folder / "packed", tokenizer, ROW_LENGTH, workers=1)
            ),
        }
        for name, run in stages.items():
            started = time.process_time()
            run()
            yield name, (time.process_time() - started) / TIMED_REPORTS * 1e3


def document_lengths(rows: Any) -> list[int]:
    from data_prep.contract.records import PackedRow

    found = (PackedRow.from_bytes(rows.source[i], rows.manifest["token_dtype"]) for i in range(len(rows)))
    return [int(length) for row in found for length in row.segment_lengths]


def padded(lengths: list[int], batch: int, to: int | None) -> float:
    """Share of the slots that hold tokens where every row holds one document; `to`: None pads to a batch's longest."""
    order = np.random.default_rng(0).permutation(np.array(lengths))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(lengths) / sum(len(each) * (to or int(each.max())) for each in batches)


def loader_rate(rows: Any) -> float:
    import jax

    from asclepius_jax.config import MeshConfig
    from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
    from asclepius_jax.train.batches import TrainBatches

    batches = TrainBatches(rows, 32, 0, batch_sharding(make_mesh(MeshConfig(), jax.devices()[:1])))
    seconds = []
    for step in range(12):
        started = time.monotonic()
        jax.block_until_ready(batches[step])
        seconds.append(time.monotonic() - started)
    return 32 * ROW_LENGTH / statistics.median(seconds[2:])


def packer_rate(lengths: list[int]) -> float:
    from data_prep.pack.best_fit import pack

    many = lengths * (20_000 // len(lengths) + 1)
    started = time.monotonic()
    pack(many, ROW_LENGTH)
    return len(many) / (time.monotonic() - started)
