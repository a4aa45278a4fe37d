"""Instruction-tune LLaMA-2 13B on packed instructions, with the recipe of instruct_7b.

launch/train.sh instruct_13b --init.checkpoint runs/pretrain_13b --data.path data/packed/instructions
8 x A100-80G: 57 GiB per device, 29,000 rows per hour (predicted by `asclepius plan`).
The run of the paper took 12 h 16 min on such a machine, without packing."""

import dataclasses

from instruct_7b import config as instruct_7b

config = dataclasses.replace(instruct_7b, run_dir="runs/instruct_13b", model="llama2_13b")
