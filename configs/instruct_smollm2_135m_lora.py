"""Instruction-tune SmolLM2 135M with adapters of rank 16 on packed instructions, on a CPU. Checkpoints take 56 MB.

launch/train.sh instruct_smollm2_135m_lora --data.path data/packed/smollm2
Two CPU cores: 6.6 GB, 89 tokens per second (measured on a machine with other load)."""

import dataclasses

from instruct_smollm2_135m import config as full

from asclepius_jax.config import LoraConfig, OptimizerConfig

config = dataclasses.replace(
    full,
    run_dir="runs/instruct_smollm2_135m_lora",
    lora=LoraConfig(rank=16, base_dtype="float32"),
    optimizer=OptimizerConfig(learning_rate=1e-3),
)
