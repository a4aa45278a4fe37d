"""Instruction-tune the text part of MedGemma 27B with adapters of rank 16, in rows of 4,096 tokens.

asclepius pack --source data/instructions --out data/packed/gemma3 --tokenizer google/medgemma-27b-text-it \\
    --row-length 4096
launch/train.sh instruct_medgemma_27b_lora --data.path data/packed/gemma3
8 x H100: 62 GiB per device, 26,000 rows per hour; v5e-64: 12 GiB, 40,000 (predicted by `asclepius plan`)."""

import dataclasses

from instruct_7b import config as instruct_7b

from asclepius_jax.config import BatchConfig, DataConfig, InitConfig, LoraConfig, OptimizerConfig

config = dataclasses.replace(
    instruct_7b,
    run_dir="runs/instruct_medgemma_27b_lora",
    model="google/medgemma-27b-text-it",  # its config.json; to plan without the hub: --model gemma3_27b
    init=InitConfig(hf="google/medgemma-27b-text-it"),
    data=DataConfig(row_length=4096, epochs=3),
    batch=BatchConfig(global_batch=64),
    lora=LoraConfig(rank=16),
    optimizer=OptimizerConfig(learning_rate=2e-4),
)
