"""Instruction-tune Llama 3 8B on packed instructions for three epochs, in rows of 8,192 tokens.

launch/train.sh instruct_llama3_8b --init.checkpoint runs/pretrain_llama3_8b \\
    --data.path data/packed8k/instructions
64 x H100: 22 GiB per device, 230,000 rows per hour (predicted by `asclepius plan`)."""

import dataclasses

from pretrain_llama3_8b import config as pretrain_llama3_8b

from asclepius_jax.config import DataConfig

config = dataclasses.replace(
    pretrain_llama3_8b, run_dir="runs/instruct_llama3_8b", data=DataConfig(row_length=8192, epochs=3)
)
