"""Instruction-tune LLaMA-2 13B on packed instructions: the recipe of 7B.

launch/train.sh instruct_13b --init.checkpoint runs/pretrain_13b --data.path data/packed/instructions
8 x A100-80G; the paper's own run took 12 h 16 min on such a machine, unpacked."""

import dataclasses

from instruct_7b import config as instruct_7b

config = dataclasses.replace(instruct_7b, run_dir="runs/instruct_13b", model="llama2_13b")
