"""Instruction-tune all parameters of SmolLM2 135M on packed instructions, on a CPU.

asclepius pack --source data/instructions --out data/packed/smollm2 --tokenizer HuggingFaceTB/SmolLM2-135M \\
    --row-length 1024
launch/train.sh instruct_smollm2_135m --data.path data/packed/smollm2
Two CPU cores: 8 GB, 166 tokens per second, 15 minutes for three epochs of the 48 rows from the demo reports."""

from asclepius_jax.config import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LogConfig,
    OptimizerConfig,
    TrainConfig,
)

config = TrainConfig(
    run_dir="runs/instruct_smollm2_135m",
    model="smollm2_135m",
    init=InitConfig(hf="HuggingFaceTB/SmolLM2-135M"),
    data=DataConfig(row_length=1024, epochs=3),
    batch=BatchConfig(global_batch=4),
    compute=ComputeConfig(dtype="float32"),
    optimizer=OptimizerConfig(learning_rate=2e-4),
    checkpoint=CheckpointConfig(every_steps=100),
    log=LogConfig(every_steps=1),
)
