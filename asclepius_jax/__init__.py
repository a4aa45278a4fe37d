"""Train clinical language models in JAX, from packed rows to an exported Hugging Face folder.

Names are imported on first use, so that `import asclepius_jax` is fast:

    import asclepius_jax as asc

    rows = asc.load_rows("data/packed/notes")
    step = asc.make_step(asc.TrainConfig(model="demo", batch=asc.BatchConfig(8)), rows=rows)
    state = step.init()
    for number in range(3):
        state, metrics = step(state, step.batch(number))
    asc.export(step.save(state, "runs/mine"), "models/mine")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asclepius_jax.config import BatchConfig as BatchConfig
    from asclepius_jax.config import DataConfig as DataConfig
    from asclepius_jax.config import LoraConfig as LoraConfig
    from asclepius_jax.config import MeshConfig as MeshConfig
    from asclepius_jax.config import OptimizerConfig as OptimizerConfig
    from asclepius_jax.config import TrainConfig as TrainConfig
    from asclepius_jax.config import load_config as load_config
    from asclepius_jax.convert.export_hf import export as export
    from asclepius_jax.generate.load import load_checkpoint as load_checkpoint
    from asclepius_jax.train.loop import train as train
    from asclepius_jax.train.setup import build_model as build_model
    from asclepius_jax.train.setup import load_rows as load_rows
    from asclepius_jax.train.setup import make_step as make_step

__version__ = "0.1.0"

MODULES = {
    "config": (
        "BatchConfig",
        "DataConfig",
        "LoraConfig",
        "MeshConfig",
        "OptimizerConfig",
        "TrainConfig",
        "load_config",
    ),
    "convert.export_hf": ("export",),
    "generate.load": ("load_checkpoint",),
    "train.setup": ("build_model", "load_rows", "make_step"),
}  # fmt: skip
WHERE = {name: f"{__name__}.{module}" for module, names in MODULES.items() for name in names}

__all__ = [
    "BatchConfig",
    "DataConfig",
    "LoraConfig",
    "MeshConfig",
    "OptimizerConfig",
    "TrainConfig",
    "__version__",
    "build_model",
    "export",
    "load_checkpoint",
    "load_config",
    "load_rows",
    "make_step",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "train":  # a callable package, see its docstring
        return importlib.import_module(f"{__name__}.train")
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
