"""The trainer. This module can be called: `asclepius_jax.train(config)` is `loop.train(config)`.

Importing any module of this package sets the attribute `asclepius_jax.train` to the package itself, which would hide
a function of that name. The package is therefore callable.
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
