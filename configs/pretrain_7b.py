"""Pretrain LLaMA-2 7B on packed notes for one epoch, with the loss on every token.

launch/train.sh pretrain_7b --init.hf meta-llama/Llama-2-7b-hf --data.path data/packed/notes
Eight GPUs or a TPU pod. Microbatches and remat are chosen for the machine at the start;
`asclepius plan pretrain_7b --topology a100-80g-8` shows the choice, memory and speed in advance."""

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
