"""Pretrain LLaMA-2 13B on packed notes, with the recipe of pretrain_7b.

launch/train.sh pretrain_13b --init.hf meta-llama/Llama-2-13b-hf --data.path data/packed/notes
8 x A100-80G: 57 GiB per device, 29,000 rows per hour (predicted by `asclepius plan`).
The run of the paper took 1 h 52 min on such a machine."""

import dataclasses

from pretrain_7b import config as pretrain_7b

config = dataclasses.replace(pretrain_7b, run_dir="runs/pretrain_13b", model="llama2_13b")
