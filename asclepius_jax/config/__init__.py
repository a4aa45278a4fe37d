"""Settings of a training run: their schema and defaults, config files, and checks."""

from asclepius_jax.config.checks import check, check_values, divisors
from asclepius_jax.config.files import InitFolder, find_config, init_folder, load_config, shipped
from asclepius_jax.config.schema import (
    LORA_TARGETS,
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    HealthConfig,
    InitConfig,
    LogConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    PreferenceConfig,
    TrainConfig,
)

__all__ = [
    "LORA_TARGETS",
    "BatchConfig",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "EvalConfig",
    "HealthConfig",
    "InitConfig",
    "InitFolder",
    "LogConfig",
    "LoraConfig",
    "MeshConfig",
    "OptimizerConfig",
    "PreferenceConfig",
    "TrainConfig",
    "check",
    "check_values",
    "divisors",
    "find_config",
    "init_folder",
    "load_config",
    "shipped",
]
