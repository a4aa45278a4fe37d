"""Instruction-tune a LLaMA of 2.4M parameters on two dozen fictional case reports. `asclepius demo` uses this config.

launch/train.sh demo --run-dir runs/mine --data.path runs/demo/packed_instructions --init.checkpoint runs/demo/pretrain
Four virtual devices on a laptop CPU: two minutes. The model only memorizes its few answers."""

from asclepius_jax.config import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LogConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)

config = TrainConfig(
    run_dir="runs/demo/instruct",
    model="demo",
    data=DataConfig(path="runs/demo/packed_instructions", row_length=864, epochs=24),
    batch=BatchConfig(global_batch=4),
    mesh=MeshConfig(data=1, fsdp=2, tensor=2),
    compute=ComputeConfig(dtype="float32", remat="none"),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_fraction=0.1, beta2=0.98),
    checkpoint=CheckpointConfig(every_steps=100, keep=1),
    log=LogConfig(every_steps=20),
)
