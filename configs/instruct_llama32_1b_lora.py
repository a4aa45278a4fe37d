"""Instruction-tune Llama 3.2 1B with adapters of rank 16 on packed instructions, on one GPU with 48 GB.

launch/train.sh instruct_llama32_1b_lora --data.path data/packed/llama32
A100-80G: 43 GiB, 1.3 h; RTX A6000: 23 GiB, 2.9 h. For three epochs of 20,000 rows, predicted by `asclepius plan`."""

import dataclasses

from instruct_llama32_1b import config as full

from asclepius_jax.config import LoraConfig, OptimizerConfig

config = dataclasses.replace(
    full,
    run_dir="runs/instruct_llama32_1b_lora",
    lora=LoraConfig(rank=16),
    optimizer=OptimizerConfig(learning_rate=2e-4),
)
