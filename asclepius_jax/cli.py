"""`asclepius SUBCOMMAND`: parse, load, call. A stage is imported only when it runs."""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tyro

from data_prep.records import UserError


@dataclass(frozen=True)
class Command:
    summary: str
    module: str
    config: str
    function: str
    extra: str  # of the package; what to install where an import fails


COMMANDS = {
    "notes": Command("case reports to synthetic notes", "data_prep.notes", "NotesConfig", "run", "prep"),
    "instructions": Command(
        "notes to instruction-answer pairs", "data_prep.instructions", "InstructionsConfig", "run", "prep"
    ),
    "pack": Command("notes or pairs to packed rows", "data_prep.pack", "PackConfig", "run", "prep"),
    "train": Command("pretrain or tune on packed rows", "asclepius_jax.train.loop", "", "train", "train"),
    "import": Command(
        "Hugging Face folder to checkpoint", "asclepius_jax.export", "ImportConfig", "run_import", "train"
    ),
    "export": Command(
        "checkpoint to Hugging Face folder", "asclepius_jax.export", "ExportConfig", "run_export", "train"
    ),
    "generate": Command("ask a checkpoint", "asclepius_jax.generate", "GenerateConfig", "run", "train"),
    "demo": Command("the whole pipeline, small, on this machine", "asclepius_jax.demo", "DemoConfig", "run", "dev"),
}


def main() -> None:
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    try:
        dispatch(arguments[0], arguments[1:])
    except Exception as error:
        message = explain(error, arguments[0])
        if debug or message is None:
            raise
        print(f"asclepius {arguments[0]}: {message}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    lines = [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Train clinical language models that can be shared.",
            "",
            "usage: asclepius SUBCOMMAND [--debug] ...        asclepius SUBCOMMAND --help shows every setting",
            "",
            *lines,
        ]
    )


def dispatch(name: str, arguments: list[str]) -> None:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise UserError(f"no such subcommand; {f'is it {near[0]}?' if near else 'one of ' + ', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if name == "train":
        train(command, arguments)
        return
    if name == "demo":
        # The demo's mesh is made of virtual devices, which must be asked for before JAX starts.
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    module = importlib.import_module(command.module)
    config = tyro.cli(getattr(module, command.config), prog=f"asclepius {name}", args=arguments)
    getattr(module, command.function)(config)


def train(command: Command, arguments: list[str]) -> None:
    """`asclepius train CONFIG [--section.field value ...]`: the file gives the values, flags edit them."""
    from asclepius_jax.config import TrainConfig, load_config

    file = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if file is None and not {"-h", "--help"} & set(arguments):
        raise UserError("name a config file first, such as configs/demo.py")
    default = TrainConfig() if file is None else load_config(file)
    flags = arguments if file is None else arguments[1:]
    config = tyro.cli(TrainConfig, prog="asclepius train CONFIG", default=default, args=flags)
    join_job()
    module = importlib.import_module(command.module)
    run: Callable[[Any], Any] = getattr(module, command.function)
    run(config)


def join_job() -> None:
    """Meet the other processes where Slurm, a TPU pod, Kubernetes or MPI started several; alone elsewhere."""
    import jax

    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # what JAX says where it finds no such job
            raise


def explain(error: Exception, name: str) -> str | None:
    """One line for what the user can mend, None for what only a programmer can."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and name in COMMANDS:
        extra = COMMANDS[name].extra
        return f"{error.name} is not installed: pip install 'asclepius-jax[{extra}]'"
    if os.strerror(errno.ENOSPC) in str(error):  # TensorStore wraps it in an error of its own
        return f"the disk is full: make room and run this again ({str(error).splitlines()[0][:200]})"
    files = FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError
    if isinstance(error, files) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    hf = sys.modules.get("asclepius_jax.model.hf")
    if hf is not None and isinstance(error, hf.FolderError):
        return str(error)
    return None
