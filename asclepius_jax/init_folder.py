"""`asclepius init FOLDER`: the configs and launch scripts of the package, copied to be edited."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from asclepius_jax.config import shipped
from data_prep.records import UserError

FOLDERS = ("configs", "launch")


@dataclass(frozen=True)
class InitFolder:
    """Copy the configs and launch scripts into a folder, to edit them."""

    folder: tyro.conf.Positional[Path]
    """Folder to write `configs/` and `launch/` into; it is made if it does not exist."""


def run(config: InitFolder) -> None:
    for name in FOLDERS:
        if (config.folder / name).exists():
            raise UserError(f"{config.folder / name} exists already: choose another folder, or remove it")
    for name in FOLDERS:
        shutil.copytree(shipped(name), config.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"configs and launch scripts are in {config.folder}. There: asclepius train instruct_7b --help")
