"""The one trainer, and, when called, its training run: `asclepius_jax.train(config)` is `loop.train(config)`.

Importing any module of this folder makes the folder itself the attribute `asclepius_jax.train`, which would hide a
function of that name. Therefore the folder can be called.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class Trainer(ModuleType):
    def __call__(self, config: Any, devices: Any = None) -> Path:
        from asclepius_jax.train.loop import train

        return train(config, devices)


sys.modules[__name__].__class__ = Trainer
