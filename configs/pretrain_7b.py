"""Pretrain LLaMA-2 7B on packed notes for one epoch, with the loss on every token.

launch/train.sh pretrain_7b --init.hf meta-llama/Llama-2-7b-hf --data.path data/packed/notes
8 x A100-80G: 50 GiB per device, 57,000 rows per hour, predicted by `asclepius plan pretrain_7b --topology a100-80g-8`.
It runs on other GPU nodes and TPU pods too, as microbatches and remat are chosen for the machine at the start."""

from asclepius_jax.config import BatchConfig, CheckpointConfig, ComputeConfig, DataConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    run_dir="runs/pretrain_7b",
    model="llama2_7b",
    data=DataConfig(row_length=2048, epochs=1),
    batch=BatchConfig(global_batch=128),
    compute=ComputeConfig(reduce_dtype="bfloat16"),
    optimizer=OptimizerConfig(learning_rate=2e-5, warmup_fraction=0.03),
    checkpoint=CheckpointConfig(every_steps=200),
)
