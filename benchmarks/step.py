"""A training step of a LLaMA of 58M parameters: ours, and eager PyTorch with transformers on the same weights and rows.

step.py ours|torch float32|bfloat16 FOLDER   a worker: for each line on standard input, so many steps; their seconds out
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS, LENGTH, VOCABULARY = 4, 512, 32_000
TOKENS = ROWS * LENGTH
LEARNING_RATE = 2e-5


def batch() -> np.ndarray:
    return np.random.default_rng(0).integers(3, VOCABULARY, (ROWS, LENGTH + 1))


def ours(dtype: str, folder: Path) -> Callable[[], float]:
    """A function that takes a step and returns its loss."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
    from asclepius_jax.distributed.sharding import batch_sharding, make_mesh
    from asclepius_jax.distributed.xla_flags import set_flags_for_training
    from asclepius_jax.model.attention import Kernel
    from asclepius_jax.model.decoder import build
    from asclepius_jax.model.huggingface.names import load_params, read_config
    from asclepius_jax.train.optimizer import make_optimizer
    from asclepius_jax.train.step import init_state, make_train_step, state_shardings

    set_flags_for_training()
    compute: Any = ComputeConfig(dtype=dtype, remat="none")  # type: ignore[arg-type]
    optimization = OptimizerConfig(LEARNING_RATE, warmup_fraction=0.0)
    config = TrainConfig(
        data=DataConfig(row_length=LENGTH), batch=BatchConfig(ROWS, 1), compute=compute, optimizer=optimization
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    model = build(read_config(folder))
    optimizer = make_optimizer(config.optimizer, 10**6)
    shardings = state_shardings(mesh, model, optimizer)
    step = make_train_step(config, model, 10**6, shardings, mesh, Kernel())
    state = init_state(load_params(folder, model, shardings["params"]), optimizer, shardings)
    tokens = batch().astype(np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH)).copy()
    ones = np.ones((ROWS, LENGTH), np.int32)
    rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "positions": positions, "segment_ids": ones}
    rows = jax.device_put({**rows, "loss_mask": ones.astype(np.float32)}, batch_sharding(mesh))
    held = [state]

    def take() -> float:
        held[0], numbers = step(held[0], rows)
        return float(jax.block_until_ready((held[0], numbers))[1]["loss"])

    return take


def theirs(dtype: str, folder: Path) -> Callable[[], float]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    tokens = torch.tensor(batch())

    def take() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return take


def save_model(folder: Path) -> None:
    """Random weights as transformers saves them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    kind, dtype, folder = sys.argv[1:]
    started = time.monotonic()
    take = {"ours": ours, "torch": theirs}[kind](dtype, Path(folder))
    first = take()
    print(json.dumps({"loss": first, "seconds": time.monotonic() - started}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.monotonic()
            take()
            seconds.append(time.monotonic() - started)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
