"""A small run: nine steps of a model of 320 pieces on eight devices, and how to run it, strike it and look at it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asclepius_jax.checkpoint.read import find_step, read_stored
from asclepius_jax.config import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import flatten, write_config
from asclepius_jax.train.batches import PackedRows
from asclepius_jax.train.setup import make_step
from tests.helpers.made_inputs import MODEL, TOKEN_IDS, packed_notes

LENGTH, ROWS, TOTAL, EVERY = 32, 8, 9, 4
SCRIPT = Path(__file__).with_name("run_training.py")


def small_run(root: Path, tokenizer: Path) -> TrainConfig:
    """Nine steps, a checkpoint after every fourth and after the last."""
    (root / "model").mkdir()
    (root / "model/config.json").write_text(write_config(MODEL, "float32", TOKEN_IDS))
    data = packed_notes(root / "train", tokenizer, 150, LENGTH)
    held_out = packed_notes(root / "held_out", tokenizer, 25, LENGTH, seed=1)
    config = TrainConfig(
        model=str(root / "model"),
        data=DataConfig(str(data), str(held_out), LENGTH),
        batch=BatchConfig(ROWS),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "none"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        checkpoint=CheckpointConfig(every_steps=EVERY, keep=5),
        evaluation=EvalConfig(every_steps=6),
        log=LogConfig(every_steps=1, tensorboard=False, progress=False),
        few_steps=True,
    )
    return lasting(config, TOTAL)


def lasting(config: TrainConfig, steps: int) -> TrainConfig:
    rows = len(PackedRows(Path(config.data.path[0]), LENGTH))
    epochs = (steps + 0.5) * config.batch.global_batch / rows
    return dataclasses.replace(config, data=dataclasses.replace(config.data, epochs=epochs))


def command_of(config: TrainConfig, step: int = 0, strike: int | str = 0) -> list[str]:
    """Of a run in a process of its own that is struck at a step, as run_training.py says."""
    path = Path(config.run_dir).with_suffix(".values.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"from asclepius_jax.config import *\n\nconfig = {config!r}\n")
    return [sys.executable, str(SCRIPT), str(path), str(step), strike if isinstance(strike, str) else str(int(strike))]


def run_and_strike(config: TrainConfig, step: int, strike: int | str) -> int:
    """Exit code of a run in a process of its own."""
    return subprocess.run(command_of(config, step, strike), timeout=300, check=False, env=os.environ).returncode


def copied(config: TrainConfig, to: Path) -> TrainConfig:
    """The same run in another folder."""
    shutil.copytree(config.run_dir, to)
    return dataclasses.replace(config, run_dir=str(to))


def steps_of(run_dir: Path | str) -> list[int]:
    return sorted(int(path.name) for path in (Path(run_dir) / "checkpoints").glob("*") if path.name.isdigit())


def save_random_adapters(config: TrainConfig, rows: PackedRows, seed: int = 0, longer: float = 0.0) -> None:
    """A run of which nothing but a checkpoint remains. B is not zero, as after training, and magnitudes grew."""
    step, random = make_step(config, rows=rows), np.random.default_rng(seed)
    state = step.init()
    state["adapters"] = jax.tree.map(
        lambda x: jax.device_put(random.normal(0, 0.1, x.shape).astype(np.float32), x.sharding), state["adapters"]
    )
    for parts in state["adapters"].values() if longer else ():
        parts["magnitude"] += longer
    step.save(state, config.run_dir)


def params_of(run_dir: Path | str) -> dict[str, np.ndarray]:
    folder = find_step(Path(run_dir))[1]
    return {name: read_stored(folder, name) for name in flatten(build(MODEL).shapes)}


def params_at(run_dir: Path | str, step: int) -> dict[str, np.ndarray]:
    return {name: read_stored(Path(run_dir) / f"checkpoints/{step}", name) for name in flatten(build(MODEL).shapes)}


def events_of(run_dir: Path | str) -> list[dict[str, Any]]:
    path = Path(run_dir) / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def metrics_of(run_dir: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def losses_of(run_dir: Path | str) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics_of(run_dir) if "loss" in row}


def assert_same_params(one: Path | str, other: Path | str) -> None:
    for name, value in params_of(one).items():
        np.testing.assert_array_equal(value, params_of(other)[name], err_msg=name)
