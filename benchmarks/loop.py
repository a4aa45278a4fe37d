"""Time outside the compiled step: the start of a process, and the host's work between steps."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import step

SEED_TEXT = "the patient was admitted with fever and cough and was discharged home after seven days of amoxicillin"


def packed(folder: Path, row_length: int, rows: int) -> Path:
    """A packed folder of made notes, about `rows` rows of them."""
    from data_prep.contract.manifests import writing_folder
    from data_prep.contract.records import Generation, Note
    from data_prep.contract.tokenizer import SentencePieceTokenizer, train_sentencepiece
    from data_prep.pack import run as pack

    folder.mkdir(parents=True)
    words = SEED_TEXT.split()
    texts = [" ".join(words[(i + j) % len(words)] for j in range(60 + i % 40)) for i in range(200)]
    train_sentencepiece(texts, folder / "trained.model", 320)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    SentencePieceTokenizer(folder / "trained.model").save(tokenizer)
    made = Generation("offline", "rules", "0" * 16, 0, "stop")
    long = (" ".join(texts) + " ")[: row_length * 3]
    notes = [Note(f"n{i}", f"r{i}", "discharge summary", long, "made", "CC0", "article", made) for i in range(rows)]
    with writing_folder(folder / "notes", "notes", {}) as writer:
        writer.add_shard(notes, Note)
        writer.counts["in"] = len(notes)
    pack.run(pack.PackConfig(folder / "notes", folder / "packed", tokenizer, row_length, workers=1))
    return folder / "packed"


def made_config(folder: Path) -> Path:
    """A config file of the model of 58M parameters and a few rows."""
    from asclepius_jax.model.huggingface.names import write_config
    from asclepius_jax.model.sizes import DecoderConfig

    (folder / "model").mkdir()
    model = DecoderConfig(step.VOCABULARY, 512, 1408, 8, 8, 8, head_dim=64, max_length=2048)
    ids: dict[str, int | None] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "model/config.json").write_text(write_config(model, "float32", ids))
    data = packed(folder / "data", step.LENGTH, 24)
    values = folder / "values.py"
    values.write_text(
        "from asclepius_jax.config import *\n"
        f"config = TrainConfig(model={str(folder / 'model')!r}, "
        f"data=DataConfig({str(data)!r}, row_length={step.LENGTH}), "
        f"batch=BatchConfig({step.ROWS}, 1), compute=ComputeConfig('float32', 'none'), mesh=MeshConfig(), "
        "log=LogConfig(every_steps=1, tensorboard=False), few_steps=True)\n"
    )
    return values


def start(values: Path, run_dir: Path, compiled: Path) -> None:
    """Train in a process of its own until the first step is written down."""
    command = [sys.executable, "-m", "asclepius_jax.cli", "train", str(values), "--run-dir", str(run_dir)]
    command = [sys.executable, "-c", "from asclepius_jax.cli import main; main()", *command[3:]]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(
        [*command, "--compute.compiled", str(compiled)], env=environment, stdout=subprocess.DEVNULL
    )
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text()):
        assert process.poll() in (None, 0), f"{command} ended with {process.returncode}"
        time.sleep(0.05)
    process.kill()
    process.wait()


def overhead(folder: Path) -> tuple[float, float]:
    """Seconds a step of the whole loop, and of its compiled step on a batch that is ready; of a small model."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, LogConfig, MeshConfig, TrainConfig
    from asclepius_jax.train import loop, setup

    taken: list[float] = []
    make = setup.make_train_step

    def timed(*arguments: Any) -> Any:
        step_of = make(*arguments)

        def take(state: Any, batch: Any) -> Any:
            started = time.monotonic()
            made = jax.block_until_ready(step_of(state, batch))
            taken.append(time.monotonic() - started)
            return made

        return take

    data = packed(folder / "data", 128, 300)
    config = TrainConfig(
        model="demo",
        data=DataConfig(str(data), row_length=128),
        batch=BatchConfig(2, 1),
        mesh=MeshConfig(),
        compute=ComputeConfig("float32", "none", compiled=""),
        log=LogConfig(every_steps=10, tensorboard=False, progress=False),
    )
    seconds = []
    devices = jax.devices()[:1]
    for name, replacement in (("plain", make), ("timed", timed)):
        setup.make_train_step = replacement
        run_dir = loop.train(dataclasses.replace(config, run_dir=str(folder / name)), devices)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        seconds.append(statistics.median(row["seconds"] for row in rows[20:]))
    setup.make_train_step = make
    return seconds[0], statistics.median(taken[20:])
