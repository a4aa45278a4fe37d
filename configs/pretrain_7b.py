"""Pretrain LLaMA-2 7B on packed notes: one epoch, loss on every token.

launch/train.sh pretrain_7b --init.hf meta-llama/Llama-2-7b-hf --data.path data/packed/notes
Serves eight GPUs and a pod alike: microbatches and remat are chosen for the machine at start, and
`asclepius plan pretrain_7b --topology a100-80g-8` tells beforehand what it will be."""

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
