"""Pretrain Llama 3 8B on packed notes, in rows of 8,192 tokens.

launch/train.sh pretrain_llama3_8b --init.hf meta-llama/Meta-Llama-3-8B --data.path data/packed8k/notes
64 x H100: 32 rows are as many tokens in an update as 128 rows of 2,048;
devices share heads in pairs, so that 32 rows spread over 32 of them."""

import dataclasses

from pretrain_7b import config as pretrain_7b

from asclepius_jax.config import BatchConfig, DataConfig, MeshConfig

config = dataclasses.replace(
    pretrain_7b,
    run_dir="runs/pretrain_llama3_8b",
    model="llama3_8b",
    data=DataConfig(row_length=8192, epochs=1),
    batch=BatchConfig(global_batch=32, microbatches=1),
    mesh=MeshConfig(data=1, fsdp=-1, tensor=2),
)
