"""Pretrain Llama 3 8B on packed notes for one epoch, in rows of 8,192 tokens.

launch/train.sh pretrain_llama3_8b --init.hf meta-llama/Meta-Llama-3-8B --data.path data/packed8k/notes
64 x H100: 22 GiB per device, 230,000 rows per hour (predicted by `asclepius plan`).
A batch of 32 rows has as many tokens as 128 rows of 2,048 tokens.
Devices split heads in pairs (mesh.tensor 2), so that 32 rows fill 64 devices."""

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
