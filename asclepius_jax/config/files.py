"""Config files: where they are, and how their values are loaded."""

import difflib
import runpy
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from asclepius_jax.config.schema import TrainConfig
from data_prep.contract.errors import UserError


def shipped(name: str) -> Path:
    """The folder `configs` or `launch`, which is inside the package in a wheel and next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


@dataclass(frozen=True)
class InitFolder:
    """Copy the configs and launch scripts into a folder, to edit them."""

    folder: tyro.conf.Positional[Path]
    """Folder for `configs/` and `launch/`; created if missing."""


def init_folder(options: InitFolder) -> None:
    names = ("configs", "launch")
    for name in names:
        if (options.folder / name).exists():
            raise UserError(f"{options.folder / name} exists already: choose another folder, or remove it")
    for name in names:
        shutil.copytree(shipped(name), options.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"configs and launch scripts are in {options.folder}. There: asclepius train instruct_7b --help")


def find_config(name: str) -> Path:
    """Find a config file by path or by name, first in `./configs` and then in the package.

    Raises UserError if there is none.
    """
    if (path := Path(name)).is_file():
        return path
    by_name = path.parent == Path()
    folders = [Path("configs"), shipped("configs")] if by_name else [path.parent]
    for folder in folders:
        if by_name and (file := (folder / path).with_suffix(".py")).is_file():
            return file
    known = sorted({file.stem if by_name else str(file) for folder in folders for file in folder.glob("*.py")})
    near = difflib.get_close_matches(name, known, 1) or known
    raise UserError(f"{name}: no such config file" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def load_config(name: str | Path) -> TrainConfig:
    """Load the variable `config` of a config file, by path or by name (see `find_config`).

    Raises UserError if the file is missing, fails or does not set a TrainConfig.
    """
    file = find_config(path := str(name))
    sys.path.insert(0, str(file.parent))  # a config may import another one from its folder
    try:
        found = runpy.run_path(str(file)).get("config")
    except Exception as error:
        raise UserError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, TrainConfig):
        raise UserError(f"{path} does not set `config = TrainConfig(...)`: add it")
    return found
