"""Instruction-tune all parameters of Llama 3.2 1B on packed instructions, on one GPU.

The model is gated: accept its terms on the hub, then run `hf auth login`.
asclepius pack --source data/instructions --out data/packed/llama32 --tokenizer meta-llama/Llama-3.2-1B
launch/train.sh instruct_llama32_1b --data.path data/packed/llama32
A100-80G: 64 GiB, 1.7 h; RTX A6000: 34 GiB, 4.0 h. For three epochs of 20,000 rows, predicted by `asclepius plan`."""

import dataclasses

from instruct_7b import config as instruct_7b

from asclepius_jax.config import BatchConfig, InitConfig

config = dataclasses.replace(
    instruct_7b,
    run_dir="runs/instruct_llama32_1b",
    model="llama32_1b",
    init=InitConfig(hf="meta-llama/Llama-3.2-1B"),
    batch=BatchConfig(global_batch=32),
)
