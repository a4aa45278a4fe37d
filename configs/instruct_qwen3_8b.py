"""Instruction-tune Qwen3 8B on packed instructions for three epochs, in rows of 4,096 tokens.

asclepius pack --source data/instructions --out data/packed/qwen3 --tokenizer Qwen/Qwen3-8B-Base --row-length 4096
launch/train.sh instruct_qwen3_8b --data.path data/packed/qwen3
8 x H100: 58 GiB per device, 64,000 rows per hour; v5e-64: 10 GiB, 99,000 (predicted by `asclepius plan`)."""

import dataclasses

from instruct_7b import config as instruct_7b

from asclepius_jax.config import BatchConfig, DataConfig, InitConfig

config = dataclasses.replace(
    instruct_7b,
    run_dir="runs/instruct_qwen3_8b",
    model="qwen3_8b",
    init=InitConfig(hf="Qwen/Qwen3-8B-Base"),
    data=DataConfig(row_length=4096, epochs=3),
    batch=BatchConfig(global_batch=64),
)
