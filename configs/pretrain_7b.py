"""Pretrain LLaMA-2 7B on packed notes: one epoch, loss on every token.

launch/train.sh configs/pretrain_7b.py --init.hf models/Llama-2-7b-hf --data.path data/packed/notes
8 x A100-80G: a batch of 128 rows is computed in 8 parts of two rows a device."""

from asclepius_jax.config import BatchConfig, CheckpointConfig, DataConfig, OptimizerConfig, TrainConfig

config = TrainConfig(
    run_dir="runs/pretrain_7b",
    model="llama2_7b",
    data=DataConfig(row_length=2048, epochs=1),
    batch=BatchConfig(global_batch=128, microbatches=8),
    optimizer=OptimizerConfig(learning_rate=2e-5, warmup_fraction=0.03),
    checkpoint=CheckpointConfig(every_steps=200),
)
