"""Instruction-tune LLaMA-2 7B on packed instructions for three epochs, with the loss only on the answers.

launch/train.sh instruct_7b --init.checkpoint runs/pretrain_7b --data.path data/packed/instructions
8 x A100-80G: 50 GiB per device, 57,000 rows per hour (predicted by `asclepius plan`)."""

import dataclasses

from pretrain_7b import config as pretrain_7b

from asclepius_jax.config import DataConfig

config = dataclasses.replace(pretrain_7b, run_dir="runs/instruct_7b", data=DataConfig(row_length=2048, epochs=3))
